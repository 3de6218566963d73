"""What an answer about the record leaves out, in words for who asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

from audit.query_engine import LogQueries
from audit.record import EventName
from audit.time_range import TimeRange

_NAMED: Final = 10  # BUDGET: lines to each kind; the rest is counted


@dataclass(slots=True)
class Shortfall:
    """Segments that are not as they were written, and records that could not be written whole."""

    broken: Sequence[Path] = ()
    faults: list[Mapping[str, Any]] = field(default_factory=list)
    fault_count: int = 0

    @classmethod
    def of(cls, queries: LogQueries, span: TimeRange) -> Shortfall:
        """Return what answers of `queries` in a range of time leave out.

        Raises:
            AuditReadError: a segment cannot be read.
        """
        found = cls(queries.broken)
        events = queries.events(span, [EventName.RECORD_FAULT])
        found.faults += islice(events, _NAMED)
        found.fault_count = len(found.faults) + sum(1 for _ in events)
        return found

    def lines(self) -> Iterator[str]:
        """Yield what there is to tell, if anything."""
        for segment in self.broken[:_NAMED]:
            yield (
                f"`{segment}` is not as it was written, and the answer leaves out what cannot be "
                f"trusted: `meshwarden audit verify {segment.parent}` says where"
            )
        if len(self.broken) > _NAMED:
            yield f"and {len(self.broken) - _NAMED} more segments"
        for event in self.faults:
            yield f"{_named(event)}, and is in no answer"
        if self.fault_count > len(self.faults):
            yield f"and {self.fault_count - len(self.faults)} more such records"


def _named(event: Mapping[str, Any]) -> str:
    found = event.get("details")
    details = found if isinstance(found, dict) else {}
    decision = details.get("decision_id")
    what = f"decision {decision!a}" if decision else "a record"
    known = [f"{details[name]!a}" for name in ("effect", "policy") if details.get(name)]
    about = f" ({', '.join(known)})" if known else ""
    return f"{what}{about} could not be written at {event.get('at')!a}: {details.get('why')!a}"
