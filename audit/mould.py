"""Records of one decision that is made again and again: rendered once, then filled in.

Theory of operation. The first record is rendered with stand-ins, which nobody else can know, in
the places that differ each time: that is the mould. INVARIANT: a mould is used only after it has
given, for other values, byte for byte what the long way gives; and only for values that no mask
touches. Whatever does not fit goes the long way.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import replace
from json.encoder import encode_basestring_ascii as _quoted  # what `json.dumps` quotes by
from typing import Any, Final, NamedTuple

from audit.chain import encode_json
from audit.document import document_from_record, format_time
from audit.record import AuditRecord
from audit.redact import PLAIN, Redactor
from audit.replay_facts import ReplayFacts
from audit.secret_text import JSON_START, MASK

# BUDGET: the text of a longer line is made anew each time, by the long way.
LONGEST: Final = 65_536
# WHY: a mould costs as much as several records, and what came three times may not come again.
_FIRST_BY_HAND: Final = 3


class Rendered(NamedTuple):
    """The JSON of a document without its braces."""

    text: str


class _Cast(NamedTuple):
    """A template for `%`, whose redactor and node it is, and which header values it takes."""

    redactor: Redactor
    node: str
    template: str
    shown: tuple[int, ...]


class RecordMould:
    """What the records of one decision have in common: `first`, but for what differs each time.

    `headers` names the headers whose values differ, each of which `first` holds once.
    """

    __slots__ = ("_by_hand", "_cast", "first", "headers")

    def __init__(self, first: AuditRecord, headers: tuple[str, ...]) -> None:
        """Keep the first record; nothing is rendered yet."""
        self.first = first
        self.headers = headers
        # By the thread that writes, alone.
        self._cast: _Cast | None = None
        self._by_hand = _FIRST_BY_HAND

    def cast(self, node: str, redactor: Redactor) -> _Cast:
        """Return the template of a writer; an empty one where none fits, or is worth it yet."""
        if self._by_hand:
            self._by_hand -= 1
            return _Cast(redactor, node, "", ())
        cast = self._cast
        if cast is None or cast.redactor is not redactor or cast.node != node:
            try:
                cast = _make_cast(self, node, redactor)
            except (ValueError, TypeError, RecursionError):
                # What is no JSON goes the long way, which says so on record.
                cast = _Cast(redactor, node, "", ())
            self._cast = cast
        return cast


class RepeatedRecord(NamedTuple):
    """A decision that was made again: the mould of its record and what differs from the first.

    Times are seconds since the epoch. `values` are names and texts of the mould's headers, in
    their order.
    """

    mould: RecordMould
    decision_id: str
    received_at: float
    decided_at: float
    request_id: str
    path: str
    size: int
    values: tuple[tuple[str, str], ...]
    duration_microseconds: int
    phases: Mapping[str, int]

    def whole(self) -> AuditRecord:
        """Return the record as if it had been made anew."""
        first = self.mould.first
        values = {name: (text,) for name, text in self.values}
        headers = {**first.request.headers, **values}
        request = replace(
            first.request, id=self.request_id, path=self.path, size=self.size, headers=headers
        )
        return replace(
            first,
            decision_id=self.decision_id,
            received_at=self.received_at,
            decided_at=self.decided_at,
            request=request,
            replay=_with_values(first, headers, values),
            duration_microseconds=self.duration_microseconds,
            phases=self.phases,
        )


def _with_values(
    first: AuditRecord,
    headers: Mapping[str, tuple[str, ...]],
    values: Mapping[str, tuple[str, ...]],
) -> ReplayFacts | None:
    """Return what a replay needs, with the headers that the policies saw."""
    facts = first.replay
    if facts is None:
        return None
    if facts.rules_headers is first.request.headers:
        return replace(facts, rules_headers=headers)
    later = {name: values.get(name, each) for name, each in facts.rules_headers.items()}
    return replace(facts, rules_headers=later)


def render_repeated(record: RepeatedRecord, node: str, redactor: Redactor) -> Rendered | None:
    """Return the text of a record by its mould; None where it has to go the long way."""
    cast = record.mould.cast(node, redactor)
    if not cast.template or not record.phases or not _is_clean(record, redactor):
        return None
    return Rendered(_fill(cast, record))


def _fill(cast: _Cast, record: RepeatedRecord) -> str:
    values = record.values
    phases = ",".join([f"{_quoted(name)}:{each:d}" for name, each in record.phases.items()])
    return cast.template % (
        _quoted(record.decision_id),
        format_time(record.received_at),
        format_time(record.decided_at),
        _quoted(record.request_id),
        _quoted(record.path),
        *[_quoted(values[index][1]) for index in cast.shown],
        max(-1, record.size),
        max(0, record.duration_microseconds),
        phases,
    )


def _is_clean(record: RepeatedRecord, redactor: Redactor) -> bool:
    """Whether every value would stand on record as it is."""
    if not PLAIN.fullmatch(record.request_id) and (
        redactor.text(record.request_id) != record.request_id
    ):
        return False
    carriers = record.mould.first.request.token_carriers
    if redactor.path(record.path, carriers) != record.path:
        return False
    for name, text in record.values:
        if not PLAIN.fullmatch(text) and (
            # WHY not the mask: who sends it in a secret header is shown it, and nothing is masked.
            text == MASK
            or JSON_START.search(text)
            or redactor.header(name, (text,), carriers) != [text]
        ):
            return False
    return True


def _make_cast(mould: RecordMould, node: str, redactor: Redactor) -> _Cast:
    """Return the template, once it was held against the long way; else an empty one."""
    empty = _Cast(redactor, node, "", ())
    names = mould.headers
    marks = [secrets.token_hex(16) for _ in range(8 + len(names))]
    identity, received, decided, request_id, path, size, duration, phases, *rest = marks
    values = tuple(zip(names, rest, strict=True))
    held = RepeatedRecord(mould, identity, 0.0, 0.0, request_id, path, 0, values, 0, {"": 0})
    document: dict[str, Any] = dict(
        document_from_record(held.whole(), node=node, redactor=redactor)
    )
    document["request"] = {**document["request"], "size": size}
    document |= {
        "received_at": received,
        "decided_at": decided,
        "duration_microseconds": duration,
        "phases_microseconds": phases,
    }
    text = _json(document)
    quoted = {f'"{mark}"' for mark in marks}
    found = [each for each in re.findall(r'"[0-9a-f]{32}"', text) if each in quoted]
    order = [f'"{mark}"' for mark in (identity, received, decided, request_id, path)]
    shown = tuple(rest.index(each[1:-1]) for each in found if each[1:-1] in rest)
    order += [f'"{rest[index]}"' for index in shown]
    order += [f'"{mark}"' for mark in (size, duration, phases)]
    if found != order or len(text) > LONGEST:
        return empty
    template = text.replace("%", "%%")
    forms = {f'"{received}"': '"%s"', f'"{decided}"': '"%s"', f'"{phases}"': "{%s}"}
    for mark in found:
        template = template.replace(mark, forms.get(mark, "%s"))
    cast = _Cast(redactor, node, template, shown)
    return cast if _is_true(cast, mould) else empty


def _is_true(cast: _Cast, mould: RecordMould) -> bool:
    """Whether a template gives what the long way gives, for values of its own."""
    values = tuple((name, secrets.token_hex(16)) for name in mould.headers)
    identity, request_id, path = (secrets.token_hex(each) for each in (16, 8, 12))
    probe = RepeatedRecord(mould, identity, 1.5, 2e9, request_id, path, 9, values, 7, {"recall": 5})
    whole = document_from_record(probe.whole(), node=cast.node, redactor=cast.redactor)
    return _fill(cast, probe) == _json(whole)


def _json(document: Mapping[str, Any]) -> str:
    """Return a document as its line has it, without the braces."""
    return encode_json(document)[1:-1]
