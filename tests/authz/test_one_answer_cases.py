"""Single requests on which two ways to ask once said different things."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml
from checking import FixedProvider
from commanding import as_lines, line_of, resources, run_policy
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from issuing_root import Authority
from replaying import (
    ISSUERS,
    InlineKeys,
    facts_of,
    jwt_rule,
    recorded,
    replayed,
    state_of,
    token,
    write_log,
)

from authz.check_request import decode_check_request
from authz.explain.story import tell
from authz.replay_parts import NewRego, candidate_set
from authz.serving_state import ServingState
from authz.walk import Surroundings, walk
from dryrun.replay import Change, Replayed, Replayer
from opa_bridge.needed_input import NeededInput
from policies.decision import Effect, Mutations, ProviderVerdict
from policies.mesh import Mesh, PathNormalization
from policies.request import Workload

WEB = "spiffe://cluster.local/ns/shop/sa/web"
OPEN = {"name": "open", "spec": {"rules": [{}]}}
CUSTOM = {"action": "CUSTOM", "provider": {"name": "p"}, "rules": [{}]}
MERGED = Mesh(path_normalization=PathNormalization.MERGE_SLASHES)
ALICE = {"iss": ISSUERS[0], "sub": "alice", "a": "x"}


def asked(path: str = "/a", peer: str = WEB, claims: Any = None, **headers: str) -> CheckRequest:
    """Return a check as Envoy sends it."""
    message = CheckRequest()
    message.attributes.source.principal = peer
    http = message.attributes.request.http
    http.method, http.path, http.host = "GET", path, "shop"
    if claims is not None:
        headers["authorization"] = f"Bearer {token(json.dumps(claims))}"
    for name, value in {":path": path, **headers}.items():
        http.header_map.headers.add(key=name.replace("_", "-"), raw_value=value.encode())
    return message


def when(name: str, *values: str, action: str = "ALLOW") -> dict[str, Any]:
    """Return a policy about one header."""
    condition = {"key": f"request.headers[{name}]", "values": list(values)}
    return {"action": action, "rules": [{"when": [condition]}]}


def to(path: str, action: str = "ALLOW") -> dict[str, Any]:
    """Return a policy about one path."""
    return {"action": action, "rules": [{"to": [{"operation": {"paths": [path]}}]}]}


def tokens(**more: Any) -> dict[str, Any]:
    """Return rules for the tokens of one issuer."""
    return {"kind": "RequestAuthentication", "jwtRules": [jwt_rule(ISSUERS[0], **more)]}


def answering(effect: Effect, **mutations: Any) -> FixedProvider:
    """Return a provider that always says the same."""
    return FixedProvider(ProviderVerdict(effect=effect, mutations=Mutations(**mutations)))


SETS_GOLD = answering(Effect.ALLOW, set_request_headers=(("x-tier", "gold"),))
TARGETS_B = answering(Effect.ALLOW, set_request_headers=((":path", "/b"),))
KEPT = tokens(forwardOriginalToken=True)
PAYLOAD = {"outputClaimToHeaders": [{"header": "x-a", "claim": "a"}]}
REPLAYS: dict[str, tuple[list[Any], list[Any], CheckRequest, dict[str, Any], list[Any]]] = {
    "a header that a provider set, which is not asked any more": (
        [CUSTOM, when("x-tier", "gold")], [when("x-tier", "gold")],
        asked(), {"p": SETS_GOLD}, [Change.UNKNOWN],
    ),
    "the same provider sets it again": (
        [CUSTOM, when("x-tier", "gold")], [CUSTOM, when("x-tier", "gold"), to("/b", "DENY")],
        asked(), {"p": SETS_GOLD}, [Change.SAME],
    ),
    "a path that a provider wrote": (
        [CUSTOM, to("/b")], [CUSTOM, to("/b")], asked(), {"p": TARGETS_B},
        [Change.SAME, Change.UNKNOWN],
    ),
    "a header that new rules for tokens own": (
        [tokens(), when("x-a", "x")], [tokens(**PAYLOAD), when("x-a", "x")],
        asked(x_a="x"), {}, [Change.NEW_DENY],
    ),
    "a header that rules for tokens own no more": (
        [tokens(**PAYLOAD), when("x-a", "x")], [tokens(), when("x-a", "x")],
        asked(x_a="x"), {}, [Change.NEW_ALLOW],
    ),
    "a header that was owned where there are no rules any more": (
        [tokens(**PAYLOAD), when("x-a", "x")], [when("x-a", "x")],
        asked(x_a="x"), {}, [Change.NEW_ALLOW],
    ),
    "another issuer beside": (
        [tokens(), when("x-a", "x")],
        [{"kind": "RequestAuthentication",
          "jwtRules": [jwt_rule(ISSUERS[0]), jwt_rule(ISSUERS[1], **PAYLOAD)]}, when("x-a", "x")],
        asked(x_a="x", claims=ALICE), {}, [Change.NEW_DENY],
    ),
    "a token elsewhere that another issuer may have signed": (
        [{"kind": "RequestAuthentication", "jwtRules": [jwt_rule(ISSUERS[1])]}],
        [{"kind": "RequestAuthentication",
          "jwtRules": [jwt_rule(ISSUERS[1]), jwt_rule(ISSUERS[0], fromHeaders=[{"name": "x-t"}])]}],
        asked(x_t="a.b.c", claims={**ALICE, "iss": ISSUERS[1]}), {}, [Change.UNKNOWN],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REPLAYS)
def test_what_a_replay_makes_of_headers(name: str) -> None:
    """What providers and token rules did then counts only where they would do it again."""
    before, after, message, providers, changes = REPLAYS[name]
    documents = recorded(state_of(before, dict(providers)), [message])
    [found] = replayed(state_of(after), documents)
    assert found.change in changes, (found.why, found.decision)


@pytest.mark.parametrize(
    ("then", "now", "path", "change"),
    [
        (Mesh(), MERGED, "/a//b", Change.NEW_ALLOW),
        (Mesh(), MERGED, "/a\x00", Change.SAME),
        (MERGED, MERGED, "/a//b", Change.SAME),
        (MERGED, Mesh(), "/a//b", Change.UNKNOWN),
        (MERGED, Mesh(), "/a\x00", Change.UNKNOWN),
        (MERGED, MERGED, "/a\x00", Change.SAME),
    ],
)
def test_a_replay_normalizes_paths(then: Mesh, now: Mesh, path: str, change: Change) -> None:
    """A recorded path is what the mesh of the replay would make of it, or is not known."""
    specs = [to("/a/b")]
    documents = recorded(state_of(specs, mesh=then), [asked(path)])
    [found] = replayed(state_of(specs, mesh=now), documents)
    assert found.change is change, (found.why, found.decision)


def _replay(state: ServingState, after: list[Any], rule: str, revision: str) -> list[Replayed]:
    """Return the replay of one request by a Rego that looks at one part of the input."""
    verdict = ProviderVerdict(effect=Effect.ALLOW)
    needs = NeededInput.of_sources([f"package a\nallow if {rule}\n"])
    new = NewRego(name="p", provider=FixedProvider(verdict), revision=revision, needs=needs)
    documents = recorded(state, [asked(claims=ALICE)])
    other = replace(state_of(after), revision="of another set")
    return list(Replayer(candidate_set(other, {"p": new})).replay(documents))


@pytest.mark.parametrize(
    ("rule", "is_known"),
    [
        ("input.attributes.request.http.method", True),
        ("input.attributes.request.time.seconds", False),
        ("input.attributes.request.http.body", False),
        ("input.meshwarden.istio.would", True),
        ("input.attributes.tlsSession.sni", True),
    ],
)
def test_what_rego_may_look_at(rule: str, is_known: bool) -> None:
    """A Rego that looks at what no record holds is not asked about a record."""
    state = state_of([CUSTOM], {"p": answering(Effect.DENY)}, {"p": "old"})
    [found] = _replay(state, [CUSTOM], rule, "new")
    assert found.change is (Change.NEW_ALLOW if is_known else Change.UNKNOWN), found.why


@pytest.mark.parametrize(
    ("rule", "after", "change"),
    [
        ("input.attributes.request.http.method", [CUSTOM], Change.SAME),
        ("input.meshwarden.istio.would", [CUSTOM], Change.NEW_ALLOW),
        ("input.meshwarden.claims.sub", [CUSTOM], Change.NEW_ALLOW),
        ("input.meshwarden.claims.sub", [CUSTOM, KEPT], Change.SAME),
    ],
)
def test_the_same_rego_is_asked_again_where_its_input_is_another(
    rule: str, after: list[Any], change: Change
) -> None:
    """An answer of then stands while all that the Rego looks at stays as it was."""
    before = state_of([CUSTOM, KEPT], {"p": answering(Effect.DENY)}, {"p": "same"})
    [found] = _replay(before, after, rule, "same")
    assert found.change is change, found.why


@pytest.mark.parametrize("is_first_given", [False, True])
def test_a_provider_behind_another_sees_what_that_one_changed(is_first_given: bool) -> None:
    """A new Rego is asked only where what stands before it changes is known."""
    custom = [{**CUSTOM, "provider": {"name": name}} for name in "pq"]
    before = state_of(custom[:1], {"p": SETS_GOLD}, {"p": "same"})
    needs = NeededInput.of_sources(["package a\nallow if input.parsed_path\n"])
    said = {"p": SETS_GOLD, "q": answering(Effect.DENY)}
    new = {
        name: NewRego(name=name, provider=said[name], revision="same", needs=needs)
        for name in ("pq" if is_first_given else "q")
    }
    after = replace(state_of(custom), revision="of another set")
    [found] = Replayer(candidate_set(after, new)).replay(recorded(before, [asked()]))
    assert found.change is (Change.NEW_DENY if is_first_given else Change.UNKNOWN), found.why


def test_a_rule_that_may_not_have_decided_is_not_named() -> None:
    """Where the effect is sure and the rule is not, the report says so."""
    before = state_of([to("/a")])
    after = state_of([to("/a"), when("x-b", "y", action="DENY"), to("/a", "DENY")])
    [found] = replayed(after, recorded(before, [asked(x_b="n")]))
    assert (found.change, found.new_rule) == (Change.NEW_DENY, "(cannot be told)")


def test_a_denied_provider_leaves_the_others_unasked(folder: Path) -> None:
    """`explain` says of CUSTOM policies behind the one that denied that they were not asked."""
    policies = [
        {"name": name, "spec": {**CUSTOM, "provider": {"name": name}}} for name in ("a", "b")
    ]
    (folder / "p.yaml").write_text(resources(policies))
    told = run_policy("explain", "--policies", "p.yaml", "--format", "json")
    standings = [each["standing"] for each in json.loads(told.stdout)["policies"]]
    assert standings == ["decided", "not_asked"]


def test_a_story_has_what_a_policy_behind_a_provider_saw() -> None:
    """A CUSTOM rule that matches what another provider set is told as one that matches."""
    behind = {**when("x-tier", "gold"), "action": "CUSTOM", "provider": {"name": "q"}}
    state = state_of([CUSTOM, behind], {"p": SETS_GOLD, "q": answering(Effect.DENY)})
    around = Surroundings(keys=InlineKeys(), static_workload=Workload(namespace="shop"))
    outcome = walk(decode_check_request(asked().SerializeToString()), state, around)
    told = {each.name: each for each in tell(outcome, state).policies}
    assert (told["shop/p1"].standing, told["shop/p1"].rules[0].matches) == ("decided", True)


def test_a_near_miss_of_a_promoted_policy_is_told() -> None:
    """A dry-run ALLOW that would deny says which of its rules came close."""
    spec = {**to("/b"), "annotations": {"istio.io/dry-run": "true"}}
    [record] = recorded(state_of([spec]), [asked()])
    assert "p0#0" in record["shadow"][0]["would"]["near_miss"]


@pytest.fixture
def server(folder: Path) -> dict[str, Any]:
    """The configuration of a server that verifies peers and denies one."""
    authority = Authority()
    (folder / "root.pem").write_bytes(authority.root_pem)
    (folder / "p.yaml").write_text(resources([OPEN]))
    denied = {"kind": "spiffe_id", "value": f"{WEB}-2", "until": None}
    (folder / "denied.json").write_text(
        json.dumps({"version": 1, "revision": 1, "denied": [denied]})
    )
    config = {
        "policies": {"paths": ["p.yaml"]},
        "workload": {"namespace": "shop"},
        "identity": {
            "trustBundles": [{"trustDomain": "cluster.local", "file": "root.pem"}],
            "denyList": "denied.json",
        },
    }
    (folder / "meshwarden.yaml").write_text(json.dumps(config))
    return {name: quote(authority.issue(name)[0].decode()) for name in (WEB, f"{WEB}-2")}


def test_a_configuration_brings_trust_bundles_and_the_deny_list(server: dict[str, Any]) -> None:
    """`eval -c` and `explain -c` verify and deny peers as the server does."""
    verified, denied, bare = (line_of({"peer": each}) for each in (WEB, f"{WEB}-2", WEB))
    verified["attributes"]["source"]["certificate"] = server[WEB]
    denied["attributes"]["source"]["certificate"] = server[f"{WEB}-2"]
    result = run_policy(
        "eval", "-c", "meshwarden.yaml", "--requests", "-", stdin=as_lines(verified, denied, bare)
    )
    reasons = [json.loads(line)["reason"] for line in result.stdout.splitlines()]
    told = ["allow_rule_matched", "peer_denied", "peer_certificate_untrusted"]
    assert reasons == told, result.output
    story = run_policy(
        *("explain", "-c", "meshwarden.yaml", "--request", "-", "--format", "json"),
        stdin=as_lines(denied),
    )
    assert json.loads(story.stdout)["decision"]["reason"] == "peer_denied"
    # Who is told by a flag has no certificate to show.
    for caller, reason in ((WEB, "allow_rule_matched"), (f"{WEB}-2", "peer_denied")):
        supposed = run_policy(
            *("explain", "-c", "meshwarden.yaml", "--from", caller, "--format", "json")
        )
        assert json.loads(supposed.stdout)["decision"]["reason"] == reason


def test_a_workload_of_the_command_line_wins(folder: Path) -> None:
    """`--workload` is who is asked about, whatever the request says of it."""
    (folder / "p.yaml").write_text(resources([OPEN, {**OPEN, "namespace": "other"}]))
    line = as_lines(line_of({"extensions": {"meshwarden.namespace": "other"}}))
    arguments = ("eval", "--policies", "p.yaml", "--requests", "-")
    said = run_policy(*arguments, "--workload", "shop", stdin=line)
    own = run_policy(*arguments, stdin=line)
    assert [json.loads(each.stdout)["policy"] for each in (said, own)] == [
        "shop/open",
        "other/open",
    ]


_REGO = """\
package envoy.authz
import rego.v1
allow := {"allowed": true, "dynamic_metadata": deep} if input.parsed_path[0] == "deep"
default allow := true
deep := json.unmarshal(concat("", ["%s", "1", "%s"]))
"""


def _suite(folder: Path, **parts: Any) -> None:
    peers = {"web": {"spiffe": WEB}}
    suite = {
        "apiVersion": "policy.test/v1",
        "kind": "PolicyTest",
        "metadata": {"name": "s"},
        "policies": {"istio": ["p.yaml"]},
        "workloads": {"shop": {"namespace": "shop"}},
        "identities": peers,
        "defaults": {"to": "shop", "from": "web"},
        **parts,
    }
    (folder / "s.policytest.yaml").write_text(yaml.safe_dump(suite))


def test_an_answer_that_no_message_can_hold_is_a_denial_in_tests_too(folder: Path) -> None:
    """`policy test` comes to the server's denial where a provider's values cannot be sent."""
    (folder / "p.yaml").write_text(resources([{"name": "ask", "spec": CUSTOM}]))
    (folder / "p.rego").write_text(_REGO % ('{\\"a\\":' * 120, "}" * 120))
    expected = {"decision": "deny", "status": 500, "reason": "internal_error"}
    cases = [
        {"name": "deep", "request": {"path": "/deep"}, "expect": expected},
        {"name": "flat", "request": {"path": "/"}, "expect": {"decision": "allow"}},
    ]
    rego = {"paths": ["p.rego"], "entrypoint": "envoy/authz/allow"}
    policies = {"istio": ["p.yaml"], "providers": [{"name": "p", "rego": rego}]}
    _suite(folder, cases=cases, policies=policies)
    tested = run_policy("test", "--format", "json")
    assert tested.exit_code == 0, tested.output
    lines = as_lines(line_of({"peer": WEB, "http": {"path": "/deep"}}))
    evaluated = run_policy(
        *("eval", "--policies", "p.yaml", "--rego", "p=p.rego", "--requests", "-"), stdin=lines
    )
    assert json.loads(evaluated.stdout)["reason"] == "internal_error"


def test_a_fixture_tells_labels_and_service(folder: Path) -> None:
    """A workload without labels is one that has none, and a waypoint's may name its service."""
    selected = {"selector": {"matchLabels": {"app": "x"}}, "action": "DENY", "rules": [{}]}
    (folder / "p.yaml").write_text(resources([{"name": "x", "spec": selected}]))
    _suite(folder, cases=[{"name": "none", "expect": {"decision": "allow"}}])
    assert run_policy("test").exit_code == 0
    target = {"kind": "Service", "group": "", "name": "orders"}
    (folder / "p.yaml").write_text(
        resources(
            [{"name": "x", "spec": {"targetRefs": [target], "action": "DENY", "rules": [{}]}}]
        )
    )
    orders = {"namespace": "shop", "service": "shop/orders"}
    others = {"namespace": "shop", "service": "Service/shop/others"}
    cases = [
        {"name": "orders", "to": "orders", "expect": {"decision": "deny", "policy": "shop/x#0"}},
        {"name": "others", "to": "others", "expect": {"decision": "allow"}},
        {"name": "nobody says", "to": "shop", "expect": {"reason": "workload_unknown",
                                                        "decision": "deny"}},
    ]  # fmt: skip
    workloads = {"shop": {"namespace": "shop"}, "orders": orders, "others": others}
    _suite(folder, cases=cases, workloads=workloads, mesh={"mode": "waypoint"})
    tested = run_policy("test")
    assert tested.exit_code == 0, tested.output


