"""A month of decisions, written as fast as the disk takes them: chained, signed, sealed.

Each line is that of `audit.document` for one of a few thousand sorts of decision, with ids, times
and paths of its own; the chain, the tree and the checkpoints are made by the code of `audit`.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from audit.chain import ChainState, link_line, parse_line, segment_name
from audit.checkpoint import Checkpoint
from audit.checkpoint_files import checkpoint_name, frontier_name
from audit.document import document_from_event, document_from_record, format_time
from audit.merkle import Frontier
from audit.record import (
    AuditEvent,
    AuditRecord,
    DecisionFacts,
    DestinationFacts,
    EventName,
    PeerFacts,
    RequestFacts,
    ShadowFacts,
    SubjectFacts,
)
from audit.redact import Redactor
from audit.replay_facts import ReplayFacts
from audit.signed_note import NoteSigner

BEGIN: Final = datetime(2026, 10, 1, tzinfo=UTC)
DAYS: Final = 30
POLICY: Final = "shop/no-admin"
"""The policy that denies most."""
_NODE: Final = "gateway-0"
_SORTS: Final = 3000
_SEGMENT_BYTES: Final = 64 * 1024 * 1024
_RELOADS: Final = ("rev-a", "rev-b", "rev-c")
# What differs from line to line, as it stands in a sort's text.
_SLOTS: Final = ("5107" * 8, "6208" * 8, "7309730973", "2001-02-03T04:05:06.000000Z", "918273645")
_TIME_OF_SORT: Final = datetime(2001, 2, 3, 4, 5, 6, tzinfo=UTC).timestamp()


@dataclass(frozen=True, slots=True)
class _Sort:
    """The text of a decision with places for what differs, and which of the values go there."""

    text: bytes
    slots: tuple[int, ...]


@dataclass(slots=True)
class _Folder:
    """The log as it grows."""

    folder: Path
    signer: NoteSigner
    chain: ChainState = field(default_factory=ChainState)
    tree: Frontier = field(default_factory=Frontier)
    number: int = 0
    lines: list[bytes] = field(default_factory=list)
    size: int = 0

    def put(self, line: bytes, chain: ChainState, at: float) -> None:
        """Write a line that ends the chain now, and seal the segment when it is full."""
        self.lines.append(line)
        self.tree.add(line[:-1])
        self.chain = chain
        self.size += len(line)
        if self.size >= _SEGMENT_BYTES:
            self.seal()
            self.begin(at)

    def begin(self, at: float) -> None:
        """Begin a segment."""
        self.number += 1
        header = {
            "kind": "segment",
            "schema": 1,
            "segment": self.number,
            "first_seq": self.chain.seq + 1,
            "log_id": "bench",
            "node": _NODE,
            "created_at": format_time(at),
        }
        line, chain = link_line(self.chain, header)
        self.put(line, chain, at)

    def seal(self) -> None:
        """Write the segment and its checkpoint."""
        (self.folder / segment_name(self.number)).write_bytes(b"".join(self.lines))
        checkpoint = Checkpoint(self.signer.name, self.tree.size, self.tree.root())
        note = self.signer.sign(str(checkpoint))
        (self.folder / checkpoint_name(self.number)).write_bytes(note)
        peaks = [peak.hex() for peak in self.tree.peaks]
        frontier = json.dumps({"size": self.tree.size, "peaks": peaks}) + "\n"
        (self.folder / frontier_name(self.number)).write_text(frontier)
        self.lines, self.size = [], 0


def write_month(
    folder: Path, count: int, signer: NoteSigner, *, tell: Callable[[int], None]
) -> None:
    """Write `count` decisions of a month; `tell` is called now and then with how many there are.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True)
    dice = random.Random(5)  # noqa: S311 - the same month each time
    log = _Folder(folder, signer)
    log.begin(BEGIN.timestamp())
    _event(log, EventName.START, BEGIN.timestamp(), {"revision": _RELOADS[0]})
    sorts = [_sorts(dice, revision) for revision in _RELOADS]
    done, phase = 0, 0
    for hour, share in _hours(count):
        at = (BEGIN + timedelta(hours=hour)).timestamp()
        if hour in (200, 480):
            phase += 1
            _event(log, EventName.RELOAD, at, {"result": "loaded", "revision": _RELOADS[phase]})
        _write_hour(log, sorts[phase], at, share, dice)
        done += share
        tell(done)
    _event(log, EventName.STOP, (BEGIN + timedelta(days=DAYS)).timestamp(), {})
    log.seal()
    _prove(folder / segment_name(1))


def _hours(count: int) -> Iterator[tuple[int, int]]:
    """Yield each hour with how many decisions fall into it: a wave a day, little at weekends."""
    weights = [
        (1.2 - math.cos((hour % 24) / 24 * 2 * math.pi))
        * (0.35 if (BEGIN + timedelta(hours=hour)).weekday() > 4 else 1.0)
        for hour in range(DAYS * 24)
    ]
    whole, begun, done = sum(weights), 0.0, 0
    for hour, weight in enumerate(weights):
        begun += weight
        until = round(count * begun / whole)
        yield hour, until - done
        done = until


def _write_hour(
    log: _Folder, sorts: list[_Sort], at: float, count: int, dice: random.Random
) -> None:
    sha256, step = hashlib.sha256, 3600 / max(1, count)
    for number in range(count):
        seconds = at + number * step
        sort = sorts[int(dice.random() ** 2 * len(sorts))]
        random_bits = dice.getrandbits(256)
        values = (
            b"%032x" % (random_bits & ((1 << 128) - 1)),
            b"%032x" % (random_bits >> 128),
            b"%d" % (random_bits % 90_000),
            format_time(seconds).encode(),
            b"%d" % (120 + random_bits % 700),
        )
        chain = log.chain
        head = b'{"seq":%d,"prev":"%b",' % (chain.seq + 1, chain.hash.encode())
        covered = head + sort.text % tuple(values[slot] for slot in sort.slots)
        digest = sha256(covered).hexdigest()
        line = b'%b,"hash":"%b"}\n' % (covered, digest.encode())
        log.put(line, ChainState(chain.seq + 1, digest), seconds)


