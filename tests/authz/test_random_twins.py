"""An authorizer that remembers all it can, and one that remembers nothing, in random worlds.

Each world has policies of every kind, edits of them, requests that differ in one aspect, and
all that a decision rests on changing under way. The second one reads each set whole, compiles
each policy alone, verifies each token and certificate anew, and renders each record by the long
way. MESHWARDEN_RANDOM_WORLDS is how many worlds there are, MESHWARDEN_RANDOM_FIRST the first.
"""

from __future__ import annotations

import itertools
import json
import os
import random
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

import pytest
import random_worlds
from random_worlds import Asked
from reading_whole import outcome, read_whole, told
from remembering import BEGIN, ENDS, Counting, Keeper, World, until

from audit import mould
from audit.chain import encode_json
from audit.document import document_from_record
from audit.keyed_hash import KeyedHash
from audit.mould import RepeatedRecord, render_repeated
from audit.record import AuditRecord
from audit.redact import Redactor
from audit.sections import SectionRenderer
from authz import pipeline
from authz.check_response import encode_check_response
from authz.custom import CustomTerms
from authz.decision_memory import DecisionMemory
from authz.metrics import Metrics
from authz.pipeline import Authorizer
from authz.prepared_answer import decision_metadata, prepared_answer, with_id
from authz.serving_state import ServingState
from authz.settings import IdentityHeaderSettings
from authz.walk import Surroundings
from identity.jwks import JwkSet
from identity.jwt_verify import verify_token
from identity.peer_finding import PeerRules
from identity.spiffe_id import SpiffeId
from identity.svid_fault import SvidRefusal
from identity.svid_memory import SvidMemory
from identity.token_memory import TokenMemory
from identity.trust_bundle import BundleSet
from identity.x509_svid import X509Svid
from identity.xfcc_trust import TrustedForwarder, XfccTrust
from policies.decision import Decision
from policies.mesh import Mesh, MeshMode, PathNormalization
from policies.pace import no_pace
from policies.request import Workload
from policies.set_memory import SetMemory
from policies.snapshot import Snapshot, build_snapshot

_WORLDS = int(os.environ.get("MESHWARDEN_RANDOM_WORLDS", "6"))
_FIRST = int(os.environ.get("MESHWARDEN_RANDOM_FIRST", "0"))
_STEPS = 60
_WEB = SpiffeId.parse("spiffe://mesh.example/ns/shop/sa/web")
_REDACTORS = (
    Redactor(),
    Redactor(
        headers=(":path", "x-a", "b3", "traceparent"),
        secret_parameters=("card",),
        secret_headers=("x-out",),
    ),
    Redactor(
        headers=(":path",),
        claims=("a", "deep"),
        hashing=KeyedHash(b"k" * 32, headers=(":path", "x-request-id"), claims=("sub",)),
    ),
)


class _Keys(dict[str, JwkSet | None]):
    """No keys of an issuer that nobody knows."""

    def __missing__(self, issuer: str) -> None:
        """Have none."""


def _renew(world: World) -> None:
    """Have everything as it was in the beginning."""
    world.now, world.keys, world.is_full = BEGIN, _Keys(World().keys), False
    world.allow()


_EVENTS: list[Callable[[World], None]] = [
    *[_renew] * 6,
    *(
        lambda world, seconds=seconds: setattr(world, "now", world.now + seconds)
        for seconds in (0.5, 1, 30, 59, 61, 3700, -1)
    ),
    *(
        lambda world, moment=moment: setattr(world, "now", moment)
        for moment in (BEGIN + 89, BEGIN + 120, BEGIN + 160, BEGIN + 161, ENDS, ENDS + 1)
    ),
    World.rotate,
    World.lose_keys,
    World.change_bundles,
    World.change_bundles,
    World.allow,
    lambda world: world.deny(None),
    lambda world: world.deny(until(world, 20)),
    lambda world: setattr(world, "is_full", not world.is_full),
    *[lambda world: setattr(world, "is_full", False)] * 2,
]
_OTHER_TEXTS = [
    *random_worlds.PATHS,
    *("b", "GET", "PUT", "shop", "10.2.3.4", "9090", "on", "1", "x" * 101, "ALLOW", "DENY"),
]
_COUNTED = tuple(
    f"meshwarden_{name}"
    for name in ("decisions_total", "policy", "shadow_total", "provider", "check_seconds_count")
)


class _Forgetful(SvidMemory):
    """Verifies each certificate anew."""

    def verify(
        self, chain: tuple[bytes, ...], bundles: BundleSet, at: datetime
    ) -> X509Svid | SvidRefusal:
        """Return what a memory says that knows nothing."""
        return SvidMemory().verify(chain, bundles, at)


