"""What the process log says of an exception that nobody expected."""

from __future__ import annotations

import json

import pytest
import structlog

from authz.logging_setup import set_up_logging
from authz.settings import LogSettings


def fail_with(token: str) -> None:
    """Fail while a secret is at hand."""
    kept = [token]
    raise LookupError(f"nothing among {len(kept)}")


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_trace_tells_places_and_no_values(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The function and the error are told; what a variable held, a token say, is not."""
    before = structlog.get_config()
    token = "".join(("eyJ", "hbGciOiJub25lIn0"))
    try:
        set_up_logging(LogSettings(format=form))
        log = structlog.get_logger("told")
        try:
            fail_with(token)
        except LookupError:
            log.exception("check_failed")
    finally:
        structlog.configure(**before)

    said = capsys.readouterr().err
    assert "fail_with" in said
    assert "nothing among 1" in said
    assert token not in said
    if form == "json":
        frames = json.loads(said)["exception"][0]["frames"]
        assert ["fail_with"] == [each["name"] for each in frames[-1:]]
        assert all("locals" not in each for each in frames)
