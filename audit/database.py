"""DuckDB, as the record's questions and columns use it; its end is silent."""

from __future__ import annotations

import atexit
import gc

import duckdb

__all__ = ["duckdb"]

# WHY: a load of policies takes its objects from the collector for good (`gc.freeze`), whatever they
# refer to; DuckDB's binding would tell on standard error of each object it cannot free in the end.
atexit.register(gc.unfreeze)
