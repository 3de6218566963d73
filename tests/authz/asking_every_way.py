"""One random world, asked in every way there is: the answers have to be one answer.

A world is policies of every kind, a mesh, Rego and requests. What serves is asked by the bytes
that Envoy sends; the commands are asked the same, each in its own words.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import random_worlds
import yaml
from checking import MemoryRecorder
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from google.protobuf.json_format import MessageToDict
from remembering import BEGIN, ISSUERS, World, policy

from audit.document import document_from_record
from audit.redact import Redactor
from authz.custom import CustomTerms
from authz.evaluate import Evaluator
from authz.metrics import Metrics
from authz.pipeline import Authorizer
from authz.replay_parts import NewRego, candidate_set
from authz.serving_state import ServingState, combined_revision
from authz.walk import Outcome, Surroundings, walk_with_peer
from dryrun.candidate import CandidateShadow
from dryrun.replay import Replayed, Replayer
from identity.jwks import JwkSet
from identity.jwt_rule import JwtRule
from opa_bridge.compatibility import Compatibility
from opa_bridge.needed_input import NeededInput
from opa_bridge.provider import ProviderOptions, RegoProvider, load_provider
from policies.decision import Decision
from policies.diagnostic import LoadError
from policies.mesh import Mesh, MeshMode, PathNormalization
from policies.request import Request, Workload
from policies.snapshot import build_snapshot

Documents = list[dict[str, Any]]
_HEAD = "package envoy.authz\nimport rego.v1\n"
MODULES: Mapping[str, str] = {
    "method": 'default allow := false\nallow if input.attributes.request.http.method == "GET"\n',
    "path": 'default allow := false\nallow if input.parsed_path[0] == "a"\n',
    "alice": 'default allow := false\nallow if input.meshwarden.claims.sub == "alice"\n',
    "web": 'default allow := false\nallow if endswith(input.source_principal, "/web")\n',
    "istio": 'default allow := false\nallow if input.meshwarden.istio.would == "deny"\n',
    "header": 'default allow := false\nallow if input.attributes.request.http.headers["x-a"]\n',
    "sets": 'allow := {"allowed": true, "headers": {"x-a": "x", "x-out": "y"}}\n',
    "takes": 'allow := {"allowed": true, "request_headers_to_remove": ["x-a", "authorization"]}\n',
    "asks": 'allow := {"allowed": true, "query_parameters_to_remove": ["t"]}\n',
    "says": 'allow := {"allowed": false, "http_status": 401, "headers": {"x": "y"}}\n',
    "host": 'default allow := false\nallow if input.attributes.request.http.host == "shop"\n',
    "clash": 'allow if input.attributes.request.http.method == "GET"\n'
    'default allow := {"allowed": false, "http_status": 429}\n',
    "time": "default allow := false\nallow if input.attributes.request.time.seconds > 5\n",
    "odd": 'allow := {"allowed": true, "dynamic_metadata": {"n": 1e308}, "headers": '
    '{"x-b": concat("", ["a", input.attributes.request.http.method])}}\n',
    "sni": 'default allow := false\nallow if input.attributes.tlsSession.sni == "shop"\n',
    "undefined": 'allow if input.attributes.request.http.path != "/a/b"\n'
    'allow if input.attributes.request.http.path == "/sample"\n',
}
_FOLDER: list[Path] = []


def modules_in(folder: Path) -> None:
    """Write the modules into a folder, from which providers are loaded."""
    _FOLDER[:] = [folder]
    for name, text in MODULES.items():
        (folder / f"{name}.rego").write_text(_HEAD + text)


@cache
def provider(name: str) -> RegoProvider:
    """Return the provider of a module; loaded once."""
    options = ProviderOptions(
        compatibility=Compatibility(undefined_samples=True), budget_seconds=10.0
    )
    return load_provider(name, [_FOLDER[0] / f"{name}.rego"], "envoy/authz/allow", (), options)


class Keys(World):
    """The keys of the issuers that there are; none of others."""

    def keys_for(self, rule: JwtRule) -> JwkSet | None:
        """Return an issuer's keys."""
        return self.keys.get(rule.issuer)


