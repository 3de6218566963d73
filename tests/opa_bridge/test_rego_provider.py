"""Rego providers from the corpus and from hostile requests, on the embedded engine."""

from __future__ import annotations

import json
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from identity.claims import VerifiedClaims
from identity.peer import Peer
from opa_bridge.embedded import EmbeddedEngine
from opa_bridge.errors import EngineError
from opa_bridge.provider import RegoProvider, load_provider
from policies.decision import ProviderError, UnfitRequest
from policies.diagnostic import LoadError, Severity
from policies.request import Request, Workload

ENTRYPOINT = "envoy/authz/result"
CORPUS = yaml.safe_load((Path(__file__).parent / "rego_corpus.yaml").read_text("utf-8"))
ORDERS = Path(__file__).parents[2] / "examples" / "rego"


def request_of(fields: dict[str, Any]) -> Request:
    """Return the request that a case describes."""
    fields = {"method": "GET", "path": "/", "host": "h"} | fields
    fields["headers"] = {name: tuple(v) for name, v in fields.get("headers", {}).items()}
    fields["body"] = fields.get("body", "").encode()
    if "peer" in fields:
        fields["peer"] = Peer.from_principal(fields["peer"])
    if "claims" in fields:
        fields["claims"] = VerifiedClaims(fields["claims"])
    if "workload" in fields:
        fields["workload"] = Workload(**fields["workload"])
    return Request(**fields)


def load_text(folder: Path, *modules: str, data: str = "") -> RegoProvider:
    """Return a provider over modules written into a folder."""
    for index, module in enumerate(modules):
        (folder / f"m{index}.rego").write_text(module, "utf-8")
    (folder / "data.json").write_text(data or "{}", "utf-8")
    return load_provider("p", [folder], ENTRYPOINT, [folder / "data.json"])


def plain(value: Any) -> Any:
    """Return tuples as lists, for comparison with YAML."""
    return json.loads(json.dumps(value))


@pytest.mark.parametrize("case", CORPUS, ids=[case["note"] for case in CORPUS])
def test_corpus(case: dict[str, Any], tmp_path: Path) -> None:
    """Every case of the corpus comes out as it says."""
    modules = case.get("modules") or [case["module"]]
    if "want_refusal" in case:
        with pytest.raises(LoadError) as refused:
            load_text(tmp_path, *modules)
        found = [d for d in refused.value.diagnostics if d.severity is Severity.ERROR][0]
        assert case["want_refusal"] == {"code": found.code, "line": found.location.line}
        return
    provider = load_text(tmp_path, *modules, data=case.get("data", ""))
    request = request_of(case.get("request", {}))
    if "want_error" in case:
        with pytest.raises(ProviderError, match=case["want_error"]):
            provider.evaluate(request)
        return
    verdict = provider.evaluate(request)
    want = dict(case["want"])
    for name, value in want.pop("mutations", {}).items():
        assert value == plain(getattr(verdict.mutations, name)), name
    for name, value in want.items():
        assert value == getattr(verdict, name), name


def test_a_comment_may_end_a_file(tmp_path: Path) -> None:
    """A module whose last line is a comment without a line end loads, as it does in OPA."""
    module = "package envoy.authz\ndefault result := false\nresult if input.a == 1 # the end"
    assert load_text(tmp_path, module).revision


def test_misspelt_result_key_is_warned_of(tmp_path: Path) -> None:
    """A key nobody reads is found at load, with the key that was meant."""
    provider = load_text(
        tmp_path, 'package envoy.authz\nresult := {"allowed": false, "header": {}}\n'
    )
    assert [(w.code, w.help) for w in provider.warnings] == [
        ("rego.result_key", "did you mean `headers`?")
    ]


def test_an_ordering_that_cannot_be_told_is_refused(tmp_path: Path) -> None:
    """`<` beside another comparison has two readings here, so it does not load."""
    module = "package envoy.authz\ndefault result := false\nresult if input.x < 5 == true\n"
    with pytest.raises(LoadError) as caught:
        load_text(tmp_path, module)
    found = caught.value.diagnostics
    assert [(each.code, each.location.line) for each in found] == [("rego.ordering", 3)]


