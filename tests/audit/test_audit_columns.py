"""Columns answer for their segment as it is now, and never for one that was changed."""

from __future__ import annotations

import io
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from audit_records import make_record
from hypothesis import given
from hypothesis import strategies as st

from audit.chain import ChainState, link_line, list_segments
from audit.checkpoint import read_checkpoint
from audit.column_files import Chain, open_columns
from audit.column_store import ColumnStore, forget_columns, segments_of
from audit.compressing import compress_closed
from audit.errors import AuditReadError
from audit.export.run import Export, run_export
from audit.folder_lock import FolderLock
from audit.logs import COLUMNS, worker_folder
from audit.merkle import Frontier, leaf_hash, subtrees
from audit.query import Query
from audit.query_engine import LogQueries
from audit.reader import read_records
from audit.record import AuditEvent, EventName
from audit.retaining import Removal, find_removal, remove
from audit.segment_scan import scan_segment
from audit.settings import AuditSettings, RetentionSettings
from audit.signed_note import NoteVerifier, load_signer, new_private_key
from audit.verify import VerifyReport, verify_folder
from audit.writer import AuditWriter


def _kept(log: Path) -> dict[str, int]:
    return {each.name: each.stat().st_ino for each in (log / COLUMNS).glob("*.parquet")}


def _seqs(log: Path, **options: Any) -> list[int]:
    with LogQueries([log], **options) as queries:
        return [document["seq"] for document in queries.records(Query())]


def test_columns_are_made_once(log: Path) -> None:
    """The first question makes columns of the sealed segments, the next one finds them."""
    first = _seqs(log)
    kept = _kept(log)
    assert len(kept) == len(list_segments(log))
    assert _seqs(log) == first
    assert _kept(log) == kept


def test_a_segment_that_is_written_keeps_no_columns(log: Path) -> None:
    """While a writer is at work its newest segment is read anew by each question."""
    lock = FolderLock(log)
    try:
        assert len(_seqs(log)) == 40
        assert len(_kept(log)) == len(list_segments(log)) - 1
    finally:
        lock.release()


@pytest.mark.parametrize("how", ["changed", "cut", "swapped", "columns cut", "columns gone"])
def test_a_changed_segment_does_not_answer_from_its_columns(log: Path, how: str) -> None:
    """Whatever is done to a segment or its columns, the answer is that of the segment now."""
    _seqs(log)
    path = log / "audit-00000001.jsonl"
    columns = next(
        each for each in (log / COLUMNS).glob("*.parquet") if each.name.startswith(path.name)
    )
    raw = path.read_bytes()
    match how:
        case "changed":
            path.write_bytes(raw.replace(b"alice", b"mally", 1))
        case "cut":
            path.write_bytes(raw[:-200])
        case "swapped":
            other = log / "audit-00000002.jsonl"
            path.write_bytes(other.read_bytes())
        case "columns cut":
            columns.write_bytes(columns.read_bytes()[:-9])
        case "columns gone":
            columns.unlink()
    assert _seqs(log) == _seqs(log, store=ColumnStore(is_kept=False))


def test_nothing_is_kept_where_that_is_not_wanted(log: Path, tmp_path: Path) -> None:
    """Columns go nowhere, or to a folder of one's own, and the answers are the same."""
    found = _seqs(log, store=ColumnStore(is_kept=False))
    assert not (log / COLUMNS).exists()
    own = tmp_path / "own"
    assert _seqs(log, store=ColumnStore(folder=own)) == found
    assert not (log / COLUMNS).exists()
    assert len(list(own.glob("*/*.parquet"))) == len(list_segments(log))