class _Side:
    """One of the two authorizers."""

    def __init__(self, scenario: _Scenario, memory: DecisionMemory | None) -> None:
        chance, world = random.Random(scenario.seed), scenario.world
        self.remembers = memory is not None
        self.keeper = Keeper(world)
        self.state: ServingState | None = None
        ids = (f"{number:032x}" for number in itertools.count())
        trust = XfccTrust(forwarders=chance.choice(((), (), (TrustedForwarder(spiffe_id=_WEB),))))
        rules = PeerRules(
            xfcc=trust,
            forwarded_key=chance.choice(("", "", "k")),
            verify_all=chance.random() < 0.05,
            verified_domains=chance.choice((frozenset(), frozenset({"mesh.example"}))),
            denied=lambda: world.denied,
        )
        usual, own = IdentityHeaderSettings(), IdentityHeaderSettings(subject="b3", decision_id="")
        known, labelled = Workload(namespace="shop"), {"v": "1"}
        static = (*[known] * 6, Workload(namespace="shop", labels=labelled), None)
        self.authorizer = Authorizer(
            state=self._serving,
            around=Surroundings(
                keys=world,
                now=lambda: world.now,
                wall_clock=lambda: world.now,
                verify_token=TokenMemory().verify if self.remembers else verify_token,
                static_workload=chance.choice(static),
                bundles=lambda: world.bundles,
                peer_rules=rules,
                headers=chance.choice((usual, usual, own)),
                svids=SvidMemory() if self.remembers else _Forgetful(),
            ),
            recorder=self.keeper,
            metrics=Metrics(),
            new_id=lambda: next(ids),
            memory=memory,
        )

    def _serving(self) -> ServingState:
        assert self.state is not None
        return self.state

    def counted(self) -> list[str]:
        """Return what the metrics say of decisions."""
        lines = self.authorizer.metrics.text().decode().splitlines()
        return [each for each in lines if each.startswith(_COUNTED)]


