"""The columns that questions are asked of: how each is taken out of a line of the record.

Theory of operation. A line's JSON is read once, for all columns together. A line that does not
hold its own hash is not believed and left out, as in `audit.reader`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from audit.chain import MAX_LINE_BYTES

# `,"hash":"`, 64 digits, `"}`: what a line's hash does not cover
_TAIL: Final = 75
# A header's byte that is no UTF-8 stands in a line as half a surrogate pair, which the engine's
# JSON refuses. It is left out of what is compared, else one byte would hide a caller from every
# question. Whole pairs, and backslashes that are escaped themselves, stay.
_ESCAPES: Final = r"(\\\\|\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2})|\\ud[89a-f][0-9a-f]{2}"
_READABLE: Final = (
    r"CASE WHEN contains(line, '\ud') THEN "
    rf"regexp_replace(line, '{_ESCAPES}', '\1', 'g') ELSE line END"
)
_PATHS: list[str] = []


def _value(path: str) -> str:
    """Return the SQL of a value's text, and have it taken out of each line."""
    if path not in _PATHS:
        _PATHS.append(path)
    return f"facts[{_PATHS.index(path) + 1}]"


def _text(path: str) -> str:
    return f"coalesce({_value(path)}, '')"


def _number(path: str, type_: str = "INTEGER") -> str:
    return f"try_cast({_value(path)} AS {type_})"


COLUMNS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "kind": _text("kind"),
        "seq": _number("seq", "BIGINT"),
        "decided_at": _text("decided_at"),
        "decision_id": _text("decision_id"),
        "effect": _text("decision.effect"),
        "reason": _text("decision.reason"),
        "layer": _text("decision.layer"),
        "http_status": _number("decision.http_status"),
        "policy": _text("decision.policy"),
        "rule": _number("decision.rule"),
        "place": _text("decision.place"),
        "detail": _text("decision.detail"),
        "near_miss": _text("decision.near_miss"),
        "peer": f"coalesce(nullif({_value('peer.spiffe_id')}, ''), {_value('peer.principal')}, '')",
        "proof": _text("peer.proof"),
        "issuer": _text("subject.issuer"),
        "sub": _text("subject.sub"),
        "subject": f"CASE WHEN starts_with({_value('subject')}, '{{') THEN "
        f"{_text('subject.issuer')} || '/' || {_text('subject.sub')} ELSE '' END",
        "source_address": _text("source.address"),
        "destination": f"{_text('destination.namespace')} || coalesce('/' || "
        f"nullif({_value('destination.service_account')}, ''), '')",
        "port": _number("destination.port"),
        "method": _text("request.method"),
        "host": _text("request.host"),
        "path": f"split_part({_text('request.path')}, '?', 1)",
        "request_id": _text("request.id"),
        "node": _text("node"),
        "revision": _text("revision"),
        "duration_microseconds": _number("duration_microseconds", "BIGINT"),
        "shadow": f"TRY({_value('shadow')}::JSON)",
        "event": _text("event"),
        "failed_open": f"TRY({_value('failed_open')}::JSON)",
    }
)
"""The columns of the view `decisions`, each with how it is taken from a line's `facts`."""

# What leads from a row back to its line: the begin of the line's hash, and, where no line was
# left out, the byte at which the line begins.
_MARK: Final = "try_cast('0x' || left(right(line, 66), 16) AS UBIGINT)"
_AT_BYTE: Final = (
    "(sum(length(line) + 1) OVER (ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW))::BIGINT "
    "- length(line) - 1"
)
_BELIEVED: Final = (
    f"right(line, {_TAIL}) = ',\"hash\":\"' || sha256(left(line, -{_TAIL})) || '\"}}'"
)


def select_columns(segment: Path, *, is_plain: bool) -> str:
    """Return the statement of a segment's rows: `mark`, `at_byte`, and every column.

    `is_plain` says that every line is known to hold its own hash; else that is asked of each.
    """
    # WHY as CSV: a line is ASCII without control characters, so that one column without
    # quotes takes it as it stands, whatever was done to it; bytes that are no text are left out.
    lines = (
        f"SELECT line FROM read_csv([{quote(escape_glob(str(segment)))}], "  # noqa: S608
        "columns = {'line': 'VARCHAR'}, auto_detect = false, header = false, delim = '\x1f', "
        f"quote = '', escape = '', comment = '', max_line_size = {MAX_LINE_BYTES:d}, "
        "ignore_errors = true, strict_mode = false, null_padding = false)"
    )
    if not is_plain:
        lines += f" WHERE {_BELIEVED}"
    paths = ", ".join(f"'$.{path}'" for path in _PATHS)
    facts = f"SELECT line, TRY(({_READABLE})->>[{paths}]) AS facts FROM ({lines})"  # noqa: S608
    columns = ", ".join(f"{expression} AS {name}" for name, expression in COLUMNS.items())
    at_byte = _AT_BYTE if is_plain else "NULL::BIGINT"
    return f"SELECT {_MARK} AS mark, {at_byte} AS at_byte, {columns} FROM ({facts})"  # noqa: S608


def escape_glob(name: str) -> str:
    """Return a file's name so that no sign in it stands for other names."""
    return "".join(f"[{sign}]" if sign in "*?[" else sign for sign in name)


def quote(text: str) -> str:
    """Return a text as SQL has it."""
    return "'" + text.replace("'", "''") + "'"


VERSION: Final = hashlib.sha256(select_columns(Path(), is_plain=True).encode()).hexdigest()[:8]
"""Tells columns that were taken out in this way from those of another."""
