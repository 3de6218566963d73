"""`policy eval`: CheckRequests as JSON lines, answered by the server's own Authorizer.

Each line becomes the bytes that Envoy would have sent, and the answer is read
from the record that the server would have written: there is no second walk.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import IO, Any

from envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from google.protobuf.json_format import ParseDict

from audit.mould import RepeatedRecord
from audit.record import AuditRecord, ShadowFacts
from authz.candidate_once import CandidateOnce
from authz.metrics import Metrics
from authz.pipeline import Authorizer
from authz.serving_state import ServingState
from authz.walk import Outcome, Surroundings
from authz.workload import NAMESPACE_EXTENSION, SERVICE_ACCOUNT_EXTENSION
from dryrun.candidate import CANDIDATE
from dryrun.shadow import TOGETHER
from policies.decision import Reason
from policies.diagnostic import shown

MAX_LINE = 16 * 1024 * 1024
"""The longest line in bytes: the server takes no larger message."""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_BAD_REQUEST = 400
# RFC 3339 section 5.6 date-time; "T" and "Z" may be lower case, a space may stand for "T".
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:)(\d\d)(\.\d{1,18})?([Zz]|[-+]\d\d:\d\d)", re.ASCII
)
_LEAP_SECOND = "60"
_BASE64 = re.compile(r"[-_+/A-Za-z0-9]*={0,2}", re.ASCII)
_METADATA = (
    "metadataContext",
    "metadata_context",
    "routeMetadataContext",
    "route_metadata_context",
)
_TYPED_METADATA = frozenset({"typedFilterMetadata", "typed_filter_metadata"})
_IN_MESSAGE = re.compile(r" at \"?CheckRequest[^ ]*$")
_IN_FIELD = re.compile(r"Failed to parse (\w{1,64}) field: ")

Answer = dict[str, Any]
"""One line of output, in the order of its keys."""


class MalformedLineError(Exception):
    """A line is no request; the message says why in one clause."""


class Evaluator:
    """Answers lines one after the other; not for several threads at once."""

    def __init__(
        self,
        state: ServingState,
        around: Surroundings,
        fallback_namespace: str = "",
        *,
        is_workload_said: bool = False,
        candidate: CandidateOnce | None = None,
    ) -> None:
        """Judge by `state`; each line sets the clock of `around`.

        `fallback_namespace` is that of the workload where neither the static one
        nor the request names any; `fallbacks` counts how often it was taken. With
        `is_workload_said` the static one counts, whatever a request says. `candidate`
        is asked beside `state`.
        """
        self._clock = _Clock()
        around = replace(around, now=self._clock.now)
        if candidate is not None:
            around = replace(around, candidate=candidate.verdict(around))
        self._recorder = _LastRecord()
        self._authorizer = Authorizer(
            state=lambda: state,
            around=around,
            recorder=self._recorder,
            metrics=Metrics(),
        )
        static = around.static_workload
        self._fallback = "" if static and static.namespace else fallback_namespace
        self._is_workload_said = is_workload_said
        self.fallbacks = 0

    def answer(self, line: bytes) -> Answer:
        """Return the answer to one line.

        Raises:
            MalformedLineError: the line is not the protobuf JSON of a CheckRequest.
        """
        self._authorizer.check(self._message(line))
        return _answer(self._recorder.record())

    def outcome(self, line: bytes) -> Outcome:
        """Return all that the answer to one line rests on; the walk is the same.

        Raises:
            MalformedLineError: the line is not the protobuf JSON of a CheckRequest.
        """
        return self._authorizer.outcome(self._message(line))

    def _message(self, line: bytes) -> bytes:
        """Return the bytes that Envoy would have sent, and set the clock to the line's."""
        document = _parse(line)
        at = _read_time(document.pop("at", None))
        message = _to_message(document)
        attributes = message.attributes
        if self._is_workload_said:
            for name in (NAMESPACE_EXTENSION, SERVICE_ACCOUNT_EXTENSION):
                attributes.context_extensions.pop(name, None)
        # A principal of this side names the namespace, as it does for the server.
        if (
            self._fallback
            and NAMESPACE_EXTENSION not in attributes.context_extensions
            and not attributes.destination.principal
        ):
            attributes.context_extensions[NAMESPACE_EXTENSION] = self._fallback
            self.fallbacks += 1
        self._clock.at = at
        return bytes(message.SerializeToString())


def read_lines(stream: IO[bytes], longest: int = MAX_LINE) -> Iterator[tuple[int, bytes | None]]:
    """Yield each line that is not blank with its number from 1; None for one that is too long."""
    number = 0
    while line := stream.readline(longest + 1):
        number += 1
        if len(line) > longest and not line.endswith(b"\n"):
            yield number, None
            while line and not line.endswith(b"\n"):
                line = stream.readline(longest)
            continue
        if number == 1:
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if line.strip():
            yield number, line


def malformed_answer(why: str, place: str) -> Answer:
    """Return the answer to a line that is no request: a denial, as the server's."""
    return {
        "decision": "deny",
        "status": _BAD_REQUEST,
        "policy": None,
        "rule": None,
        "reason": str(Reason.REQUEST_MALFORMED),
        "shadow": [],
        "audited": [],
        "layer": "request",
        "detail": why,
        "location": place,
    }


class _Clock:
    """The time tokens are judged by: the line's own, or now."""

    at: float | None = None

    def now(self) -> float:
        return time.time() if self.at is None else self.at


