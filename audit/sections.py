"""Records rendered by sections, each of which is remembered by what it was made of.

Theory of operation. Of a record of a path that never came before, only ids, times, path and sizes
are new: caller, subject, destination and deciding rule came before, in other company. So each
section is made by the long way (`audit.document`) once, and its text is kept. INVARIANT: the line
is byte for byte what the long way makes of the record, whatever stands in it: nothing is kept by
less than all it was made of, and every text that is not kept is masked each time. Whatever does
not fit goes the long way.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from json.encoder import encode_basestring_ascii as quoted  # what `json.dumps` quotes by
from operator import attrgetter
from typing import Any, Final, NamedTuple, TypeVar

from audit.chain import encode_json
from audit.document import (
    decision_part,
    destination_part,
    failed_open_part,
    format_time,
    masked_text,
    peer_part,
    pointer,
    shadow_part,
    subject_part,
)
from audit.header_forms import HeaderForms, HeaderTexts
from audit.mould import LONGEST, Rendered
from audit.record import SCHEMA_VERSION, AuditRecord, Kind, RequestFacts
from audit.redact import PLAIN, Redactor
from audit.replay_facts import ReplayFacts, claims_part, metadata_part, standing_part
from audit.trace import trace_part

_MOST: Final = 512  # BUDGET: sections of a kind; those of a busy node's callers and rules
_LONGEST_KEPT: Final = 4096  # BUDGET: of a section's text and of the claims it is made of
_CONTEXTS: Final = 16  # BUDGET: carriers of tokens and headers looked at: those of a few policies
_BEGIN: Final = f'"kind":"{Kind.DECISION.value}","schema":{SCHEMA_VERSION},'
_NOTHING: Final[Mapping[str, Any]] = {}
_NO_HEADERS: Final[frozenset[str]] = frozenset()

_peer_key = attrgetter("principal", "spiffe_id", "proof", "mapping", "namespace", "service_account")
_decision_key = attrgetter(
    *("effect", "reason", "layer", "http_status", "policy", "rule", "place", "detail", "near_miss")
)
_standing_key = attrgetter(
    *("scheme", "destination_address", "sni", "headers_merged", "peer_names", "peer_sure"),
    *("peer_possible", "peer_over_mtls", "service", "token", "token_rules", "token_rule"),
    *("labels_untold", "is_token_moved", "asked", "default_provider", "paths"),
)


class _Section(NamedTuple):
    """The JSON of a section, and the pointers of what was masked in it, as JSON each."""

    text: str
    pointers: tuple[str, ...] = ()


class _Subject(NamedTuple):
    """A subject's section, and that of the replay's part which is made of the same claims.

    `claims` are those claims: kept, so that no others can have their identity.
    """

    claims: Mapping[str, Any]
    section: _Section
    replay: str


_NULL: Final = _Section("null")
_Kept = TypeVar("_Kept")


class SectionRenderer:
    """Renders the records of one node. For one thread."""

    def __init__(self, node: str, redactor: Redactor) -> None:
        """Begin with nothing remembered."""
        self._node = quoted(node)
        self._redactor = redactor
        self._peers: dict[Hashable, _Section] = {}
        self._subjects: dict[Hashable, _Subject] = {}
        self._destinations: dict[Hashable, _Section] = {}
        self._decisions: dict[Hashable, _Section] = {}
        self._targets: dict[Hashable, _Section] = {}
        self._standing: dict[Hashable, str] = {}
        self._templates: dict[Hashable, str] = {}
        self._headers: dict[tuple[frozenset[str], frozenset[str]], HeaderForms] = {}

    def render(self, record: AuditRecord) -> Rendered | None:
        """Return the text of a record; None where it has to go the long way."""
        try:
            text = self._text(record)
        except (ValueError, TypeError, RecursionError):
            # What is no JSON goes the long way, which says so on record.
            return None
        return Rendered(text) if len(text) <= LONGEST else None

    def _text(self, record: AuditRecord) -> str:
        request, replay = record.request, record.replay
        forms = self._forms(record)
        headers = forms.texts(request.headers)
        peer, subject = self._peer(record), self._subject(record)
        masked = [*peer.pointers, *subject.section.pointers]
        asked = self._request(request, headers, masked)
        decision = self._decision(record)
        masked += decision.pointers
        shadow = self._shadow(record, masked) if record.shadow else ""
        tail = self._tail(record, masked)
        if replay is not None:
            tail += self._replay(replay, forms, record, headers, subject.replay)
        audited = ",".join(map(quoted, record.audited_by))
        return (
            f'{_BEGIN}"decision_id":{quoted(record.decision_id)},'
            f'"received_at":"{format_time(record.received_at)}",'
            f'"decided_at":"{format_time(record.decided_at)}",'
            f'"node":{self._node},"revision":{quoted(record.revision)},"peer":{peer.text},'
            f'"subject":{subject.section.text},"destination":{self._destination(record).text},'
            f'"source":{{"address":{quoted(record.source_address)}}},"request":{asked},'
            f'"decision":{decision.text},"audited_by":[{audited}],"shadow":[{shadow}],'
            f'"duration_microseconds":{max(0, record.duration_microseconds):d},'
            f'"masked":[{",".join(masked)}]{tail}'
        )

    def _forms(self, record: AuditRecord) -> HeaderForms:
        """Return what writes the headers of records like this one."""
        replay = record.replay
        looked_at = _NO_HEADERS if replay is None else replay.looked_at_headers
        context = (record.request.token_carriers, looked_at)
        forms = self._headers.get(context)
        if forms is None:
            if len(self._headers) >= _CONTEXTS:
                self._headers.clear()
            forms = self._headers[context] = HeaderForms(self._redactor, *context)
        return forms

    def _peer(self, record: AuditRecord) -> _Section:
        peer = record.peer
        if peer is None:
            return _NULL
        key = (*_peer_key(peer), *peer.labels.items())
        found = self._peers.get(key)
        if found is None:
            masked: list[str] = []
            found = _section(peer_part(record, self._redactor, masked), masked)
            _keep(self._peers, key, found, len(found.text))
        return found

    def _subject(self, record: AuditRecord) -> _Subject:
        """Return the section of the subject; one without is made of no claims."""
        subject, replay = record.subject, record.replay
        claims = _NOTHING if subject is None else subject.claims
        looked_at = None if replay is None else replay.looked_at_claims
        key = (subject and (subject.issuer, subject.sub), id(claims), looked_at)
        found = self._subjects.get(key)
        if found is None:
            masked: list[str] = []
            part = subject_part(record, self._redactor, masked)
            shown = part["claims"] if part else _NOTHING
            told = claims_part(replay, claims, shown, self._redactor) if replay else _NOTHING
            found = _Subject(claims, _section(part, masked), _members(told))
            _keep(self._subjects, key, found, len(found.section.text) + len(repr(claims)))
        return found

    def _destination(self, record: AuditRecord) -> _Section:
        place = record.destination
        if place is None:
            return _NULL
        key = (place.namespace, place.service_account, place.port, *place.labels.items())
        found = self._destinations.get(key)
        if found is None:
            found = _section(destination_part(record), [])
            _keep(self._destinations, key, found, len(found.text))
        return found

    def _decision(self, record: AuditRecord) -> _Section:
        key = _decision_key(record.decision)
        found = self._decisions.get(key)
        if found is None:
            masked: list[str] = []
            part = decision_part(record.decision, self._redactor, masked, "decision")
            found = _section(part, masked)
            _keep(self._decisions, key, found, len(found.text))
        return found

    def _request(self, request: RequestFacts, headers: HeaderTexts, masked: list[str]) -> str:
        """Return a request, whose texts are masked each time."""
        redactor = self._redactor
        path = redactor.path(request.path, request.token_carriers)
        if path != request.path:
            masked.append(quoted(pointer("request", "path")))
        masked += headers.pointers
        identity = request.id
        if not PLAIN.fullmatch(identity):
            changed: list[str] = []
            identity = masked_text(identity, redactor, changed, "request", "id")
            masked += map(quoted, changed)
        asked = self._asked(request)
        masked += asked.pointers
        return (
            f'{{"id":{quoted(identity)},{asked.text},'
            f'"path":{quoted(path)},"protocol":{quoted(request.protocol)},'
            f'"headers":{{{headers.shown}}},"size":{max(-1, request.size):d}}}'
        )

    def _asked(self, request: RequestFacts) -> _Section:
        """Return the members for method and host."""
        key = (request.method, request.host)
        found = self._targets.get(key)
        if found is None:
            masked: list[str] = []
            method = masked_text(request.method, self._redactor, masked, "request", "method")
            host = masked_text(request.host, self._redactor, masked, "request", "host")
            text = f'"method":{quoted(method)},"host":{quoted(host)}'
            found = _Section(text, tuple(map(quoted, masked)))
            _keep(self._targets, key, found, len(method) + len(host))
        return found

    def _shadow(self, record: AuditRecord, masked: list[str]) -> str:
        changed: list[str] = []
        parts = [
            shadow_part(each, index, self._redactor, changed)
            for index, each in enumerate(record.shadow)
        ]
        masked += map(quoted, changed)
        return encode_json(parts)[1:-1]

    def _tail(self, record: AuditRecord, masked: list[str]) -> str:
        """Return what not every record has, but for the replay's part, commas before."""
        text = ""
        if record.xfcc:
            changed: list[str] = []
            text += f',"xfcc":{quoted(masked_text(record.xfcc, self._redactor, changed, "xfcc"))}'
            masked += map(quoted, changed)
        if record.failed_open:
            changed = []
            parts = [
                failed_open_part(each, index, self._redactor, changed)
                for index, each in enumerate(record.failed_open)
            ]
            masked += map(quoted, changed)
            text += f',"failed_open":{encode_json(parts)}'
        if record.phases:
            text += f',"phases_microseconds":{{{self._phases(record.phases)}}}'
        if record.trace is not None:
            text += f',"trace":{encode_json(trace_part(record.trace))}'
        return text

    def _phases(self, phases: Mapping[str, int]) -> str:
        names = tuple(phases)
        template = self._templates.get(names)
        if template is None:
            # WHY doubled: a sign of the name must not be taken for a place to fill.
            plain = [quoted(name).replace("{", "{{").replace("}", "}}") for name in names]
            template = ",".join([f"{name}:{{:d}}" for name in plain])
            _keep(self._templates, names, template, len(template))
        return template.format(*phases.values())

    def _replay(
        self,
        facts: ReplayFacts,
        forms: HeaderForms,
        record: AuditRecord,
        headers: HeaderTexts,
        claims: str,
    ) -> str:
        """Return the replay's part, a comma before; `claims` is what it has of them."""
        key = _standing_key(facts)
        standing = self._standing.get(key)
        if standing is None:
            standing = _members(standing_part(facts, self._redactor))
            _keep(self._standing, key, standing, len(standing))
        more = f',"headers":{{{headers.more}}}' if headers.more else ""
        hidden = f',"hidden_headers":[{headers.hidden}]' if headers.hidden else ""
        changes = forms.changes(record.request.headers, facts.rules_headers)
        metadata = _members(metadata_part(facts, self._redactor)) if facts.metadata else ""
        is_http = "true" if facts.is_http else "false"
        return f',"replay":{{"http":{is_http}{more}{hidden}{changes}{claims}{metadata}{standing}}}'


def _section(part: object, masked: list[str]) -> _Section:
    return _Section(encode_json(part), tuple(map(quoted, masked)))


def _members(part: Mapping[str, Any]) -> str:
    """Return the members of a part as they follow others, a comma before each."""
    return f",{encode_json(part)[1:-1]}" if part else ""


def _keep(kept: dict[Hashable, _Kept], key: Hashable, section: _Kept, size: int) -> None:
    if size <= _LONGEST_KEPT:
        if len(kept) >= _MOST:
            kept.clear()
        kept[key] = section