class _Scenario:
    """A world with its two authorizers, which are asked and reloaded alike."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        chance = self.chance = random.Random(seed)
        self.mode = chance.choice(["sidecar"] * 5 + ["gateway", "waypoint", "ztunnel"])
        self.mesh = Mesh(
            mode=MeshMode(self.mode),
            path_normalization=chance.choice(list(PathNormalization)),
            trusted_proxy_hops=chance.choice((None, 0, 1)),
            trust_domain=chance.choice(("mesh.example", "cluster.local")),
            trust_domain_aliases=chance.choice(((), ("old",))),
            envoy_version=chance.choice(((1, 37), (1, 40))),
        )
        self.redactor = chance.choice(_REDACTORS)
        self.terms = CustomTerms(
            default=chance.choice(("",) * 15 + ("p",)), asks_several=chance.random() < 0.8
        )
        self.world = World()
        _renew(self.world)
        memory = DecisionMemory(chance.choice((1, 3, 1024)))
        self.sides = [_Side(self, memory), _Side(self, None)]
        self.sections = SectionRenderer("n", self.redactor)
        self.sets = SetMemory()
        self.styles = chance.choice(((0,), (1,), (2,), (3,), (0, 1, 2, 3)))
        self.number = self.recalled = self.loads = 0
        self.documents: list[dict[str, Any]] = []
        while not self.load():
            self.documents = [
                random_worlds.policy(chance, f"p{number}", self.mode)
                for number in range(chance.choice((1, 2, 3, 5, 8)))
            ]
            if chance.random() < 0.6:
                self.documents.append(random_worlds.tokens())
            if chance.random() < 0.6:
                self.documents.append(random_worlds.policy(chance, "zz"))
                self.documents[-1]["spec"] = {"rules": [{}]}
                self.documents[-1]["kind"] = "AuthorizationPolicy"

    def load(self) -> bool:
        """Have both read the documents and serve them; return whether they could."""
        if not self.documents:
            return False
        texts = self._texts()
        self.loads += 1
        whole = outcome(lambda: read_whole(texts, self.mesh))
        shared = outcome(lambda: build_snapshot(texts, self.mesh, memory=self.sets))
        assert told(whole) == told(shared)
        if not isinstance(whole, Snapshot) or not isinstance(shared, Snapshot):
            return False
        for side, snapshot in zip(self.sides, (shared, whole), strict=True):
            before, providers = side.state, {"p": Counting(), "q": Counting()}
            revision = f"r{self.loads}"
            side.state = ServingState(
                snapshot=snapshot, providers=providers, revision=revision, terms=self.terms
            )
            if side.remembers and before is not None and self.chance.random() < 0.7:
                side.state.prepare_for(before, no_pace, 5.0)
        return True

    def _texts(self) -> list[tuple[str, str]]:
        chance = self.chance
        pieces = [
            random_worlds.text_of(chance, each, chance.choice(self.styles))
            for each in self.documents
        ]
        if chance.random() < 0.1:
            return [(f"{number}.yaml", each) for number, each in enumerate(pieces)]
        return [("p.yaml", "---\n".join(pieces))]

    def edit(self) -> None:
        """Change the set by one document, or by one value of one; what is refused is not kept."""
        chance, kept = self.chance, self.documents
        self.documents = json.loads(json.dumps(kept))
        at, dice = chance.randrange(len(kept)), chance.random()
        made = random_worlds.policy(chance, f"q{self.loads}", self.mode)
        if dice < 0.2 and len(kept) > 1:
            del self.documents[at]
        elif dice < 0.4:
            self.documents.insert(at, made)
        elif dice < 0.5:
            self.documents[at] = made
        elif dice < 0.6:
            self.documents[at]["metadata"]["name"] += chance.choice(("x", "-y", "z" * 101))
        elif dice < 0.9:
            node, key = chance.choice(list(_values(self.documents)))
            node[key] = chance.choice(_OTHER_TEXTS)
        if not self.load():
            self.documents = kept

    def ask(self, asked: Asked) -> None:
        """Ask both; hold that answers and records are the same."""
        self.number += 1
        traces = (f"{self.number:x}", "0", "bad-1", "Bearer ABCDEF12345", "", "x")
        message = random_worlds.message_of(asked, self.number, self.chance.choice(traces))
        answers, written = [], []
        for side in self.sides:
            answers.append(side.authorizer.check(message, asked["forwarded"]))
            records = side.keeper.records
            self.recalled += any(isinstance(each, RepeatedRecord) for each in records)
            written.append([self._written(side, each) for each in records])
            records.clear()
        assert written[0] == written[1], (self.seed, asked)
        assert answers[0] == answers[1], (self.seed, asked)

    def _written(self, side: _Side, record: AuditRecord | RepeatedRecord) -> dict[str, Any]:
        """Return a record as its writer writes it, or by the long way alone; without durations."""
        text = ""
        if isinstance(record, RepeatedRecord):
            rendered = render_repeated(record, "n", self.redactor)
            text = rendered.text if rendered is not None else ""
            record = record.whole()
        if side.remembers and not text:
            rendered = self.sections.render(record)
            text = rendered.text if rendered is not None else ""
        if not text:
            text = encode_json(document_from_record(record, node="n", redactor=self.redactor))[1:-1]
        document: dict[str, Any] = json.loads(f"{{{text}}}")
        for name in ("duration_microseconds", "phases_microseconds"):
            document.pop(name, None)
        return document

    def run(self) -> None:
        """Ask, change the world, ask what may be alike, and edit."""
        chance = self.chance
        pool = [random_worlds.asked(chance) for _ in range(chance.choice((1, 2, 4)))]
        for _ in range(_STEPS):
            dice, question = chance.random(), dict(chance.choice(pool))
            if dice < 0.05:
                self.edit()
            elif dice < 0.5:
                random_worlds.change(chance, question)
            for turn in range(chance.choice((1, 3, 4))):
                self.ask(question)
                if turn > 1:
                    self.ask(self._like(question))
            if dice > 0.75:
                chance.choice(_EVENTS)(self.world)
                self.ask(question)
        one, other = (side.counted() for side in self.sides)
        assert one == other, self.seed

    def _like(self, question: Asked) -> Asked:
        """Return a question that may be decided alike."""
        chance, other = self.chance, dict(question)
        if chance.random() < 0.8:
            other["path"] = chance.choice(random_worlds.TARGETS)
        if chance.random() < 0.3:
            other["query"] = chance.choice(random_worlds.QUERIES)
        if chance.random() < 0.2:
            random_worlds.change(chance, other)
        return other


def _values(node: Any) -> Iterable[tuple[Any, Any]]:
    """Yield the place of each text, but for those that say what a document or a clause is."""
    for key in node if isinstance(node, dict) else range(len(node)):
        if isinstance(node[key], (dict, list)):
            yield from _values(node[key])
        elif isinstance(node[key], str) and key not in ("apiVersion", "kind", "key"):
            yield node, key


class _HeldAnswers:
    """Answers of one shape made once, each held against one that is made for itself."""

    def __init__(self) -> None:
        """Begin with none that differs."""
        self.differ: list[Decision] = []

    def __call__(
        self, decision: Decision, id_header: str, decision_id: str, *, is_http: bool
    ) -> bytes | None:
        """Return the prepared answer."""
        found = prepared_answer(decision, id_header, decision_id, is_http=is_http)
        whole = encode_check_response(
            decision,
            decision_metadata(decision, decision_id),
            response_headers=with_id(decision.mutations, id_header, decision_id),
            is_http=is_http,
        )
        if found not in (None, whole):
            self.differ.append(decision)
        return found


def test_who_remembers_says_what_one_says_who_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """In every world answers, records, metrics and refused sets are the same."""
    # WHY: else the moulds of few records would be used.
    monkeypatch.setattr(mould, "_FIRST_BY_HAND", 0)
    answers = _HeldAnswers()
    monkeypatch.setattr(pipeline, "prepared_answer", answers)
    recalled = 0
    for seed in range(_FIRST, _FIRST + _WORLDS):
        scenario = _Scenario(seed)
        scenario.run()
        recalled += scenario.recalled
    assert recalled > 5 * _WORLDS
    assert answers.differ == []