_UNDEFINED = """\
package envoy.authz
import rego.v1
allow if input.parsed_path[0] in {"sample", "a"}
allow if input.attributes.request.http.path == "/"
"""


def test_what_a_failure_means_is_the_meshs_word(folder: Path) -> None:
    """`eval` denies with the status that the mesh has for a provider, as the server does."""
    (folder / "p.yaml").write_text(resources([{"name": "ask", "spec": CUSTOM}]))
    (folder / "p.rego").write_text(_UNDEFINED)
    provider = {"name": "p", "rego": {"statusOnError": "503"}}
    (folder / "mesh.yaml").write_text(yaml.safe_dump({"extensionProviders": [provider]}))
    result = run_policy(
        *("eval", "--policies", "p.yaml", "--rego", "p.rego", "--mesh", "mesh.yaml"),
        *("--requests", "-"),
        stdin=as_lines(line_of({"http": {"path": "/b"}})),
    )
    answer = json.loads(result.stdout)
    assert (answer["reason"], answer["status"]) == ("provider_error", 503)


def test_a_replay_lets_past_what_the_configuration_lets_past(folder: Path) -> None:
    """With `-c` a new Rego that gives no verdict passes where its provider fails open."""
    (folder / "p.yaml").write_text(resources([{"name": "ask", "spec": CUSTOM}]))
    (folder / "p.rego").write_text(_UNDEFINED)
    rego = {"paths": ["p.rego"], "compatibility": {"undefinedSamples": True}}
    config = {"policies": {"paths": ["p.yaml"]}, "providers": [
        {"name": "p", "rego": rego, "failOpen": True}]}  # fmt: skip
    (folder / "meshwarden.yaml").write_text(yaml.safe_dump(config))
    state = state_of([CUSTOM], {"p": answering(Effect.ALLOW)}, {"p": "old"})
    log = write_log(folder / "log", facts_of(state, [asked("/b")]))
    arguments = ("replay", "--audit", log, "--policies", "p.yaml", "--rego", "p=p.rego", "-q")
    found = [
        json.loads(run_policy(*arguments, "--format", "json", *more).stdout)
        for more in ((), ("-c", "meshwarden.yaml"))
    ]
    assert [(each["same"], each["new_deny"]) for each in found] == [(0, 1), (1, 0)]