def test_a_log_that_cannot_be_written_can_be_asked(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where columns cannot be kept they are made for one question, and removed after it."""
    scratch, made = tmp_path / "scratch", []
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    asked = LogQueries.records

    def watched(self: LogQueries, query: Query) -> Iterator[Any]:
        made.extend(scratch.iterdir())
        return asked(self, query)

    monkeypatch.setattr(LogQueries, "records", watched)
    assert len(_seqs(log)) == 40
    # Nothing is made that a killed process would leave, where columns are kept beside the log.
    assert made == []
    shutil.rmtree(log / COLUMNS)
    (log / COLUMNS).write_text("in the way")
    assert len(_seqs(log)) == 40
    assert len(made) == 1
    assert list(scratch.iterdir()) == []
    assert (log / COLUMNS).read_text() == "in the way"


def test_columns_of_what_is_gone_are_forgotten(log: Path) -> None:
    """New columns of a segment that was changed replace the old, those of one that is gone go."""
    _seqs(log)
    before = _kept(log)
    path = log / "audit-00000002.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    _seqs(log)
    assert len(_kept(log)) == len(before)
    assert len(_kept(log).keys() & before.keys()) == len(before) - 1
    path.unlink()
    store = ColumnStore()
    assert forget_columns(log, store) == 1
    assert forget_columns(log, store) == 0
    store.close()
    assert len(_kept(log)) == len(before) - 1


def test_progress_tells_of_bytes(log: Path) -> None:
    """Who waits is told of the bytes that were read, up to all of them; once made, of nothing."""
    told: list[tuple[int, int]] = []
    _seqs(log, progress=lambda done, whole: told.append((done, whole)))
    assert told[-1][0] == told[-1][1] == sum(path.stat().st_size for _, path in list_segments(log))
    told.clear()
    _seqs(log, progress=lambda done, whole: told.append((done, whole)))
    assert told == []


def test_processes_make_the_same_columns(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is much to read several processes do it, and find the same."""
    alone = _seqs(log, store=ColumnStore(is_kept=False))
    monkeypatch.setattr("audit.column_files._MUCH", 0)
    assert _seqs(log) == alone


def test_columns_lead_to_their_own_line(log: Path) -> None:
    """A segment that changes after its columns were opened is an error, never another line."""
    with LogQueries([log]) as queries:
        for _, path in list_segments(log):
            path.write_bytes(path.read_bytes().replace(b"alice", b"mally"))
        with pytest.raises(AuditReadError, match="was changed while it was read"):
            list(queries.records(Query()))


def _signed(open_writer: Callable[..., AuditWriter], tmp_path: Path, record: Any) -> Path:
    key = tmp_path / "key.pem"
    key.write_bytes(new_private_key())
    writer = open_writer(max_segment_bytes=8192, checkpoint_key_file=key, checkpoint_origin="t")
    for number in range(40):
        writer.offer(record(number))
    writer.close()
    return tmp_path / "log"


def _verified(log: Path, **options: Any) -> tuple[VerifyReport, VerifyReport]:
    """Return the report of a log with its segments read beforehand, and without."""
    store = ColumnStore(is_kept=False)
    try:
        found = open_columns(segments_of(log), store, chain=Chain.READ)
        chained = {each.segment: each.chained for each in found if each.chained}
    finally:
        store.close()
    return verify_folder(log, chained=chained, **options), verify_folder(log, **options)


def test_verification_by_segments_is_that_by_lines(
    open_writer: Callable[..., AuditWriter], tmp_path: Path, record: Any
) -> None:
    """A signed log is told in the same words whether read by segments or line by line."""
    log = _signed(open_writer, tmp_path, record)
    verifier = load_signer(tmp_path / "key.pem", "t").verifier
    quick, whole = _verified(log, verifier=verifier)
    assert quick == whole
    assert quick.intact
    assert quick.checkpoints == len(list_segments(log))


@pytest.fixture
def retained(tmp_path: Path) -> tuple[Path, NoteVerifier]:
    """A signed log whose first segments were removed, and of which others are compressed."""
    key, log = tmp_path / "key.pem", tmp_path / "log"
    key.write_bytes(new_private_key())
    options = AuditSettings(
        folder=log, max_segment_bytes=4096, checkpoint_key_file=key, checkpoint_origin="t"
    )
    writer = AuditWriter(options, node="n", clock=lambda: 1_700_000_000.0)
    for number in range(40):
        writer.offer(make_record(number))
    writer.close()
    removal = find_removal(
        log, RetentionSettings(max_bytes=1), now=0.0, open_segment=4, acknowledged=9
    )
    assert removal is not None
    writer = AuditWriter(options, node="n", clock=lambda: 1_700_000_000.0)
    writer.offer_durably(
        AuditEvent(event=EventName.SEGMENTS_REMOVED, at=1.0, details=removal.details)
    )
    remove(log, removal)
    compress_closed(log, list_segments(log)[-1][0] - 2)
    writer.close()
    return log, load_signer(key, "t").verifier


def test_a_retained_and_compressed_log_is_read_by_segments(
    retained: tuple[Path, NoteVerifier],
) -> None:
    """What retention and compression left is asked and verified as any log, and vouched for."""
    log, verifier = retained
    assert _seqs(log) == [document["seq"] for document in read_records(log)]
    quick, whole = _verified(log, verifier=verifier)
    assert quick == whole
    assert quick.intact
    assert quick.removed_lines > 0
    exported = run_export(
        Export(log=log, format="md", verifier=verifier, is_attested=True), io.StringIO()
    )
    (state,) = exported.logs
    checkpoint = read_checkpoint(sorted(log.glob("*.checkpoint"))[-1].read_bytes(), verifier)
    assert (state.size, state.root) == (checkpoint.size, checkpoint.root)


@pytest.mark.parametrize("is_own", [False, True])
def test_who_signs_believes_no_columns_beside_the_log(
    log: Path, tmp_path: Path, *, is_own: bool
) -> None:
    """Columns that leave a decision out, as many rows as before, are in no signed export."""
    store = ColumnStore(folder=tmp_path / "own" if is_own else None)
    _seqs(log, store=store)
    segment = segments_of(log)[1]
    (file,) = store.folder_of(log).glob(f"{segment.path.name}.*.parquet")
    forged = f"SELECT * REPLACE (replace(effect, 'deny', 'allow') AS effect) FROM '{file}'"
    duckdb.sql(f"COPY ({forged}) TO '{file}.new' (FORMAT parquet)")
    Path(f"{file}.new").replace(file)
    out = tmp_path / "out.parquet"
    run_export(Export(log=log, format="parquet", is_attested=True), out, store=store)
    found = duckdb.sql(f"SELECT DISTINCT effect FROM '{out}'").fetchall()
    assert (found == [("deny",)]) is not is_own
    assert _kept(log) or is_own


def test_what_a_killed_maker_left_goes_once_it_is_old(log: Path) -> None:
    """A part that may still be written stays; an old one goes, by a question as by the index."""
    store = ColumnStore()
    for ask in (lambda: _seqs(log), lambda: forget_columns(log, store)):
        folder = log / COLUMNS
        folder.mkdir(exist_ok=True)
        parts = [folder / f".audit-00000001.jsonl.0.0.parquet.{pid}.part" for pid in (1, 2)]
        parts.append(parts[0].with_name(f"{parts[0].name}.lines"))
        for part in parts:
            part.write_bytes(b"PAR1")
        for part in (parts[0], parts[2]):
            os.utime(part, (1_700_000_000, 1_700_000_000))
        ask()
        assert [part.exists() for part in parts] == [False, True, False]


def test_what_is_removed_leaves_no_columns_and_no_worker_loses_a_segment(tmp_path: Path) -> None:
    """Retention takes the columns of what it removes, and nothing of the logs of workers."""
    log = tmp_path / "log"
    for folder in (log, worker_folder(log, "a")):
        settings = AuditSettings(folder=folder, max_segment_bytes=4096)
        writer = AuditWriter(settings, node="n", clock=lambda: 1_700_000_000.0)
        for number in range(20):
            writer.offer(make_record(number))
        writer.close()
    assert len(_seqs(log)) == 40
    beside = len(list_segments(worker_folder(log, "a")))
    (number, path), *rest = list_segments(log)
    parts = [log / f".{path.name}.gz.part", log / COLUMNS / f".{path.name}.a.parquet.7.part"]
    for part in parts:
        part.touch()
    remove(log, Removal(segments=((number, path),), details={}))
    assert len(list_segments(log)) == len(rest)
    assert not list((log / COLUMNS).glob(f"{path.name}.*"))
    assert not any(part.exists() for part in parts)
    assert len(list_segments(worker_folder(log, "a"))) == beside


@pytest.mark.parametrize("how", ["cut", "changed", "no gzip"])
def test_a_damaged_compressed_segment_hides_no_other(
    retained: tuple[Path, NoteVerifier], how: str
) -> None:
    """Of a compressed segment that was damaged what can be read is found, and all of the others."""
    log, _ = retained
    path = next(file for _, file in list_segments(log) if file.suffix == ".gz")
    raw = path.read_bytes()
    if how == "changed":
        path.write_bytes(raw[: len(raw) // 2] + b"\xff\x00\xff" + raw[len(raw) // 2 + 3 :])
    else:
        path.write_bytes(raw[: len(raw) // 2] if how == "cut" else b"no gzip at all")
    assert _seqs(log) == [document["seq"] for document in read_records(log)]


@pytest.mark.parametrize("seed", range(10))
def test_whatever_is_done_is_found_by_segments_too(
    retained: tuple[Path, NoteVerifier], seed: int
) -> None:
    """A change, a loss or a swap anywhere is told the same as by the walk over all lines."""
    log, verifier = retained
    dice = random.Random(seed)
    files = [path for _, path in list_segments(log)] + sorted(log.glob("*.checkpoint"))
    files += sorted(log.glob("*.frontier"))
    path = dice.choice(files)
    raw = path.read_bytes()
    at = dice.randrange(len(raw))
    lines = raw.splitlines(keepends=True)
    line = dice.randrange(len(lines))
    match dice.randrange(5):
        case 0:
            path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        case 1:
            path.write_bytes(raw[:at])
        case 2:
            path.write_bytes(b"".join(lines[:line] + lines[line + 1 :]))
        case 3:
            path.write_bytes(b"".join([*lines[:line], lines[line], *lines[line:]]))
        case _:
            path.unlink()
    quick, whole = _verified(log, verifier=verifier)
    assert quick == whole
    assert not quick.intact


def test_a_chained_line_that_is_no_json_is_no_link(tmp_path: Path) -> None:
    """A segment whose chain holds but whose line is no JSON is left to the walk over all lines."""
    header = {"kind": "segment", "segment": 1, "log_id": "x", "created_at": "2026"}
    first, state = link_line(ChainState(), header)
    second, state = link_line(state, {"kind": "decision", "what": "AAAA"})
    body = second[:-76].replace(b'"AAAA"', b"AAAAAA")
    second, state = _hashed(body, state)
    last, state = link_line(state, {"kind": "decision"})
    (tmp_path / "audit-00000001.jsonl").write_bytes(first + second + last)
    third, _ = link_line(state, {"kind": "segment", "segment": 2, "log_id": "x"})
    (tmp_path / "audit-00000002.jsonl").write_bytes(third)
    assert scan_segment(tmp_path / "audit-00000001.jsonl") is not None
    quick, whole = _verified(tmp_path)
    assert quick == whole
    assert "the line is not JSON" in str(quick.problems[0])


def _hashed(body: bytes, state: ChainState) -> tuple[bytes, ChainState]:
    from hashlib import sha256

    digest = sha256(body).hexdigest()
    return body + b',"hash":"' + digest.encode() + b'"}\n', ChainState(state.seq, digest)


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=8))
def test_trees_of_parts_make_up_the_tree(sizes: list[int]) -> None:
    """The subtrees of consecutive parts give the root that all leaves give."""
    whole, parts, begin = Frontier(), Frontier(), 0
    for size in sizes:
        leaves = [leaf_hash(b"%d" % number) for number in range(begin, begin + size)]
        for leaf in leaves:
            whole.add_hash(leaf)
        for height, root in subtrees(begin, leaves):
            parts.add_tree(height, root)
        begin += size
        assert (parts.size, parts.root()) == (whole.size, whole.root())
    with pytest.raises(ValueError, match="can begin"):
        Frontier(1, [b"0" * 32]).add_tree(1, b"0" * 32)


def test_columns_are_not_for_everybody(log: Path) -> None:
    """Column files are readable for whom the segments are, not for the rest of the world."""
    _seqs(log)
    for file in (log / COLUMNS).iterdir():
        assert file.stat().st_mode & 0o777 == 0o640
