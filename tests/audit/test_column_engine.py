"""The engine that makes columns is let go of, and comes again when there is a segment to read."""

from __future__ import annotations

from pathlib import Path

from audit.chain import ChainState, link_line, segment_name
from audit.column_files import let_go_of_engine, open_columns
from audit.column_store import ColumnStore, segments_of


def test_columns_are_made_after_the_engine_was_let_go_of(tmp_path: Path) -> None:
    """Twice let go of, also where there is none: each segment gets its columns all the same."""
    store, state = ColumnStore(), ChainState()
    for number in (1, 2):
        line, state = link_line(state, {"kind": "segment", "segment": number, "log_id": "x"})
        (tmp_path / segment_name(number)).write_bytes(line)
        open_columns(segments_of(tmp_path), store)
        assert number == len(list(tmp_path.glob("columns/*.parquet")))
        let_go_of_engine()
        let_go_of_engine()
    store.close()
