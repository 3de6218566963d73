"""Signing goes on after a change of the key or the name, and after a kill before the signature."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from audit_records import make_record

from audit.chain import list_segments, read_raw_lines
from audit.checkpoint_check import CheckpointCheck
from audit.checkpoint_files import frontier_bytes
from audit.errors import AuditFolderError
from audit.merkle import Frontier
from audit.open_log import OpenLog
from audit.settings import AuditSettings
from audit.signed_note import NoteVerifier, load_signer, new_private_key
from audit.verify import verify_folder
from tests.waiting import until

_NAME, _OTHER_NAME = "example.org/log", "example.org/renamed"
_Write = Callable[..., NoteVerifier]


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """The files of two keys."""
    for name in ("one", "two"):
        (tmp_path / f"{name}.pem").write_bytes(new_private_key())
    return tmp_path / "one.pem", tmp_path / "two.pem"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of the log."""
    return tmp_path / "log"


@pytest.fixture
def write(folder: Path, keys: tuple[Path, Path]) -> _Write:
    """A function that writes decisions of some numbers, and returns what checks the signatures."""

    def write(
        numbers: range, key: Path = keys[0], name: str = _NAME, **more: object
    ) -> NoteVerifier:
        settings = AuditSettings(
            folder=folder,
            max_segment_bytes=4096,
            checkpoint_key_file=key,
            checkpoint_origin=name,
            **more,
        )
        log = OpenLog(settings, node="front")
        for number in numbers:
            log.writer.offer(make_record(number))
        until(lambda: log.writer.waiting == 0)
        if more:
            until(lambda: log.keeper.removed > 2)
        log.close()
        return load_signer(key, name).verifier

    return write


def _unlink(folder: Path, number: int, *ends: str) -> None:
    for end in ends:
        (folder / f"audit-{number:08d}.{end}").unlink()


@pytest.mark.parametrize("other", ["key", "name"])
def test_a_log_goes_on_under_another_key_or_name(
    folder: Path, keys: tuple[Path, Path], write: _Write, other: str
) -> None:
    """What was retained away needs its key no more to go on from, and does to be verified."""
    then = write(range(60), retention={"max_bytes": 9_000})
    now = write(range(60, 80), keys[other == "key"], _OTHER_NAME if other == "name" else _NAME)
    assert list_segments(folder)[0][0] > 1
    report = verify_folder(folder, verifier=replace(now, former=(then,)))
    assert (report.problems, report.signed_lines) == ((), report.last_seq)
    assert verify_folder(folder, verifier=replace(then, former=(now,))).intact
    assert verify_folder(folder).intact
    for alone in (now, then):
        faults = verify_folder(folder, verifier=alone).problems
        assert any("bears no signature" in each.what for each in faults)
    stranger = replace(now, former=(replace(then, name="example.org/third"),))
    assert not verify_folder(folder, verifier=stranger).intact


@pytest.mark.parametrize("lost", [("checkpoint",), ("frontier",), ("checkpoint", "frontier")])
def test_a_beginning_that_nobody_vouches_for_is_not_gone_on_with(
    folder: Path, write: _Write, lost: tuple[str, ...]
) -> None:
    """Where nothing tells what was retained away, another key does not sign for it."""
    write(range(60), retention={"max_bytes": 9_000})
    _unlink(folder, list_segments(folder)[0][0] - 1, *lost)
    with pytest.raises(AuditFolderError, match="do not add up"):
        write(range(60, 61), name=_OTHER_NAME)


@pytest.mark.parametrize("is_only", [True, False])
def test_writer_that_was_killed_before_it_signed_broke_nothing(
    folder: Path, write: _Write, is_only: bool
) -> None:
    """Between the newest frontier and its checkpoint a kill leaves the one without the other."""
    verifier = write(range(40))
    segments = list_segments(folder)
    number, newest = segments[0] if is_only else segments[-1]
    if is_only:
        for later, path in segments[1:]:
            path.unlink()
            _unlink(folder, later, "checkpoint", "frontier")
    else:
        _cut(newest, 1)  # the line `stop`
        tree = Frontier()
        for _, path in segments:
            for raw in read_raw_lines(path):
                tree.add(raw.removesuffix(b"\n"))
        newest.with_suffix(".frontier").write_bytes(frontier_bytes(tree))
    _unlink(folder, number, "checkpoint")
    assert verify_folder(folder).problems == ()
    faults = [each.what for each in verify_folder(folder, verifier=verifier).problems]
    assert faults == ["no segment has a checkpoint to check with the key"] * is_only
    # Lines that were taken away are found by it all the same.
    _cut(newest, 1)
    missing = newest.with_suffix(".checkpoint").name
    assert missing in {each.file for each in verify_folder(folder).problems}


@pytest.fixture
def open_log(folder: Path, keys: tuple[Path, Path]) -> Iterator[OpenLog]:
    """A signed log that is being written."""
    settings = AuditSettings(
        folder=folder, max_segment_bytes=4096, checkpoint_key_file=keys[0], checkpoint_origin=_NAME
    )
    log = OpenLog(settings, node="front")
    yield log
    log.close()


def _fill(log: OpenLog, numbers: range) -> None:
    for number in numbers:
        log.writer.offer(make_record(number))
    until(lambda: log.writer.waiting == 0)


def test_log_whose_first_segment_is_written_is_not_signed_yet(
    folder: Path, keys: tuple[Path, Path], open_log: OpenLog
) -> None:
    """Before anything was sealed nothing can be signed; without a writer it should have been."""
    verifier = load_signer(keys[0], _NAME).verifier
    _fill(open_log, range(1))
    report = verify_folder(folder, verifier=verifier)
    assert (report.problems, report.segments) == ((), 1)
    assert any("no checkpoint" in note for note in report.notes)
    open_log.close()
    _unlink(folder, 1, "checkpoint", "frontier")
    (found,) = verify_folder(folder, verifier=verifier).problems
    assert found.what == "no segment has a checkpoint to check with the key"


def test_log_that_grows_while_it_is_verified_is_not_broken(
    folder: Path, keys: tuple[Path, Path], open_log: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Segments that are sealed between two looks at the folder are no cut end; a cut one is."""
    verifier = load_signer(keys[0], _NAME).verifier
    _fill(open_log, range(20))
    load, came = CheckpointCheck.load_folder, iter(range(20, 60, 20))

    def write_and_load(check: CheckpointCheck, place: Path, first: int) -> None:
        for start in came:
            _fill(open_log, range(start, start + 20))
            break
        load(check, place, first)

    monkeypatch.setattr(CheckpointCheck, "load_folder", write_and_load)
    report = verify_folder(folder, verifier=verifier)
    assert (report.problems, report.decisions) == ((), 60)
    newest = list_segments(folder)[-2][1]
    _cut(newest, 2)
    assert not verify_folder(folder, verifier=verifier).intact


def _cut(segment: Path, lines: int) -> None:
    segment.write_bytes(b"".join(segment.read_bytes().splitlines(keepends=True)[:-lines]))