def _event(log: _Folder, name: EventName, at: float, details: dict[str, Any]) -> None:
    event = AuditEvent(event=name, at=at, details=details)
    document = document_from_event(event, node=_NODE, redactor=Redactor())
    line, chain = link_line(log.chain, document)
    log.put(line, chain, at)


def _sorts(dice: random.Random, revision: str) -> list[_Sort]:
    redactor = Redactor()
    return [_sort(_record(dice, revision), redactor) for _ in range(_SORTS)]


def _sort(record: AuditRecord, redactor: Redactor) -> _Sort:
    document = document_from_record(record, node=_NODE, redactor=redactor)
    text = json.dumps(document, separators=(",", ":"))[1:-1].replace("%", "%%")
    pattern = "|".join(map(re.escape, _SLOTS))
    slots = tuple(_SLOTS.index(found) for found in re.findall(pattern, text))
    return _Sort(re.sub(pattern, "%b", text).encode("ascii"), slots)


def _record(dice: random.Random, revision: str) -> AuditRecord:
    source = f"spiffe://cluster.local/ns/{_place(dice, 6)}/sa/app-{int(dice.random() ** 2 * 40)}"
    place, account = _place(dice, 8), f"svc-{int(dice.random() ** 2 * 12)}"
    host = f"{account}.{place}.svc.cluster.local:8080"
    method = dice.choices(("GET", "POST", "PUT", "DELETE"), (70, 20, 6, 4))[0]
    path = f"/api/v1/{dice.choice(('orders', 'carts', 'users', 'admin'))}/{_SLOTS[2]}?page=2"
    headers = {
        ":authority": host, ":method": method, ":path": path, ":scheme": "http",
        "accept": "application/json", "user-agent": "okhttp/4.12.0", "x-request-id": _SLOTS[1],
        "x-forwarded-proto": "https", "authorization": "Bearer secret",
    }  # fmt: skip
    is_named = dice.random() < 0.97
    return AuditRecord(
        decision_id=_SLOTS[0],
        received_at=_TIME_OF_SORT,
        decided_at=_TIME_OF_SORT,
        revision=f"sha256:{hashlib.sha256(revision.encode()).hexdigest()}",
        peer=PeerFacts(principal=source, spiffe_id=source) if is_named else None,
        subject=SubjectFacts(
            issuer="https://login.example", sub=f"user-{dice.randrange(500)}", claims={"aud": host}
        ),
        destination=DestinationFacts(
            namespace=place, service_account=account, labels={"app": account}, port=8080
        ),
        source_address="10.4.7.21",
        request=RequestFacts(
            method=method, host=host, path=path, protocol="HTTP/1.1", id=_SLOTS[1], size=0,
            headers={name: (value,) for name, value in headers.items()},
            token_carriers=frozenset({"authorization"}),
        ),
        decision=_decision(dice, is_named),
        shadow=_shadow(dice),
        replay=ReplayFacts(
            scheme="http", destination_address="10.4.9.3", token="verified",  # noqa: S106
            rules_headers={name: (value,) for name, value in headers.items()},
            token_rules="sha256:" + "a" * 64, token_rule="sha256:" + "b" * 64,
        ),
        duration_microseconds=int(_SLOTS[4]),
    )  # fmt: skip


def _place(dice: random.Random, count: int) -> str:
    return ("shop", "pay", "ship", "users", "search", "mail", "stock", "ops")[
        int(dice.random() ** 1.5 * count)
    ]


def _decision(dice: random.Random, is_named: bool) -> DecisionFacts:
    drawn = dice.random()
    if not is_named and drawn < 0.6:
        return DecisionFacts(
            effect="deny", reason="no_rule_allowed", layer="ALLOW", http_status=403,
            near_miss="shop/web#1: would have matched but for `principals`",
        )  # fmt: skip
    if drawn < 0.05:
        policy = POLICY if drawn < 0.03 else "pay/no-test-cards"
        return DecisionFacts(
            effect="deny", reason="deny_rule_matched", layer="DENY", http_status=403,
            policy=policy, rule=0, place="policies/deny.yaml:12",
        )  # fmt: skip
    rule = int(dice.random() ** 2 * 9)
    return DecisionFacts(
        effect="allow", reason="allow_rule_matched", layer="ALLOW", http_status=200,
        policy=("shop/web", "pay/api", "users/read")[rule % 3], rule=rule,
        place=f"policies/allow.yaml:{10 + 8 * rule}",
    )  # fmt: skip


def _shadow(dice: random.Random) -> tuple[ShadowFacts, ...]:
    if dice.random() > 0.1:
        return ()
    outcome = "would_deny" if dice.random() < 0.2 else "same"
    return (
        ShadowFacts(
            policy="shop/tighter", action="DENY", matched=None, effect="deny", outcome=outcome
        ),
    )


def _prove(segment: Path) -> None:
    """Hold a segment's first lines to the reader of `audit`."""
    with segment.open("rb") as file:
        state = ChainState()
        for raw, _ in zip(file, range(1000), strict=False):
            line = parse_line(raw)
            assert (line.seq, line.prev) == (state.seq + 1, state.hash)
            state = line.state
