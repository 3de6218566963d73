"""What the record promises, seen by a real Envoy: full disk, dead service, nothing left out."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from recorded_by_envoy import Recorded, recorded

from audit.access_log import AccessLogs
from audit.chain import ChainState, link_line, list_segments, parse_line, read_raw_lines
from audit.commands import EXIT_BROKEN, EXIT_INTACT, run_verify
from audit.reader import read_records
from audit.verify import verify_folder

sys.path.insert(0, str(Path(__file__).parents[1] / "audit"))
from decision_log_service import HANG, Service, serving

from tests.waiting import until

pytestmark = pytest.mark.envoy

MODES = ("strict", "spill", "best-effort")
_ALLOWED, _UNRECORDED = 200, 503


@contextmanager
def _small_disk(folder: Path, size: str) -> Iterator[None]:
    """Mount a disk of that size; skipped where this user may not."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"a tmpfs cannot be mounted: {made.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _fill(folder: Path) -> Path:
    """Take all that is left of the disk; the file to remove to free it."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        for step in (65536, 4096):
            try:
                while True:
                    file.write(bytes(step))
            except OSError:
                continue
    return path


def _recorded_ids(log: Path) -> set[str]:
    return {document["decision_id"] for document in read_records(log)}


def _dropped(log: Path) -> int:
    events = read_records(log, kinds=("event",))
    return sum(e["details"]["records"] for e in events if e["event"] == "dropped")


def _allowed_ids(envoy: Recorded) -> list[str]:
    lines = envoy.logged()
    return [line["decision_id"] for line in lines if line["status"] == _ALLOWED]


@pytest.mark.failure("record-disk-full")
@pytest.mark.parametrize("mode", MODES)
def test_full_disk(short_path: Path, mode: str) -> None:
    """On a full disk `strict` and `spill` deny, `best-effort` lets pass; freed, all go on."""
    log = short_path / "disk" / "log"
    audit = {"folder": str(log), "mode": mode, "retryMilliseconds": 50, "queueSize": 20,
             "queueWaitMilliseconds": 5000}  # fmt: skip
    with _small_disk(short_path / "disk", "256k"):
        with recorded(short_path, audit) as envoy:
            assert [envoy.ask() for _ in range(5)] == [_ALLOWED] * 5
            filler = _fill(short_path / "disk")
            full = [envoy.ask(path=f"/{at}") for at in range(60)]
            if mode == "best-effort":
                assert set(full) == {_ALLOWED}
            else:
                assert full[-1] == _UNRECORDED
                assert set(full) <= {_ALLOWED, _UNRECORDED}
            filler.unlink()
            until(lambda: envoy.ask() == _ALLOWED)
            allowed = _allowed_ids(envoy)
            unrecorded = [each for each in envoy.logged() if each["status"] == _UNRECORDED]
        assert {each["reason"] for each in unrecorded} <= {"audit_unavailable"}
        missing = set(allowed) - _recorded_ids(log)
        assert len(missing) <= (_dropped(log) if mode == "best-effort" else 0)
        assert bool(missing) == (mode == "best-effort")
        assert verify_folder(log).problems == ()


@pytest.mark.failure("record-upload-dead")
@pytest.mark.parametrize("mode", MODES)
def test_dead_upload_service(short_path: Path, mode: str) -> None:
    """With nobody to upload to, and one who hangs, every mode answers; back, all is uploaded."""
    log = short_path / "log"
    with serving(Service()) as gone:
        pass
    upload = {"name": "dl", "url": gone.url, "delayMilliseconds": 0, "timeoutSeconds": 0.5,
              "minRetrySeconds": 0.02, "maxRetrySeconds": 0.05}  # fmt: skip
    audit = {"folder": str(log), "mode": mode, "queueSize": 20, "queueWaitMilliseconds": 5000,
             "sinks": {"uploads": [upload]}}  # fmt: skip
    with recorded(short_path, audit) as envoy:
        assert {envoy.ask(path=f"/{at}") for at in range(60)} == {_ALLOWED}
        gone.let_go.clear()
        gone.answers.extend([HANG, 500])
        with serving(gone):
            assert {envoy.ask(path=f"/{at}") for at in range(60)} == {_ALLOWED}
            gone.wait(lambda: len(gone.events()) >= envoy.asked)
            allowed = _allowed_ids(envoy)
    assert [event["decision_id"] for event in gone.events()] == allowed
    assert _recorded_ids(log) == set(allowed)
    assert verify_folder(log).problems == ()


def _without(log: Path, decision_id: str) -> None:
    """Write the log anew without one decision: a chain of which nothing shows by itself."""
    state = ChainState()
    for _, path in list_segments(log):
        lines = []
        for raw in read_raw_lines(path):
            document: dict[str, Any] = parse_line(raw).document
            if document.get("decision_id") != decision_id:
                facts = {k: v for k, v in document.items() if k not in {"seq", "prev", "hash"}}
                if "first_seq" in facts:
                    facts["first_seq"] = state.seq + 1
                line, state = link_line(state, facts)
                lines.append(line)
        path.write_bytes(b"".join(lines))


def test_record_is_complete_against_envoys_access_log(short_path: Path) -> None:
    """Envoy's own log names what was decided; a decision taken out of the record is named."""
    log = short_path / "log"
    with recorded(short_path, {"folder": str(log), "maxSegmentBytes": 8192}) as envoy:
        for at in range(40):
            envoy.ask("GET" if at % 3 else "PUT", f"/{at}?decision_id={'0' * 32}")
        lines = envoy.logged()
    out = io.StringIO()
    assert run_verify(log, out, access_logs=_loaded(envoy.access_log)) == EXIT_INTACT
    assert "against the access log: complete" in out.getvalue()
    taken = lines[17]
    _without(log, taken["decision_id"])
    assert verify_folder(log).problems == ()
    out = io.StringIO()
    assert run_verify(log, out, access_logs=_loaded(envoy.access_log)) == EXIT_BROKEN
    assert f"access.log:18: not on record (decision {taken['decision_id']})" in out.getvalue()
    assert out.getvalue().count("not on record") == 1


def _loaded(path: Path) -> AccessLogs:
    logs = AccessLogs()
    logs.load(path)
    return logs


_SECRETS = {
    "header": "s3cr3t-header-{}",
    "cookie": "s3cr3t-cookie-{}",
    "bearer": "eyJhbGciOiJub25lIn0.eyJzM2NyM3QiOiJ0b2tlbiJ9.s3cr3ttoken{}",
    "query": "s3cr3t-query-{}",
    "body": "s3cr3t-body-{}",
}


def test_secrets_of_many_requests_are_written_nowhere(short_path: Path) -> None:
    """Secrets in headers, cookies, tokens, queries and bodies stand in no file and no upload."""
    log = short_path / "log"
    with serving(Service()) as service:
        upload = {"name": "dl", "url": service.url, "delayMilliseconds": 50}
        audit = {"folder": str(log), "sinks": {"uploads": [upload]}, "maxSegmentBytes": 1 << 20}
        with recorded(short_path, audit) as envoy:
            for at in range(300):
                secret = {name: text.format(at) for name, text in _SECRETS.items()}
                envoy.ask(
                    "POST" if at % 2 else "GET",
                    f"/pay/{at}?access_token={secret['query']}&page=2",
                    headers={
                        "authorization": f"Bearer {secret['bearer']}",
                        "x-api-key": secret["header"],
                        "cookie": f"session={secret['cookie']}",
                        "referer": f"https://shop/?password={secret['query']}",
                    },
                    content=json.dumps({"password": secret["body"]}),
                )
    assert len(service.events()) == 300
    import gzip

    texts = [gzip.decompress(body) for body in service.bodies]
    files = [path for path in log.rglob("*") if path.is_file()]
    texts += [path.read_bytes() for path in files]
    assert len(texts) > 3
    for text in texts:
        assert b"s3cr3t" not in text
