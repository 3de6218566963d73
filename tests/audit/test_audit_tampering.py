"""Whatever is changed of a log's files is found, and found near the place: a property of all."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from audit_records import make_record
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit.chain import list_segments
from audit.compressing import compress_closed
from audit.record import AuditEvent, EventName
from audit.retaining import find_removal, remove
from audit.settings import AuditSettings, RetentionSettings
from audit.signed_note import NoteVerifier, load_signer, new_private_key
from audit.verify import Problem, verify_folder
from audit.writer import AuditWriter

_NUMBER = re.compile(r"audit-([0-9]{8})\.", re.ASCII)
_ORIGIN = "example.org/log"
_PROPERTY = settings(max_examples=150, suppress_health_check=list(HealthCheck))


@dataclass(frozen=True, slots=True)
class Log:
    """A whole log: its first segments were removed, older ones compressed, all is signed."""

    folder: Path
    verifier: NoteVerifier
    files: dict[str, bytes]

    def problems(self, changed: dict[str, bytes | None]) -> tuple[Problem, ...]:
        """Return what is found while files are other ones, or gone (None)."""
        for name, raw in changed.items():
            if raw is None:
                (self.folder / name).unlink()
            else:
                (self.folder / name).write_bytes(raw)
        try:
            return verify_folder(self.folder, verifier=self.verifier).problems
        finally:
            for name in changed:
                (self.folder / name).write_bytes(self.files[name])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Log:
    """A log of every kind of file."""
    folder = tmp_path_factory.mktemp("tampering")
    key = folder / "key.pem"
    key.write_bytes(new_private_key())
    options = AuditSettings(
        folder=folder / "log",
        max_segment_bytes=4096,
        checkpoint_key_file=key,
        checkpoint_origin=_ORIGIN,
    )
    writer = AuditWriter(options, node="n", clock=lambda: 1_700_000_000.0)
    for number in range(50):
        writer.offer(make_record(number))
    writer.close()
    log = folder / "log"
    removal = find_removal(
        log, RetentionSettings(max_bytes=1), now=0.0, open_segment=4, acknowledged=9
    )
    assert removal is not None
    writer = AuditWriter(options, node="n", clock=lambda: 1_700_000_000.0)
    event = AuditEvent(event=EventName.SEGMENTS_REMOVED, at=1.0, details=removal.details)
    writer.offer_durably(event)
    remove(log, removal)
    compress_closed(log, list_segments(log)[-1][0] - 2)
    writer.close()
    files = {path.name: path.read_bytes() for path in log.iterdir() if _NUMBER.match(path.name)}
    found = Log(log, load_signer(key, _ORIGIN).verifier, files)
    assert found.problems({}) == ()
    kinds = {name.split(".", 1)[1] for name in files}
    assert kinds == {"jsonl", "jsonl.gz", "jsonl.gz.sha256", "checkpoint", "frontier"}
    return found


def _numbers(names: list[str]) -> list[int]:
    return [int(found[1]) for name in names if (found := _NUMBER.search(name))]


def _is_near(problems: tuple[Problem, ...], names: list[str]) -> bool:
    """Whether the first break is told at a changed file or at its neighbour's."""
    told = _numbers([problem.file for problem in problems])
    return any(abs(at - number) <= 1 for at in told[:1] for number in _numbers(names))


def _flip(raw: bytes, data: st.DataObject) -> bytes:
    at = data.draw(st.integers(0, len(raw) - 1))
    return raw[:at] + bytes([raw[at] ^ data.draw(st.integers(1, 255))]) + raw[at + 1 :]


def _flip_bit(raw: bytes, data: st.DataObject) -> bytes:
    at = data.draw(st.integers(0, 8 * len(raw) - 1))
    return raw[: at // 8] + bytes([raw[at // 8] ^ (1 << at % 8)]) + raw[at // 8 + 1 :]


def _cut_out(raw: bytes, data: st.DataObject) -> bytes:
    begin = data.draw(st.integers(0, len(raw) - 1))
    return raw[:begin] + raw[data.draw(st.integers(begin + 1, len(raw))) :]


def _truncate(raw: bytes, data: st.DataObject) -> bytes:
    return raw[: data.draw(st.integers(0, len(raw) - 1))]


def _swap(raw: bytes, data: st.DataObject) -> bytes:
    at = data.draw(st.integers(0, len(raw) - 2))
    to = data.draw(st.integers(at + 1, len(raw) - 1))
    return raw[:at] + raw[to : to + 1] + raw[at + 1 : to] + raw[at : at + 1] + raw[to + 1 :]


def _repeat(raw: bytes, data: st.DataObject) -> bytes:
    begin = data.draw(st.integers(0, len(raw) - 1))
    end = data.draw(st.integers(begin + 1, len(raw)))
    return raw[:end] + raw[begin:end] + raw[end:]


@pytest.mark.parametrize("change", [_flip, _flip_bit, _cut_out, _truncate, _swap, _repeat])
def test_any_change_of_any_file_is_found_and_located(
    whole: Log, change: Callable[[bytes, st.DataObject], bytes]
) -> None:
    """Bytes changed, taken out, cut off, exchanged or repeated, in whichever file."""

    @_PROPERTY
    @given(data=st.data())
    def run(data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(whole.files)))
        changed = change(whole.files[name], data)
        if changed == whole.files[name]:
            return
        problems = whole.problems({name: changed})
        assert problems, name
        assert _is_near(problems, [name]), (name, problems[:3])

    run()


def test_any_missing_file_is_found_and_located(whole: Log) -> None:
    """Each file of the log, taken away alone."""
    for name in whole.files:
        problems = whole.problems({name: None})
        assert problems, name
        assert _is_near(problems, [name]), (name, problems[:3])


def test_any_two_files_that_changed_places_are_found(whole: Log) -> None:
    """Each pair of files of one kind, exchanged."""
    names = sorted(whole.files)
    for at, first in enumerate(names):
        for second in names[at + 1 :]:
            if first.split(".", 1)[1] == second.split(".", 1)[1]:
                swapped = {first: whole.files[second], second: whole.files[first]}
                problems = whole.problems(swapped)
                assert problems, (first, second)
                assert _is_near(problems, [first, second]), (first, second, problems[:3])


def test_bits_of_a_compressed_segment_count(whole: Log) -> None:
    """Also those that gzip's own checksum does not cover: of its header, and of padding."""
    name = next(name for name in sorted(whole.files) if name.endswith(".gz"))
    for target in (name, f"{name}.sha256"):
        raw = whole.files[target]
        ends = [*range(0, 80, 3), *range(8 * len(raw) - 80, 8 * len(raw), 3)]
        for bit in {*ends, *range(0, 8 * len(raw), 401)}:
            changed = bytearray(raw)
            changed[bit // 8] ^= 1 << bit % 8
            problems = whole.problems({target: bytes(changed)})
            assert problems, (target, bit)
            assert problems[0].file == name
