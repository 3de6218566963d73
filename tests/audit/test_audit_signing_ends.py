"""A log that is signed no more: said by who has the key, or found to be missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from audit_records import make_record
from click.testing import CliRunner

from audit.chain import ChainState, link_line, list_segments, parse_line
from audit.commands import render_report
from audit.open_log import OpenLog
from audit.settings import AuditSettings
from audit.signed_note import NoteVerifier, load_signer, new_private_key
from audit.signing_end import end_signing
from audit.verify import verify_folder
from authz.commands.audit import audit_group
from tests.waiting import until

_NAME = "example.org/log"
_Write = Callable[..., None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of the log."""
    return tmp_path / "log"


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, Path]:
    """The files of two keys."""
    found = {name: tmp_path / f"{name}.pem" for name in ("one", "two")}
    for path in found.values():
        path.write_bytes(new_private_key())
    return found


@pytest.fixture
def write(folder: Path) -> _Write:
    """A function that writes decisions of some numbers, signed with a key or not."""

    def write(numbers: range, key: Path | None = None) -> None:
        settings = AuditSettings(
            folder=folder,
            max_segment_bytes=4096,
            checkpoint_key_file=key,
            checkpoint_origin=_NAME if key else "",
        )
        log = OpenLog(settings, node="front")
        for number in numbers:
            log.writer.offer(make_record(number))
        until(lambda: log.writer.waiting == 0)
        log.close()

    return write


def _verifier(key: Path) -> NoteVerifier:
    return load_signer(key, _NAME).verifier


def _label(key: Path) -> str:
    return "+".join(str(_verifier(key)).split("+")[:2])


def _signed_lines(folder: Path, key: Path) -> int:
    return verify_folder(folder, verifier=_verifier(key)).signed_lines


@pytest.mark.parametrize("is_said", [True, False])
def test_signing_that_was_switched_off_breaks_no_line(
    folder: Path, keys: dict[str, Path], write: _Write, is_said: bool
) -> None:
    """It is one finding, which tells from where on nothing is signed, and whether that was said."""
    write(range(20), keys["one"])
    if is_said:
        end_signing(folder, keys["one"], _NAME, node="front")
    signed = _signed_lines(folder, keys["one"])
    write(range(20, 40))
    report = verify_folder(folder, verifier=_verifier(keys["one"]))
    (found,) = report.problems
    assert report.is_only_unsigned
    assert found.what.startswith(f"lines {signed + 1} to ")
    assert (f"a signed `signing_ended` at line {signed} says so" in found.what) is is_said
    assert ("or checkpoints were taken away" in found.what) is not is_said
    assert report.signed_by == ((_label(keys["one"]), 1, signed),)
    ended = [each for each in report.notes if "not signed: signing was ended" in each]
    assert bool(ended) is is_said
    text = render_report(report)
    assert f"chain intact, signed up to line {signed}, SIGNATURES MISSING in 1 place" in text
    assert f"signed by {_label(keys['one'])}: lines 1 to {signed}" in text


def test_end_of_signing_that_nobody_signed_is_not_believed(
    folder: Path, keys: dict[str, Path], write: _Write
) -> None:
    """Who takes checkpoints away and writes what follows anew cannot say that signing was ended."""
    write(range(40), keys["one"])
    segments = list_segments(folder)
    kept = segments[2][0]
    for number, path in segments:
        if number > kept:
            path.with_suffix(".checkpoint").unlink()
            path.with_suffix(".frontier").unlink()
    state = ChainState()
    for number, path in segments:
        lines = []
        for place, raw in enumerate(path.read_bytes().splitlines(keepends=True)):
            line = parse_line(raw)
            document = {
                key: value
                for key, value in line.document.items()
                if key not in {"seq", "prev", "hash"}
            }
            if number == kept + 1 and place == 1:
                document = {"kind": "event", "event": "signing_ended", "details": {}}
            made, state = link_line(state, document)
            lines.append(made)
        path.write_bytes(b"".join(lines))
    (found,) = verify_folder(folder, verifier=_verifier(keys["one"])).problems
    assert "no signed `signing_ended` says why" in found.what


@pytest.mark.parametrize("is_said", [True, False])
def test_signing_that_begins_again_signs_for_what_stands_there_then(
    folder: Path, keys: dict[str, Path], write: _Write, is_said: bool
) -> None:
    """Where its end was said it is no finding any more; a note tells of it."""
    write(range(20), keys["one"])
    if is_said:
        end_signing(folder, keys["one"], _NAME, node="front")
    signed = _signed_lines(folder, keys["one"])
    write(range(20, 40))
    write(range(40, 60), keys["two"])
    both = replace(_verifier(keys["two"]), former=(_verifier(keys["one"]),))
    report = verify_folder(folder, verifier=both)
    assert (report.intact, report.is_only_unsigned) == (is_said, not is_said)
    texts = [*report.notes, *(each.what for each in report.problems)]
    assert any("were not signed at the time, but as they stood at line" in each for each in texts)
    spans = ((_label(keys["one"]), 1, signed), (_label(keys["two"]), signed + 1, report.last_seq))
    assert report.signed_by == spans


@pytest.mark.parametrize("known", ["one", "two"])
def test_key_that_was_not_given_is_named_and_no_checkpoint_is_called_missing(
    folder: Path, keys: dict[str, Path], write: _Write, known: str
) -> None:
    """After a rotation each key alone leaves the other's checkpoints unproven, and says whose."""
    write(range(20), keys["one"])
    write(range(20, 40), keys["two"])
    other = "two" if known == "one" else "one"
    report = verify_folder(folder, verifier=_verifier(keys[known]))
    assert report.is_only_unsigned
    assert all(_label(keys[other]) in each.what for each in report.problems)
    assert "SIGNATURES MISSING" in render_report(report)
    newest = list_segments(folder)[-2][1]
    newest.write_bytes(newest.read_bytes().replace(b"orders", b"0rders", 1))
    assert "BROKEN" in render_report(verify_folder(folder, verifier=_verifier(keys[known])))


def test_end_of_signing_is_said_by_the_command(
    folder: Path, keys: dict[str, Path], write: _Write
) -> None:
    """The command signs for the last time; a log that was never signed is refused."""
    write(range(3))
    asked = ["end-signing", str(folder), str(keys["one"]), "--origin", _NAME]
    refused = CliRunner().invoke(audit_group, asked)
    assert (refused.exit_code, "was never signed" in refused.output) == (2, True)
    write(range(3, 6), keys["one"])
    done = CliRunner().invoke(audit_group, asked)
    assert (done.exit_code, "signed for the last time" in done.output) == (0, True)
    report = verify_folder(folder, verifier=_verifier(keys["one"]))
    assert (report.problems, report.signed_lines) == ((), report.lines)
