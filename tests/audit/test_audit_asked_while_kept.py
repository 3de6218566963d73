"""A log is asked while segments are compressed and removed: nothing is missed, or told twice."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from audit import column_files, query_engine
from audit.chain import list_segments
from audit.column_files import Chain
from audit.column_store import ColumnStore, forget_columns
from audit.compressing import compress_closed
from audit.errors import AuditReadError
from audit.query import Query
from audit.query_engine import LogQueries

_LATER = 99_999_999
_OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"chain": Chain.READ},
    {"chain": Chain.NOTED, "since": "2001-01-01T00:00:00Z"},
)


def _seqs(queries: LogQueries) -> list[int]:
    return [document["seq"] for document in queries.records(Query())]


def _asked(log: Path, **options: Any) -> list[int]:
    with LogQueries([log], **options) as queries:
        return _seqs(queries)


def _compress(log: Path) -> None:
    """Do what the keeper does of a log."""
    compress_closed(log, _LATER)
    forget_columns(log, ColumnStore())


def _once(then: Callable[[], None]) -> Callable[[], None]:
    """Return what does something the first time it is called, and nothing later."""
    left = [then]
    return lambda: left.pop()() if left else None


@pytest.mark.parametrize("options", _OPTIONS)
@pytest.mark.parametrize("before", ["segments_of", "_made_before", "open_columns", "_open_engine"])
def test_segments_are_compressed_while_the_log_is_opened(
    log: Path, monkeypatch: pytest.MonkeyPatch, before: str, options: dict[str, Any]
) -> None:
    """Whenever the names change, and the columns go: every decision is told once."""
    expected = _asked(log, **options)
    compress, real = _once(lambda: _compress(log)), getattr(query_engine, before)

    def late(*args: Any, **kwargs: Any) -> Any:
        compress()
        return real(*args, **kwargs)

    monkeypatch.setattr(query_engine, before, late)
    assert _asked(log, **options) == expected


@pytest.mark.parametrize("before", ["digest_of", "_copy_columns", "scan_segment"])
def test_segments_are_compressed_while_columns_are_made(
    log: Path, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    """A segment that goes while it is read is read by its new name."""
    expected = _asked(log, store=ColumnStore(is_kept=False))
    compress, real = _once(lambda: _compress(log)), getattr(column_files, before)

    def late(*args: Any, **kwargs: Any) -> Any:
        compress()
        return real(*args, **kwargs)

    monkeypatch.setattr(column_files, before, late)
    assert _asked(log) == expected


def test_the_oldest_segment_is_removed_while_the_log_is_opened(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What retention took is in no answer; all that is left is."""
    everything, real = _asked(log), query_engine.open_columns
    remove = _once(list_segments(log)[0][1].unlink)

    def late(*args: Any, **kwargs: Any) -> Any:
        remove()
        return real(*args, **kwargs)

    monkeypatch.setattr(query_engine, "open_columns", late)
    found = _asked(log)
    assert found
    assert found == everything[-len(found) :]
    assert len(found) < len(everything)


def test_segments_are_compressed_between_opening_and_asking(log: Path) -> None:
    """An open log answers what it held, whatever becomes of segments and columns meanwhile."""
    expected = _asked(log)
    with LogQueries([log]) as queries:
        rows = queries.records(Query())
        first = next(rows)["seq"]
        _compress(log)
        assert [first, *(document["seq"] for document in rows)] == expected
        assert _seqs(queries) == expected
        assert queries.count(Query()) == len(expected)


def test_tables_of_columns_that_went_are_not_asked_beside_newer_ones(log: Path) -> None:
    """What was counted before stands for the log as it was: it is said that this is over."""
    with LogQueries([log]) as queries:
        queries.tabulate("kept", "SELECT count(*) AS number FROM wanted", Query())
        _compress(log)
        with pytest.raises(AuditReadError, match="compressed or removed amid questions"):
            queries.count(Query())


def test_files_that_go_each_time_end_the_asking(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked again so many times, and then said that the log cannot be read."""
    asked: list[int] = []

    def gone(*args: Any, **kwargs: Any) -> Any:
        asked.append(1)
        raise AuditReadError("gone") from FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(query_engine, "open_columns", gone)
    with pytest.raises(AuditReadError):
        _asked(log)
    assert len(asked) == 8


def test_a_log_is_asked_and_compressed_at_once(log: Path) -> None:
    """Questions that are asked all the time see each decision once, from first to last."""
    expected = _asked(log)
    newest = [number for number, _ in list_segments(log)]
    keeper = threading.Thread(
        target=lambda: [
            (compress_closed(log, number + 1), forget_columns(log, ColumnStore()))
            for number in newest
        ]
    )
    keeper.start()
    answers = [_asked(log)]
    while keeper.is_alive():
        answers.append(_asked(log))
    keeper.join()
    assert all(answer == expected for answer in answers)
    assert all(path.name.endswith(".gz") for _, path in list_segments(log))