@dataclass(frozen=True, slots=True)
class Set:
    """What decides: documents, mesh, the module of each provider, and how they are asked."""

    documents: Documents
    mesh: Mesh
    modules: Mapping[str, str]
    terms: CustomTerms

    def state(self) -> ServingState:
        """Return the state that serves it.

        Raises:
            LoadError: Istio would refuse it.
        """
        texts = [("p.yaml", yaml.safe_dump_all(self.documents, allow_unicode=True))]
        snapshot = build_snapshot(texts, self.mesh)
        providers = {name: provider(module) for name, module in self.modules.items()}
        revisions = {name: each.revision for name, each in providers.items()}
        return ServingState(
            snapshot=snapshot,
            providers=providers,
            revision=combined_revision(snapshot, revisions),
            provider_revisions=revisions,
            terms=self.terms,
        )

    def new_rego(self) -> dict[str, NewRego]:
        """Return the Rego as the command line of `policy replay` gives it."""
        return {
            name: NewRego(
                name=name,
                provider=provider(module),
                revision=provider(module).revision,
                needs=NeededInput.of_sources([_HEAD + MODULES[module]]),
            )
            for name, module in self.modules.items()
        }


def first_set(chance: random.Random) -> Set:
    """Return a set that loads."""
    mode = chance.choice(["sidecar"] * 6 + ["gateway", "waypoint"])
    mesh = Mesh(
        mode=MeshMode(mode),
        path_normalization=chance.choice(list(PathNormalization)),
        trusted_proxy_hops=chance.choice((None, 0, 1)),
        trust_domain=chance.choice(("mesh.example", "cluster.local")),
        trust_domain_aliases=chance.choice(((), ("old",))),
        envoy_version=chance.choice(((1, 37), (1, 40))),
    )
    terms = CustomTerms(
        default=chance.choice(("",) * 9 + ("p",)), asks_several=chance.random() < 0.8
    )
    modules = {name: chance.choice(list(MODULES)) for name in "pq"}
    if chance.random() < 0.5:
        return Set(_some_meeting(chance), mesh, modules, terms)
    while True:
        count = chance.choice((1, 2, 3, 5, 8))
        documents = [random_worlds.policy(chance, f"p{each}", mode) for each in range(count)]
        if chance.random() < 0.6:
            documents.append(random_worlds.tokens())
        if chance.random() < 0.6:
            documents.append(random_worlds.policy(chance, "zz"))
            documents[-1].update(kind="AuthorizationPolicy", spec={"rules": [{}]})
        documents += [each for each in _meeting() if chance.random() < 0.25]
        found = Set(documents, mesh, modules, terms)
        if loads(found):
            return found


def _meeting() -> Documents:
    """Return policies that look at what providers and token rules do to a request."""
    header = [{"when": [{"key": "request.headers[x-a]", "values": ["x"]}]}]
    written = [{"when": [{"key": "request.headers[x-out]", "values": ["*"]}]}]
    carried = [{"when": [{"key": "request.headers[authorization]", "notValues": ["*"]}]}]
    people = [{"from": [{"source": {"requestPrincipals": ["*"]}}]}]
    below = [{"to": [{"operation": {"paths": ["/a*"]}}]}]
    tried = {"istio.io/dry-run": "true"}
    return [
        policy("ask-p", action="CUSTOM", provider={"name": "p"}, rules=[{}]),
        policy("ask-q", action="CUSTOM", provider={"name": "q"}, rules=below),
        policy("gold", rules=header),
        policy("written", action="DENY", rules=written),
        policy("bare", action="DENY", rules=carried),
        policy("people", rules=people),
        policy("gold-tried", rules=header, annotations=tried),
        policy("bare-tried", action="DENY", rules=carried, annotations=tried),
    ]


def _some_meeting(chance: random.Random) -> Documents:
    """Return some of those policies, with rules for tokens before them."""
    found = [each for each in _meeting() if chance.random() < 0.4]
    rules = [random_worlds.jwt_rule(chance, each) for each in ISSUERS if chance.random() < 0.7]
    if rules:
        found.append(policy("tokens", "RequestAuthentication", jwtRules=rules))
    return found or _meeting()[2:3]


def changed(chance: random.Random, before: Set) -> Set:
    """Return another set that loads, much like the one before."""
    while True:
        found = before
        for _ in range(chance.choice((1, 2, 4))):
            found = _changed(chance, found)
        if loads(found):
            return found


