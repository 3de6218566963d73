"""What is configured wrongly: at the start nothing serves, later the last good set does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.failures.serving import House, eventually, policies, refused_start, serving
from tests.failures.table import Row, rows

GOOD = policies({"rules": [{"to": [{"operation": {"methods": ["GET"]}}]}]})
BROKEN = GOOD.replace("methods", "metods")
CUSTOM = policies({"action": "CUSTOM", "provider": {"name": "rego"}, "rules": [{}]})
ALLOW = "package envoy.authz\n\ndefault allow := false\n\nallow if input.parsed_path\n"
PROVIDER = {"name": "rego", "rego": {"paths": ["allow.rego"], "timeoutSeconds": 5}}


def check_edit(row: Row, house: House, place: Path, broken: str | None, good: str) -> None:
    """Break a file under way: nothing changes but what is told, until it is good again."""
    assert row.answers(house.ask())
    if broken is None:
        place.unlink()
    else:
        place.write_text(broken)
    row.is_told(house)
    assert row.answers(house.ask())
    place.write_text(good)
    row.is_over(house)
    assert row.answers(house.ask())


@pytest.mark.failure("policies-edit-refused")
def test_an_edit_that_cannot_be_read(tmp_path: Path) -> None:
    """A misspelt field is a refusal with its place, and the last good set goes on."""
    row = rows()["policies-edit-refused"]
    with serving(tmp_path, {"policies.yaml": GOOD}) as house:
        check_edit(row, house, tmp_path / "policies.yaml", BROKEN, GOOD)
        eventually(house.records, lambda seen: any(is_refusal(each) for each in seen))


def is_refusal(record: Mapping[str, Any]) -> bool:
    """Return whether a record tells of a load that was refused."""
    return record.get("event") == "reload" and record["details"]["result"] == "refused"


@pytest.mark.failure("policies-gone")
def test_a_policy_file_that_is_gone(tmp_path: Path) -> None:
    """A deleted file is no empty policy set: it takes nothing away from what serves."""
    with serving(tmp_path, {"policies.yaml": GOOD}) as house:
        check_edit(rows()["policies-gone"], house, tmp_path / "policies.yaml", None, GOOD)


@pytest.mark.failure("rego-edit-refused")
@pytest.mark.parametrize(
    "broken", [ALLOW + "allow if {", ALLOW + 'allow if http.send({"url": "http://x"})\n']
)
def test_an_edit_of_rego_that_does_not_load(tmp_path: Path, broken: str) -> None:
    """Rego that does not parse, or asks for the network, is refused; the last good one serves."""
    files = {"policies.yaml": CUSTOM, "allow.rego": ALLOW}
    with serving(tmp_path, files, providers=[PROVIDER]) as house:
        check_edit(rows()["rego-edit-refused"], house, tmp_path / "allow.rego", broken, ALLOW)


@pytest.mark.failure("configuration-wrong")
def test_a_configuration_that_is_wrong(tmp_path: Path) -> None:
    """An unknown key ends the start, with its line and the nearest known key."""
    (tmp_path / "meshwarden.yaml").write_text("listen:\n  grcp: 127.0.0.1:0\n")

    said = refused_start(tmp_path)

    assert "meshwarden.yaml:2" in said
    assert "grpc" in said
    assert not (tmp_path / "audit").exists()


@pytest.mark.failure("policies-wrong-at-start")
def test_policies_that_are_wrong_at_the_start(tmp_path: Path) -> None:
    """There is no last good set, so nothing listens, and every finding is told."""
    (tmp_path / "policies.yaml").write_text(BROKEN + "---\n" + BROKEN)
    (tmp_path / "meshwarden.yaml").write_text(
        "listen: {grpc: '127.0.0.1:0', http: '127.0.0.1:0'}\npolicies: {paths: [policies.yaml]}\n"
    )

    said = refused_start(tmp_path)

    assert said.count("policies.yaml:") >= 2
    assert "metods" in said
