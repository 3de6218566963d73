"""Envoy's access log as the second witness of what was decided."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from audit.access_log import AccessLogs
from audit.chain import list_segments
from audit.commands import run_verify
from audit.errors import AuditReadError

_FORMS = {
    "json": lambda found: json.dumps({"path": "/", "ext": {"decision_id": found}}),
    "spaced": lambda found: f'{{"decision_id": "{found}"}}',
    "text": lambda found: f"[2026] GET / 200 decision_id={found} -",
    "quoted": lambda found: f'GET / decision_id="{found}"',
}


def _write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def _loaded(path: Path, **options: str) -> AccessLogs:
    logs = AccessLogs(**options)
    logs.load(path)
    return logs


@pytest.mark.parametrize("form", _FORMS)
def test_complete_record_is_complete(log: Path, tmp_path: Path, form: str) -> None:
    """Every decision that the access log names stands in the record, whatever the format."""
    lines = [_FORMS[form](f"{number:032x}") for number in range(40)]
    logs = _loaded(_write(tmp_path / "access.log", lines))
    out = io.StringIO()
    assert run_verify(log, out, access_logs=logs) == 0
    assert "against the access log: complete" in out.getvalue()
    assert "40 of 40 decisions it names are on record" in out.getvalue()


def test_missing_record_is_named(log: Path, tmp_path: Path) -> None:
    """A decision that only Envoy knows of is located by the access log's file and line."""
    lines = [_FORMS["json"](f"{number:032x}") for number in (0, 1, 99, 2)]
    logs = _loaded(_write(tmp_path / "access.log", lines))
    out = io.StringIO()
    assert run_verify(log, out, access_logs=logs) == 1
    assert f"access.log:3: not on record (decision {99:032x})" in out.getvalue()
    assert "INCOMPLETE, 1 decision missing" in out.getvalue()


def test_record_cut_off_the_end_is_missed(log: Path, tmp_path: Path) -> None:
    """What no chain shows, lines cut off the very end, the access log does."""
    path = list_segments(log)[-1][1]
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-2]))
    lines = [_FORMS["text"](f"{number:032x}") for number in range(40)]
    logs = _loaded(_write(tmp_path / "access.log", lines))
    assert run_verify(log, io.StringIO(), access_logs=logs) == 1
    assert [found.line for found in logs.missing()] == [40]


def test_several_records_answer_for_one_envoy(
    log: Path, tmp_path: Path, open_writer, record
) -> None:
    """A decision may stand in the record of any of the authorizers behind an Envoy."""
    writer = open_writer(folder=tmp_path / "other")
    writer.offer(record(77))
    writer.close()
    path = _write(tmp_path / "access.log", [_FORMS["json"](f"{number:032x}") for number in (5, 77)])
    assert run_verify(log, io.StringIO(), access_logs=_loaded(path)) == 1
    also = [tmp_path / "other"]
    assert run_verify(log, io.StringIO(), also=also, access_logs=_loaded(path)) == 0


def test_a_log_that_names_no_decision_compares_nothing(log: Path, tmp_path: Path) -> None:
    """A format without the id, or another file, is not taken for a complete one; no line is."""
    for lines, code, verdict in (
        (["GET / 200", '{"decision_id":null}'], 1, "NOT COMPARED"),
        ([], 0, "complete"),
        ([_FORMS["json"](f"{1:032x}"), "GET / -"], 0, "complete"),
    ):
        out = io.StringIO()
        logs = _loaded(_write(tmp_path / "a", lines))
        assert run_verify(log, out, access_logs=logs) == code
        assert f"against the access log: {verdict}" in out.getvalue()


def test_fault_in_place_of_a_record_counts(tmp_path: Path, open_writer, record) -> None:
    """A decision whose record could only be written as a fault is on record."""
    writer = open_writer()
    writer.offer(record(1, decided_at="no time"))
    writer.close()
    logs = _loaded(_write(tmp_path / "access.log", [_FORMS["json"](f"{1:032x}")]))
    assert run_verify(tmp_path / "log", io.StringIO(), access_logs=logs) == 0


def test_client_cannot_hide_or_forge_an_id(tmp_path: Path) -> None:
    """An id in a path counts not at all in JSON, and in text never in place of Envoy's own."""
    ours, theirs = f"{1:032x}", f"{2:032x}"
    paths = [f"/?decision_id={theirs}", f'/?"decision_id":"{theirs}"']
    for path in paths:
        logs = _loaded(_write(tmp_path / "a", [json.dumps({"path": path, "decision_id": ours})]))
        assert [found.decision_id for found in logs.missing()] == [ours]
        logs = _loaded(_write(tmp_path / "a", [f"GET {path} decision_id={ours}"]))
        assert ours in [found.decision_id for found in logs.missing()]


def test_lines_without_an_id_are_told(tmp_path: Path) -> None:
    """Requests without a decision are counted and the first is located; blank lines are not."""
    lines = ["", '{"decision_id":null}', "GET / decision_id=-", f"decision_id={1:032x}"]
    logs = _loaded(_write(tmp_path / "a", lines))
    assert (logs.lines, logs.without_id, logs.named) == (3, 2, 1)
    assert "the first is a:2" in logs.notes()[1]


def test_other_field_and_odd_files(tmp_path: Path) -> None:
    """The field's name is the operator's; overlong lines and bytes of any kind are read over."""
    path = tmp_path / "a"
    path.write_bytes(b"\xff\x00" * (1 << 20) + f"\nid.x: {1:032x}\n".encode())
    logs = _loaded(path, field_name="id.x")
    assert [(found.line, found.decision_id) for found in logs.missing()] == [(2, f"{1:032x}")]
    with pytest.raises(AuditReadError):
        _loaded(tmp_path / "nowhere")
