"""A question about the record: which decisions are wanted, told by their fields.

The same question is asked of the log as a whole (`audit.query_engine`, in SQL) and of lines
that are being written (`matches`, here): a test holds that the two agree.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

from audit.errors import AuditQueryError
from audit.export.columns import (
    Pick,
    name_destination,
    name_peer,
    name_rule,
    name_subject,
    pick_at,
)
from audit.time_range import TimeRange


def _path_only(record: Mapping[str, Any]) -> str:
    """Return the path without its query, whose parameters no pattern should have to know."""
    return str(pick_at("request", "path")(record) or "").partition("?")[0]


def _either_rule(record: Mapping[str, Any]) -> tuple[str, str]:
    policy = pick_at("decision", "policy")(record)
    return ("" if policy is None else str(policy), name_rule(record))


FIELDS: Final[Mapping[str, Pick]] = MappingProxyType(
    {
        "decision_id": pick_at("decision_id"),
        "effect": pick_at("decision", "effect"),
        "reason": pick_at("decision", "reason"),
        "layer": pick_at("decision", "layer"),
        "policy": _either_rule,
        "peer": name_peer,
        "subject": name_subject,
        "destination": name_destination,
        "source_address": pick_at("source", "address"),
        "method": pick_at("request", "method"),
        "host": pick_at("request", "host"),
        "path": _path_only,
        "node": pick_at("node"),
        "revision": pick_at("revision"),
    }
)
"""What a pattern can be asked of. `policy` holds for `namespace/name` and `namespace/name#rule`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """The decisions that are wanted: in the range, and with every named field as wanted.

    `wanted` gives a field of `FIELDS` its patterns, one of which must hold. A pattern is the
    whole text, `*` in it stands for any text; the empty pattern is that of a missing value.
    """

    range: TimeRange = field(default_factory=TimeRange)
    wanted: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a field that no record has: a filter that is dropped would show too much.

        Raises:
            AuditQueryError: a name in `wanted` is no field, or a pattern is no text.
        """
        for name, patterns in self.wanted.items():
            if name not in FIELDS:
                raise AuditQueryError(
                    f"`{name}` is no field to ask for: expected one of {', '.join(FIELDS)}"
                )
            if any(_readable(pattern) != pattern for pattern in patterns):
                raise AuditQueryError(f"what `{name}` is asked for is not UTF-8")

    def matches(self, record: Mapping[str, Any]) -> bool:
        """Whether a document of the record is a decision that is wanted."""
        if record.get("kind") != "decision":
            return False
        if str(record.get("decided_at", "")) not in self.range:
            return False
        return all(
            any(_holds(pattern, FIELDS[name](record)) for pattern in patterns)
            for name, patterns in self.wanted.items()
        )


def _holds(pattern: str, value: object) -> bool:
    values = value if isinstance(value, tuple) else (value,)
    compiled = _compiled(pattern)
    return any(compiled.fullmatch("" if each is None else _readable(str(each))) for each in values)


def _readable(text: str) -> str:
    """Return a text without the bytes that were no UTF-8 (they stand in it as surrogates)."""
    return text if text.isascii() else text.encode("utf-8", "ignore").decode("utf-8")


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, pattern.split("*"))), re.DOTALL)