def _changed(chance: random.Random, before: Set) -> Set:
    documents = json.loads(json.dumps(before.documents))
    if not documents or chance.random() < 0.2:
        return replace(before, documents=_some_meeting(chance))
    at, dice = chance.randrange(len(documents)), chance.random()
    made = random_worlds.policy(chance, f"new-{len(documents)}", before.mesh.mode.value)
    if chance.random() < 0.5:
        made = chance.choice(_meeting())
        made["metadata"]["name"] += f"-{len(documents)}"
    if dice < 0.2 and len(documents) > 1:
        del documents[at]
    elif dice < 0.45:
        documents.append(made)
    elif dice < 0.6:
        documents[at] = made
    elif dice < 0.7:
        documents.reverse()
        name = chance.choice(list(MODULES))
        return replace(before, documents=documents, modules={**before.modules, "p": name})
    elif dice < 0.85:
        level = chance.choice(list(PathNormalization))
        hops = chance.choice((None, 0, 1))
        mesh = replace(before.mesh, path_normalization=level, trusted_proxy_hops=hops)
        return replace(before, mesh=mesh)
    else:
        rules = [each for each in documents if each["kind"] == "RequestAuthentication"]
        if rules:
            rule = chance.choice(chance.choice(rules)["spec"]["jwtRules"])
            rule |= random_worlds.jwt_rule(chance, rule["issuer"])
    return replace(before, documents=documents)


def loads(found: Set) -> bool:
    """Whether Istio would take a set."""
    try:
        found.state()
    except LoadError:
        return False
    return bool(found.documents)


def promoted(found: Set, names: Sequence[str]) -> Set:
    """Return the set with these dry-run policies enforced."""
    documents = json.loads(json.dumps(found.documents))
    for each in documents:
        metadata = each["metadata"]
        if f"{metadata['namespace']}/{metadata['name']}" in names:
            metadata.pop("annotations", None)
    return replace(found, documents=documents)


class Room:
    """Where requests are decided: the clock, the keys and the workload."""

    def __init__(self, chance: random.Random) -> None:
        """Begin with all keys at hand."""
        self.world = Keys()
        self.world.now = chance.choice((BEGIN, BEGIN, BEGIN + 95, BEGIN + 200))
        self.redactor = chance.choice((Redactor(), Redactor(headers=("x-a",), claims=("a",))))
        self.around = Surroundings(
            keys=self.world,
            now=lambda: self.world.now,
            wall_clock=lambda: self.world.now,
            static_workload=Workload(namespace="shop", labels={"v": "1"}),
        )

    def serve(
        self, state: ServingState, message: bytes, candidate: ServingState | None = None
    ) -> tuple[CheckResponse, dict[str, Any]]:
        """Return what a server answers, and the record that it writes."""
        recorder = MemoryRecorder()
        around = self.around
        if candidate is not None:
            shadow = self._shadow(candidate)
            around = replace(around, candidate=shadow.verdict)
        authorizer = Authorizer(
            state=lambda: state, around=around, recorder=recorder, metrics=Metrics()
        )
        answer = CheckResponse.FromString(authorizer.check(message))
        [record] = recorder.records
        document = document_from_record(record, node="n", redactor=self.redactor)
        return answer, json.loads(json.dumps(document))

    def _shadow(self, state: ServingState) -> CandidateShadow:
        def judge(request: Request, seconds_left: Any) -> Decision:
            return walk_with_peer(request, state, self.around, seconds_left).decision

        return CandidateShadow(
            judge,
            at_once=judge,
            budget_seconds=60.0,
            threads=1,
            revision=lambda: state.revision,
        )

    def evaluate(self, state: ServingState, message: bytes) -> tuple[dict[str, Any], Outcome]:
        """Return the line that `policy eval` prints, and the outcome that `explain` tells of."""
        document = MessageToDict(CheckRequest.FromString(message))
        at = datetime.fromtimestamp(self.world.now, UTC).isoformat()
        line = json.dumps({**document, "at": at}).encode()
        evaluator = Evaluator(state, self.around)
        return evaluator.answer(line), evaluator.outcome(line)

    def replay(self, found: Set, document: dict[str, Any]) -> Replayed:
        """Return what `policy replay` makes of a record under a set whose Rego is given."""
        candidate = candidate_set(found.state(), found.new_rego())
        [replayed] = Replayer(candidate).replay([document])
        return replayed


def deciding(document: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return who decided, as records tell it."""
    decision = document["decision"]
    names = ("effect", "http_status", "policy", "rule", "reason", "layer", "detail", "near_miss")
    return tuple(decision[name] for name in names)
