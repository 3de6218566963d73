"""What the command line calls: verify a log, prove a line. Texts go to `out`, never to a logger."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, TextIO

from audit.access_log import AccessLogs
from audit.beginning import tree_before
from audit.chain import list_segments, parse_line, read_raw_lines
from audit.checkpoint import prove_inclusion, read_checkpoint
from audit.checkpoint_files import checkpoint_name
from audit.errors import AuditReadError, CheckpointError
from audit.logs import find_all_logs, find_logs
from audit.signed_note import NoteVerifier
from audit.verify import VerifyReport, verify_folder

EXIT_INTACT: Final = 0
EXIT_BROKEN: Final = 1
_SHOWN: Final = 50


def run_verify(
    path: Path,
    out: TextIO,
    *,
    also: Sequence[Path] = (),
    verifier: NoteVerifier | None = None,
    kept: Sequence[Path] = (),
    access_logs: AccessLogs | None = None,
) -> int:
    """Write what is true of the log, and of others `also`, and return 0 (intact) or 1 (broken).

    Each worker's log is told on its own. `kept` are checkpoints of the first log that were kept
    elsewhere. What `access_logs` name must stand in any of the logs.

    Raises:
        AuditReadError: there is no log to verify (the command line exits with 2).
    """
    code = EXIT_INTACT
    for place, log in enumerate(find_all_logs((path, *also))):
        report = verify_folder(
            log,
            verifier=verifier,
            kept=() if place else kept,
            on_decision=access_logs.meet if access_logs is not None else None,
        )
        out.write(render_report(report))
        code = code if report.intact else EXIT_BROKEN
    if access_logs is not None:
        out.write(render_completeness(access_logs))
        code = EXIT_BROKEN if access_logs.missing_count or access_logs.is_blind else code
    return code


def render_completeness(logs: AccessLogs) -> str:
    """Return as text what Envoy's access logs name and the record does not hold."""
    count = logs.missing_count
    lines = [f"  note: {note}" for note in logs.notes()]
    verdict = f"INCOMPLETE, {_plural(count, 'decision')} missing" if count else "complete"
    if logs.is_blind:
        verdict = "NOT COMPARED, no line of it names a decision"
    shown = [
        f"  ✗ {found.file}:{found.line}: not on record (decision {found.decision_id})"
        for found, _ in zip(logs.missing(), range(_SHOWN), strict=False)
    ]
    more = [f"  … and {count - _SHOWN} more"] if count > _SHOWN else []
    return "\n".join([f"against the access log: {verdict}", *shown, *more, *lines]) + "\n"


def run_prove(log: Path, decision_id: str) -> tuple[bytes, str]:
    """Return a decision's line (without its end) and the proof that the log holds it.

    Raises:
        AuditReadError: there is no log, or no such decision in it.
        CheckpointError: no checkpoint covers the line, or the log is not what was signed.
    """
    if not log.is_dir():
        raise AuditReadError(f"`{log}` is no folder of a log")
    for chain in find_logs(log):
        found = _find_line(chain, decision_id)
        if found is not None:
            entry, seq = found
            return entry, _prove_line(chain, seq)
    raise AuditReadError(f"`{log}` holds no decision `{decision_id}`")


def _prove_line(log: Path, seq: int) -> str:
    """Return the proof by the first checkpoint that covers the line."""
    for number, _ in list_segments(log):
        file = log / checkpoint_name(number)
        if file.is_file() and read_checkpoint(file.read_bytes(), None).size >= seq:
            entries = (
                raw.removesuffix(b"\n")
                for _, path in list_segments(log)
                for raw in read_raw_lines(path)
            )
            before = tree_before(log, list_segments(log)[0][0])
            return prove_inclusion(entries, seq, file.read_bytes(), before=before).to_text()
    why = "its segment is not sealed, or `checkpointKeyFile` is not set"
    raise CheckpointError(f"no checkpoint covers the line at seq {seq} yet: {why}")


def _find_line(log: Path, decision_id: str) -> tuple[bytes, int] | None:
    wanted = f'"decision_id":"{decision_id}"'.encode()
    for _, path in list_segments(log):
        for raw in read_raw_lines(path):
            if wanted in raw:
                line = parse_line(raw)
                if line.document.get("decision_id") == decision_id:
                    return raw.removesuffix(b"\n"), line.seq
    return None


def render_report(report: VerifyReport) -> str:
    """Return the report as text: the verdict first, then each break, then notes."""
    lines = [
        f"{report.path}: {report.verdict}",
        f"  {_plural(report.lines, 'line')} in {_plural(report.segments, 'segment')}: "
        f"{_plural(report.decisions, 'decision')}, {_plural(report.events, 'event')}",
        f"  from {report.first_at or '?'} to {report.last_at or '?'}",
        f"  last hash {report.last_hash or '?'} at seq {report.last_seq}",
    ]
    if report.checkpoints:
        lines.append(
            f"  checkpoints: {report.checkpoints}, over the first {report.signed_lines} "
            f"of {_plural(report.removed_lines + report.lines, 'line')}"
        )
    lines += [
        f"  signed by {signer}: lines {first} to {last}" for signer, first, last in report.signed_by
    ]
    lines += [f"  ✗ {problem}" for problem in report.problems[:_SHOWN]]
    if report.problem_count > _SHOWN:
        lines.append(f"  … and {report.problem_count - _SHOWN} more")
    lines += [f"  note: {note}" for note in report.notes]
    return "\n".join(lines) + "\n"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
