"""`meshwarden audit query` and `tail` as a person calls them."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from audit.chain import ChainState, link_line, parse_line, segment_name
from authz.cli import main
from authz.commands.progress import showing_progress


def _document(number: int, **decision: Any) -> dict[str, Any]:
    return {
        "kind": "decision",
        "schema": 1,
        "decision_id": f"{number:032x}",
        "decided_at": f"2026-11-20T10:00:{number:02d}.000000Z",
        "node": "n",
        "peer": {"principal": f"spiffe://td/ns/a/sa/{'ab'[number % 2]}", "spiffe_id": None},
        "request": {"method": "GET", "host": "=1+1", "path": f"/orders/{number}?token=x"},
        "decision": {"effect": "deny", "policy": "shop/p", "rule": 0, "http_status": 403}
        | decision,
    }


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log of ten denials and one decision that allowed."""
    folder, state = tmp_path / "log", ChainState()
    folder.mkdir()
    with (folder / segment_name(1)).open("wb") as file:
        for number in range(11):
            changes = {"effect": "allow", "policy": None} if number == 10 else {}
            line, state = link_line(state, _document(number, **changes))
            file.write(line)
    return folder


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A log without a fault: a header and ten decisions."""
    folder = tmp_path / "whole"
    folder.mkdir()
    header = {"kind": "segment", "segment": 1, "log_id": "x", "created_at": "2026-11-20T00:00:00Z"}
    line, state = link_line(ChainState(), header)
    lines = [line]
    for number in range(10):
        line, state = link_line(state, _document(number))
        lines.append(line)
    (folder / segment_name(1)).write_bytes(b"".join(lines))
    return folder


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["audit", *map(str, arguments)])


def test_query_lists_what_is_asked_for(log: Path) -> None:
    """Options narrow the list, and a table says when it shows only the newest."""
    found = _run("query", log, "--decision", "deny", "--peer", "*/sa/a", "--limit", "2")
    assert found.exit_code == 0
    assert ["/orders/6?" in line or "/orders/8?" in line for line in found.stdout.splitlines()] == [
        True,
        True,
    ]
    assert "the newest 2 are shown" in found.stderr


def test_query_says_that_nothing_fits(log: Path) -> None:
    """An answer without a line is told to a person, and a decision that is none is refused."""
    found = _run("query", log, "--path", "/nowhere")
    assert (found.exit_code, found.stdout) == (0, "")
    assert "no decision on record fits" in found.stderr
    assert _run("query", log, "--path", "/nowhere", "--format", "json").stdout == ""
    assert _run("query", log, "--decision", "denied").exit_code == 2


def test_query_tells_what_it_leaves_out(whole: Path) -> None:
    """A record that was changed is told, each time it is asked; a whole one needs no word."""
    assert _run("query", whole).stderr == ""
    segment = whole / segment_name(1)
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(b"".join([*lines[:4], *lines[5:]]))
    for _ in range(2):
        found = _run("query", whole, "--by", "effect", "--format", "json")
        assert json.loads(found.stdout)["denied"] == 9
        assert f"`{segment}` is not as it was written" in found.stderr
        assert f"audit verify {whole}" in found.stderr


def test_query_counts(log: Path) -> None:
    """`--by` counts allowed and denied by columns, in every format."""
    rows = _run("query", log, "--by", "peer", "--format", "json", "--where", "seq > 1").stdout
    assert [json.loads(row)["denied"] for row in rows.splitlines()] == [4, 5]
    table = _run("query", log, "--by", "policy,effect").stdout.splitlines()
    assert table[1].split()[:4] == ["shop/p", "deny", "0", "10"]


def test_query_gives_csv_and_json(log: Path) -> None:
    """JSON is the documents as written; no cell of CSV is a formula."""
    documents = [json.loads(line) for line in _run("query", log, "--format", "json").stdout.split()]
    assert [each["seq"] for each in documents] == list(range(1, 12))
    rows = list(csv.DictReader(io.StringIO(_run("query", log, "--format", "csv").stdout)))
    assert rows[0]["host"] == "'=1+1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--where", "nope = 1"], "is no condition"),
        (["--by", "nope"], "is no column"),
        (["--since", "soon"], "is no time"),
    ],
)
def test_query_that_is_wrong_ends_with_2(log: Path, arguments: list[str], message: str) -> None:
    """What cannot be understood is said in one line, with exit code 2."""
    found = _run("query", log, *arguments)
    assert found.exit_code == 2
    assert message in found.stderr
    assert "Traceback" not in found.output


def test_tail_shows_the_newest(log: Path) -> None:
    """`tail -n` shows the last decisions as lines or as JSON, and tells of damage."""
    assert _run("tail", log, "-n", "2").stdout.count("\n") == 2
    path = log / segment_name(1)
    path.write_bytes(path.read_bytes().replace(b"/orders/10?", b"/orders/11?"))
    found = _run("tail", log, "-n", "1", "--format", "json")
    assert "DAMAGED" in found.stderr


def test_tail_follows_until_it_is_ended(log: Path) -> None:
    """`tail -f` shows a decision that is written later, and ends well on SIGINT."""
    command = [sys.executable, "-m", "authz.cli", "audit", "tail", "-f", "-n", "1", str(log)]
    last = (log / segment_name(1)).read_bytes().splitlines()[-1]
    state = ChainState(11, json.loads(last)["hash"])
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as tail:
        assert tail.stdout is not None
        assert "/orders/10?" in tail.stdout.readline()
        with (log / segment_name(1)).open("ab") as file:
            file.write(link_line(state, _document(30))[0])
        assert "/orders/30?" in tail.stdout.readline()
        tail.send_signal(signal.SIGINT)
        assert tail.wait(timeout=10) == 0


_POLICIES = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: web, namespace: shop}
spec:
  action: ALLOW
  rules:
    - from: [{source: {principals: [td/ns/a/sa/a, "*"]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: trial, namespace: shop, annotations: {istio.io/dry-run: "true"}}
spec: {action: ALLOW, rules: [{}]}
"""