class _LastRecord:
    """Keeps the record of the newest answer."""

    _record: AuditRecord | None = None

    def offer(self, record: AuditRecord | RepeatedRecord) -> None:
        """Accept a record."""
        self._record = record.whole() if isinstance(record, RepeatedRecord) else record

    def record(self) -> AuditRecord:
        """Return the record; every answer has one."""
        assert self._record is not None
        return self._record


def _parse(line: bytes) -> dict[str, Any]:
    try:
        document = json.loads(
            line.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except UnicodeDecodeError as exc:
        raise MalformedLineError(f"not UTF-8 at byte {exc.start}") from exc
    except json.JSONDecodeError as exc:
        raise MalformedLineError(f"not JSON at column {exc.colno}: {exc.msg}") from exc
    except RecursionError as exc:
        raise MalformedLineError("nested too deep") from exc
    except ValueError as exc:
        # int() of a number of thousands of digits.
        raise MalformedLineError(f"not JSON: {shown(str(exc))}") from exc
    if not isinstance(document, dict):
        raise MalformedLineError("not a JSON object")
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object; a key that stands twice leaves open which one counts."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twin = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise MalformedLineError(f"the key `{shown(twin)}` stands twice in one object")
    return found


def _no_constant(name: str) -> Any:
    raise MalformedLineError(f"not JSON: `{name}` is no number")


def _read_time(value: Any) -> float | None:
    """Return the epoch seconds of an RFC 3339 time; None means that none is written."""
    if value is None:
        return None
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise MalformedLineError("`at` is not an RFC 3339 time such as `2026-01-15T10:00:00Z`")
    date, minute, second, fraction, zone = match.groups()
    is_leap = second == _LEAP_SECOND
    text = f"{date}T{minute}{'59' if is_leap else second}{fraction or ''}"
    try:
        time_ = datetime.fromisoformat(text + ("+00:00" if zone in "Zz" else zone))
        return time_.timestamp() + is_leap
    except (ValueError, OverflowError) as exc:
        raise MalformedLineError(f"`at` is no time: {exc}") from exc


def _to_message(document: dict[str, Any]) -> CheckRequest:
    _check_bytes(document)
    try:
        return ParseDict(_without_typed_metadata(document), CheckRequest())
    except RecursionError as exc:
        raise MalformedLineError("nested too deep") from exc
    except Exception as exc:
        # WHY so wide: besides its ParseError, protobuf's JSON reader lets out whatever a value
        # of the wrong type makes its own code raise.
        raise MalformedLineError(f"not a CheckRequest: {_why(exc)}") from exc


def _check_bytes(document: dict[str, Any]) -> None:
    """Refuse bytes that are not base64, of which protobuf's reader would make other bytes."""
    http = _at(_at(_at(document, "attributes"), "request"), "http")
    header_map = _at(http, "headerMap") or _at(http, "header_map")
    headers = _at(header_map, "headers")
    for owner in (http, *(headers if isinstance(headers, list) else ())):
        for key in ("rawBody", "raw_body", "rawValue", "raw_value"):
            value = _at(owner, key)
            if isinstance(value, str) and not _BASE64.fullmatch(value):
                raise MalformedLineError(f"not a CheckRequest: `{key}` is not base64")


def _without_typed_metadata(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document without the messages of other extensions.

    The server never opens them, and their types need not be known here.
    """
    attributes = _at(document, "attributes")
    for outer in _METADATA:
        context = _at(attributes, outer)
        if not isinstance(context, dict):
            continue
        kept = {key: value for key, value in context.items() if key not in _TYPED_METADATA}
        attributes = {**attributes, outer: kept}
    return document if attributes is None else {**document, "attributes": attributes}


def _at(node: Any, key: str) -> Any:
    return node.get(key) if isinstance(node, dict) else None


def _why(exc: Exception) -> str:
    """Return what protobuf says, with the path of the field in front of it."""
    said = _IN_MESSAGE.sub("", " ".join(str(exc).split()).rstrip(".")) or type(exc).__name__
    path: list[str] = []
    while match := _IN_FIELD.match(said):
        path.append(match[1])
        said = said[match.end() :]
    return f"`{'.'.join(path)}`: {shown(said)}" if path else shown(said)


def _answer(record: AuditRecord) -> Answer:
    """Return a record as a line of output."""
    decision = record.decision
    answer: Answer = {
        "decision": str(decision.effect),
        "status": decision.http_status,
        "policy": decision.policy,
        "rule": decision.rule,
        "reason": str(decision.reason),
        # What all dry-run policies come to together has no rule and no policy's name.
        "shadow": [_shadow(facts) for facts in record.shadow if facts.policy != TOGETHER],
        "audited": [
            dict(zip(("policy", "rule"), _split(name), strict=True)) for name in record.audited_by
        ],
        "layer": str(decision.layer),
        "detail": decision.detail,
        "location": decision.place,
    }
    if decision.near_miss:
        answer["near_miss"] = decision.near_miss
    return answer


def _shadow(facts: ShadowFacts) -> Answer:
    """Return a dry-run policy with the rule of it that matched, and the answer it would have made.

    `would` is `error` where the shadow could not be evaluated. The candidate set has no rule of
    its own: `matched` names policy and rule that would decide, `detail` says what differs.
    """
    answer: Answer = {
        "policy": facts.policy,
        "rule": _split(facts.matched)[1] if facts.matched else None,
        "would": "error" if facts.outcome == "error" else str(facts.effect),
    }
    if facts.policy == CANDIDATE:
        answer |= {"rule": None, "matched": facts.matched, "detail": facts.detail}
    return answer


def _split(name: str) -> tuple[str, int | None]:
    """Return policy and rule of `namespace/policy#rule`."""
    policy, sharp, rule = name.partition("#")
    return policy, int(rule) if sharp else None