def test_revision_follows_content(tmp_path: Path) -> None:
    """The revision changes with the data and not otherwise."""
    module = "package envoy.authz\nresult := true\n"
    first = load_text(tmp_path, module).revision
    assert first == load_text(tmp_path, module).revision
    assert first != load_text(tmp_path, module, data='{"a": 1}').revision


def test_files_that_cannot_serve_are_refused(tmp_path: Path) -> None:
    """A missing path, an empty folder, foreign bytes and overlapping data load nothing."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.rego").write_bytes(b"package a\n# \xff\n")
    (tmp_path / "nul.rego").write_bytes(b"package envoy.authz\nresult := true\n\0 x")
    (tmp_path / "ok.rego").write_text("package envoy.authz\nresult := true\n")
    (tmp_path / "d1.json").write_text('{"a": 1}')
    (tmp_path / "d2.yaml").write_text("a: 2")
    (tmp_path / "d3.json").write_text("[1]")
    for name in ("missing.rego", "empty", "bad.rego", "nul.rego"):
        with pytest.raises(LoadError):
            load_provider("p", [tmp_path / name], ENTRYPOINT)
    for names in (("d1.json", "d2.yaml"), ("d3.json",)):
        with pytest.raises(LoadError):
            load_provider(
                "p", [tmp_path / "ok.rego"], ENTRYPOINT, [tmp_path / name for name in names]
            )


@pytest.mark.parametrize(
    "body", ["[" * 500 + "]" * 500, "[" * 200_000, '{"n": 1e999}', '{"n": ' + "9" * 5000 + "}"]
)
def test_hostile_json_body_is_denied(body: str, tmp_path: Path) -> None:
    """Deep and huge JSON ends in an error for that request, and the next one is served."""
    module = "package envoy.authz\nresult := true\nlooked_at := input.parsed_body\n"
    provider = load_text(tmp_path, module)
    headers = {"content-type": ["application/json"]}
    refused = provider.evaluate(request_of({"headers": headers, "body": body}))
    assert (refused.effect, refused.http_status) == ("deny", 400)
    assert provider.evaluate(request_of({})).effect == "allow"


def test_large_body_is_denied(tmp_path: Path) -> None:
    """A body beyond the budget is not evaluated."""
    provider = load_text(tmp_path, "package envoy.authz\nresult := true\n")
    refused = provider.evaluate(request_of({"body": "x" * (provider.max_body_bytes + 1)}))
    assert (refused.effect, refused.http_status) == ("deny", 413)


def test_nothing_is_left_from_the_request_before(tmp_path: Path) -> None:
    """An input that cannot be carried does not leave the former one to be evaluated."""
    module = (
        "package envoy.authz\ndefault result := false\n"
        "result if input.meshwarden.claims.admin == true\n"
    )
    provider = load_text(tmp_path, module)
    admin = {"claims": {"admin": True}}
    assert provider.evaluate(request_of(admin)).effect == "allow"
    assert provider.evaluate(request_of({})).effect == "deny"
    assert provider.evaluate(request_of(admin)).effect == "allow"
    with pytest.raises(ProviderError):
        provider.evaluate(request_of({"claims": {"admin": 2**70}}))
    assert provider.evaluate(request_of({})).effect == "deny"


def test_threads_do_not_mix_requests(tmp_path: Path) -> None:
    """Eight threads each get the answer to their own request."""
    module = (
        "package envoy.authz\n"
        'result := {"allowed": false, "body": concat("/", input.parsed_path)}\n'
    )
    provider = load_text(tmp_path, module)
    paths = [f"a{index}/b" for index in range(800)]
    with ThreadPoolExecutor(8) as pool:
        bodies = pool.map(
            lambda path: provider.evaluate(request_of({"path": f"/{path}"})).body, paths
        )
    assert paths == list(bodies)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=12,
)
ECHO = "package a\nr := input.value\nsame if input.value == input.twin\n"
SAME = "package a\nr := input.value == input.twin\n"


@cache
def engine_of(source: str) -> EmbeddedEngine:
    """Return the engine of a source; started by the first test that asks for it."""
    return EmbeddedEngine([("a.rego", source)], "a/r", {})


@given(json_values)
@settings(max_examples=200, deadline=None)
def test_values_pass_through_the_engine_unchanged(value: Any) -> None:
    """What goes in comes out, whatever characters it holds."""
    assert value == engine_of(ECHO).evaluate({"value": value})


@given(st.text(), st.text())
@settings(max_examples=200, deadline=None)
def test_strings_are_equal_only_when_they_are(one: str, other: str) -> None:
    """Two texts are one in the engine only when they are one outside (lone surrogates fold)."""
    fold = [re.sub("[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", t) for t in (one, other)]
    assert engine_of(SAME).evaluate({"value": one, "twin": other}) is (fold[0] == fold[1])


def test_values_that_are_no_json_are_refused() -> None:
    """Sets, infinities and endless nesting do not reach the engine."""
    nested: Any = 1
    for _ in range(sys.getrecursionlimit() // 2):
        nested = [nested]
    for value in ({1}, float("inf"), float("nan"), 2**63, nested, object()):
        with pytest.raises(EngineError):
            engine_of(ECHO).evaluate({"value": value})


@pytest.mark.parametrize(
    ("query", "department", "effect", "detail"),
    [
        ("amount=500", "finance", "allow", "refund within the limit"),
        ("amount=501", "finance", "deny", "the amount is above the limit of 500"),
        ("amount=20", "sales", "deny", "a refund needs the finance department"),
        ("amount=-1", "finance", "deny", "a refund needs one amount, a number above 0"),
        ("amount=1&amount=2", "finance", "deny", "a refund needs one amount, a number above 0"),
        ("amount=%221%22", "finance", "deny", "a refund needs one amount, a number above 0"),
        ("amount=true", "finance", "deny", "a refund needs one amount, a number above 0"),
        ("", "finance", "deny", "a refund needs one amount, a number above 0"),
    ],
)
def test_orders_example(query: str, department: str, effect: str, detail: str) -> None:
    """The example decides refunds by department and amount, and says why."""
    provider = load_provider("orders", [ORDERS / "orders.rego"], ENTRYPOINT)
    claims = {"iss": "i", "sub": "alice", "department": department}
    fields = {"method": "POST", "path": f"/orders/refund/7?{query}", "claims": claims}
    verdict = provider.evaluate(request_of(fields))
    assert (effect, detail) == (verdict.effect, verdict.detail)
    if effect == "allow":
        assert (("x-refund-approver", "alice"),) == verdict.mutations.set_request_headers
    else:
        assert {"reason": detail} == json.loads(verdict.body)
    assert provider.warnings == ()


@pytest.mark.parametrize(
    ("path", "is_unfit"), [("/no?q=a%0Ab", True), ("/yes?q=a%0Ab", True), ("/odd?q=a", False)]
)
def test_a_verdict_spoilt_by_the_client_never_fails_open(
    path: str, is_unfit: bool, tmp_path: Path
) -> None:
    """Whoever puts a line break into the header of a denial is not past a provider for it."""
    module = """package envoy.authz
default result := {"allowed": false}
result := {"allowed": false, "headers": {"x-said": input.parsed_query.q[0]}} if {
    input.parsed_path[0] == "no"
}
result := {"allowed": true, "headers": {"x-user": input.parsed_query.q[0]}} if {
    input.parsed_path[0] == "yes"
}
result := {"headers": {}} if input.parsed_path[0] == "odd"
"""
    provider = load_text(tmp_path, module)
    with pytest.raises(ProviderError) as failed:
        provider.evaluate(request_of({"path": path}))
    assert is_unfit == isinstance(failed.value, UnfitRequest)


@pytest.mark.parametrize("path", ["/%C3%89", "/twice"])
def test_an_input_that_ends_the_evaluation_never_fails_open(path: str, tmp_path: Path) -> None:
    """Whoever sends what a polyfill stops at, or a rule conflicts over, is not past a provider."""
    module = """package envoy.authz
default result := false
result if lower(input.parsed_path[0]) == "open"
result := true if input.parsed_path[0] == "twice"
result := false if input.parsed_path[0] == "twice"
"""
    provider = load_text(tmp_path, module)
    with pytest.raises(UnfitRequest):
        provider.evaluate(request_of({"path": path}))