def test_report_names_grants_that_nobody_used(log: Path, tmp_path: Path) -> None:
    """Grants come from policy files, those that are only tried left out."""
    policies = tmp_path / "policies.yaml"
    policies.write_text(_POLICIES)
    found = _run(
        "export", log, "--report", "granted-unused", "--format", "jsonl", "--policies", policies
    )
    rows = [json.loads(line) for line in found.stdout.splitlines()]
    assert [(row["policy"], row["use"], row["unused_principals"]) for row in rows] == [
        ("shop/web", "never", "td/ns/a/sa/a")
    ]
    assert rows[0]["place"].endswith("policies.yaml:8")


def test_export_is_whole_or_not_there(log: Path, tmp_path: Path) -> None:
    """A page of every section is written; what is wrong leaves no file behind."""
    page = tmp_path / "report.html"
    assert "11 decisions" in _run("export", log, "--format", "html", "-o", page).stderr
    assert "Access matrix" in page.read_text()
    other = tmp_path / "report.csv"
    found = _run("export", log, "--format", "csv", "--report", "controls", "integrity", "-o", other)
    assert found.exit_code == 2
    assert "one report at a time" in found.stderr
    assert not other.exists()
    assert "needs a file" in _run("export", log, "--format", "pdf").stderr


def test_a_manifest_vouches_for_an_export(whole: Path, tmp_path: Path) -> None:
    """With the key of the checkpoints an export can be told from any other, and from any log."""
    key, page, other = tmp_path / "key.pem", tmp_path / "decisions.csv", tmp_path / "other"
    verifier = _run("new-key", key, "--origin", "node/a").stdout.strip()
    signed = ("--signing-key", key, "--origin", "node/a")
    assert _run("export", whole, "--format", "csv", *signed).exit_code == 2
    done = _run("export", whole, "--format", "csv", "-o", page, "--since", "2026-11-20", *signed)
    assert "signed by `node/a`" in done.stderr
    good = _run("verify-export", page, "--key", verifier, "--log", whole)
    assert good.exit_code == 0
    assert "log whole 11 " in good.stdout
    shutil.copytree(whole, other)
    segment = other / segment_name(1)
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(b"".join(lines[:-1]))
    found = _run("verify-export", page, "--key", verifier, "--log", other)
    assert (found.exit_code, "does not hold the 11 lines" in found.stdout) == (1, True)
    page.write_text(page.read_text().replace("deny", "deny "))
    assert "bytes long" in _run("verify-export", page, "--key", verifier).stdout
    stranger = _run("new-key", tmp_path / "stranger.pem", "--origin", "node/a").stdout.strip()
    assert _run("verify-export", page, "--key", stranger).exit_code == 1
    note = page.with_name(page.name + ".manifest")
    note.write_text(note.read_text().replace("2026-11-20", "2026-11-19"))
    assert _run("verify-export", page, "--key", verifier).exit_code == 1