@pytest.mark.parametrize(
    ("token_", "clock"),
    [
        ({"issuer": "i", "claims": {"iss": 5}}, "2026-01-15T10:00:00Z"),
        ({"issuer": "i", "claims": {"exp": "soon", "nbf": [1]}}, "2026-01-15T10:00:00Z"),
        ({"issuer": "i", "exp": "999999999999d"}, "2026-01-15T10:00:00Z"),
        ({"issuer": "i", "exp": "-99999999d"}, "2026-01-15T10:00:00Z"),
        ({"issuer": "i"}, "9999-12-31T23:59:59Z"),
        ({"issuer": "i"}, "0001-01-01T00:00:00Z"),
    ],
)
def test_an_odd_token_of_a_test_is_judged(token_: dict[str, Any], clock: str, folder: Path) -> None:
    """A fixture that no honest issuer would sign is carried, and judged, like any other."""
    rules = [{"issuer": "i", "jwksUri": "https://i.test/keys"}]
    authentication = {"kind": "RequestAuthentication", "name": "t", "spec": {"jwtRules": rules}}
    (folder / "p.yaml").write_text(resources([authentication, OPEN]))
    cases = [{"name": "odd", "token": "odd", "expect": {"decision": "deny", "status": 418}}]
    _suite(folder, cases=cases, tokens={"odd": token_}, clock=clock)
    tested = run_policy("test", "--format", "json")
    assert tested.exit_code == 1, tested.output