def _record_fault(number: int) -> dict[str, Any]:
    details = {"why": "5000000 bytes long", "decision_id": f"{number:x}", "effect": "allow"}
    at = "2026-11-20T10:00:05.000000Z"
    return {"kind": "event", "schema": 1, "event": "record_fault", "at": at, "details": details}


def test_decisions_that_could_not_be_written_are_told_with_each_answer(whole: Path) -> None:
    """A query and an export say which decisions of the range are on record but in no answer."""
    segment = whole / segment_name(1)
    last = parse_line(segment.read_bytes().splitlines(keepends=True)[-1])
    state = last.state
    with segment.open("ab") as file:
        for number in range(12):
            line, state = link_line(state, _record_fault(number))
            file.write(line)
    for asked in (("query", whole), ("query", whole, "--by", "effect"), ("export", whole)):
        found = _run(*asked)
        assert found.exit_code == 0
        assert "decision 'b'" not in found.stderr
        told = "decision '3' ('allow') could not be written at '2026-11-20T10:00:05.000000Z'"
        assert f"{told}: '5000000 bytes long', and is in no answer" in found.stderr
        assert "and 2 more such records" in found.stderr
        assert "could not be written" not in _run(*asked, "--until", "2026-11-20T10:00:05Z").stderr


@pytest.mark.parametrize("has_file", [True, False])
def test_an_export_says_what_it_leaves_out(log: Path, tmp_path: Path, *, has_file: bool) -> None:
    """Lines that were changed are in no list of decisions, and that is said."""
    more = ("-o", tmp_path / "out.jsonl") if has_file else ()
    segment = log / segment_name(1)
    segment.write_bytes(segment.read_bytes().replace(b"/orders/3", b"/0rders/3"))
    found = _run("export", log, *more)
    assert (found.exit_code, "leaves out what cannot be trusted" in found.stderr) == (0, True)


def test_a_broken_record_is_signed_for_as_broken(log: Path, tmp_path: Path) -> None:
    """Whose record is broken can export it; the manifest says so, and no root."""
    key, page = tmp_path / "key.pem", tmp_path / "page.html"
    verifier = _run("new-key", key, "--origin", "n").stdout.strip()
    segment = log / segment_name(1)
    segment.write_bytes(segment.read_bytes().replace(b"/orders/3", b"/orders/4"))
    done = _run(
        "export", log, "--format", "html", "-o", page, "--signing-key", key, "--origin", "n"
    )
    assert done.exit_code == 0
    found = _run("verify-export", page, "--key", verifier)
    assert (found.exit_code, found.stdout.strip().endswith(" broken")) == (0, True)
    assert _run("verify-export", page, "--key", verifier, "--log", log).exit_code == 1


def test_index_makes_columns_beforehand(log: Path, tmp_path: Path) -> None:
    """What `index` made is what questions are answered from, beside the log or elsewhere."""
    own = tmp_path / "own"
    assert "1 sealed segments have columns" in _run("index", log).stderr
    assert _run("index", log, "--cache", own).exit_code == 0
    assert len(list((log / "columns").glob("*.parquet"))) == 1
    assert len(list(own.glob("*/*.parquet"))) == 1
    answers = [
        _run("query", log, "--format", "json", *options).stdout
        for options in ((), ("--cache", own), ("--no-cache",))
    ]
    assert answers[0] == answers[1] == answers[2] != ""
    assert _run("query", log, "--cache", own, "--no-cache").exit_code == 2


def test_index_waits_for_a_log_and_follows_it(log: Path, tmp_path: Path) -> None:
    """`index -f` waits for a log that is not there yet, and ends on a signal, with code 0."""
    later = tmp_path / "later"
    process = subprocess.Popen(
        [sys.executable, "-m", "authz.cli", "audit", "index", "-f", later],
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        assert b"waiting: " in process.stderr.readline()
        log.rename(later)
        until = time.monotonic() + 60
        while not list(later.glob("columns/*.parquet")) and time.monotonic() < until:
            time.sleep(0.05)
        assert list(later.glob("columns/*.parquet"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate()


def test_a_bar_is_shown_to_people_only(
    log: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a terminal, work that takes a while shows a bar; anywhere else nothing is written."""
    monkeypatch.setattr("authz.commands.progress._AFTER", 0.0)
    with showing_progress() as stage:
        stage("reading")(1, 2)
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    with showing_progress() as stage:
        stage("reading")(1, 2)
    assert "reading" in capsys.readouterr().err
    monkeypatch.setattr("authz.commands.progress._AFTER", 60.0)
    with showing_progress() as stage:
        stage("reading")(1, 2)
    assert capsys.readouterr().err == ""
