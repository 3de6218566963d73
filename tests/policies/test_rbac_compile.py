"""Policies and the Envoy filters they become, as data: `rbac/*.yaml`."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from envoy.config.listener.v3.listener_components_pb2 import Filter
from envoy.extensions.filters.http.ext_authz.v3 import ext_authz_pb2 as _http_ext_authz
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as _http_rbac
from envoy.extensions.filters.network.ext_authz.v3 import ext_authz_pb2 as _network_ext_authz
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm,
)
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as _network_rbac
from envoy.extensions.path.match.uri_template.v3 import uri_template_match_pb2 as _uri_template
from google.protobuf.json_format import MessageToDict, ParseDict
from hypothesis import given, settings
from hypothesis import strategies as st
from rbac_cases import cases, compiled, mesh_of, note_of, spelled_out, translated

from authz.commands.policy_compile import render
from policies.diagnostic import Severity
from policies.mesh import Mesh, MeshMode
from policies.rbac import UnsupportedModeError, compile_filters
from policies.rbac.attributes import translation_for
from policies.request import Workload

# Importing them is what makes their messages known to the reader of `typedConfig`.
MESSAGES = (_http_ext_authz, _http_rbac, _network_ext_authz, _network_rbac, _uri_template)
ANY = [{"any": True}]
FILES = ("matchers.yaml", "rules.yaml", "filters.yaml")


def terms_of(rule: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what is AND-ed in a rule of one alternative, without a side that matches anything."""
    ((permission,), (principal,)) = rule["permissions"], rule["principals"]
    sides = [permission["andRules"]["rules"], principal["andIds"]["ids"]]
    return [term for side in sides if side != ANY for term in side]


def metadata_of(term: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the claim that a term looks at, and the matcher of its text."""
    match = term["metadata"]
    assert (match["filter"], match["path"][0]) == (
        "envoy.filters.http.jwt_authn",
        {"key": "payload"},
    )
    return match["path"][1]["key"], match["value"]["stringMatch"]


def kind_of(term: dict[str, Any]) -> str:
    """Return which matcher a term is of; one in an OR stands for the OR."""
    ((name, inner),) = term.items()
    if name in ("orRules", "orIds"):
        return kind_of(inner["rules" if name == "orRules" else "ids"][0])
    return str(name)


@pytest.mark.parametrize("case", cases("matchers.yaml"), ids=note_of)
def test_condition(case: dict[str, Any]) -> None:
    """A condition becomes the matchers that its case says, on the side where it belongs."""
    rule = translated(case)
    assert rule is not None
    if "want" in case:
        assert terms_of(rule) == case["want"]
        return
    # Of request principals, only the matchers of issuer and subject are written out.
    (term,) = terms_of(rule)
    pairs = [
        [metadata_of(each) for each in pair["andIds"]["ids"]]
        for pair in term["notId"]["orIds"]["ids"]
    ]
    assert pairs == [[("iss", issuer), ("sub", subject)] for issuer, subject in case["pairs"]]


@pytest.mark.parametrize("case", cases("rules.yaml"), ids=note_of)
def test_rule(case: dict[str, Any]) -> None:
    """A rule becomes the permissions and principals of its case, or is left out."""
    rule = translated(case)
    if "order" not in case:
        assert rule == case["want"]
        return
    assert rule is not None
    ((permission,), (principal,)) = rule["permissions"], rule["principals"]
    assert {
        "permissions": [kind_of(term) for term in permission["andRules"]["rules"]],
        "principals": [kind_of(term) for term in principal["andIds"]["ids"]],
    } == case["order"]


@pytest.mark.parametrize("case", cases("filters.yaml"), ids=note_of)
def test_filters(case: dict[str, Any]) -> None:
    """Policies become the filters of their case, in that order."""
    found = compiled(case)
    assert found == [spelled_out(each) for each in case["want"]]
    for each in found:
        for part in ("rules", "shadowRules"):
            names = list(each["typedConfig"].get(part, {}).get("policies", {}))
            assert names == sorted(names, key=str.encode), "Envoy tries them in byte order"


@pytest.mark.parametrize("case", cases("filters.yaml"), ids=note_of)
def test_unusable_providers_are_told(case: dict[str, Any]) -> None:
    """A provider that is wrong is left out with a warning, and only such a one."""
    _, told = mesh_of(case)
    assert bool(told) is case.get("unusable", False)
    assert all(each.severity is Severity.WARNING and each.location.line for each in told)


@pytest.mark.parametrize("file", FILES)
def test_filters_are_canonical(file: str) -> None:
    """Every filter reads as Envoy's message, and is written as protobuf itself would write it."""
    for case in cases(file):
        for found in compiled(case):
            message = Filter() if ".network." in found["name"] else hcm.HttpFilter()
            ParseDict(found, message)
            assert MessageToDict(message) == found, case["note"]


@pytest.mark.parametrize("output", ["yaml", "json"])
def test_rendered_text_reads_back(output: str) -> None:
    """What is printed is the filters, one document or one line each, without aliases."""
    for case in cases("filters.yaml"):
        filters = compiled(case)
        text = render(filters, output)
        if output == "yaml":
            assert list(yaml.safe_load_all(text)) == filters
            assert "&id" not in text
        else:
            assert [json.loads(line) for line in text.splitlines()] == filters


def test_every_attribute_has_a_case() -> None:
    """Each row of the table of attributes is in a case, as are the keys with brackets."""
    tried = {case["key"].partition("[")[0] for case in cases("matchers.yaml")}
    known = {key for key in tried if translation_for(key) is not None}
    assert {
        *("source.principal", "source.namespace", "source.serviceAccount", "source.trustDomain"),
        *("source.ip", "remote.ip", "request.auth.principal", "request.auth.audiences"),
        *("request.auth.presenter", "request.auth.claims", "request.headers", "operation.hosts"),
        *("operation.methods", "operation.paths", "destination.ip", "destination.port"),
        *("connection.sni", "experimental.envoy.filters.network.mysql_proxy"),
    } <= known


def test_ztunnel_takes_no_filters() -> None:
    """In the mode of ztunnel there is nothing to compile to, and the error says so."""
    mesh = Mesh(mode=MeshMode.ZTUNNEL)
    for tcp in (False, True):
        with pytest.raises(UnsupportedModeError, match="ztunnel takes no Envoy filters"):
            compile_filters([], Workload(namespace="shop"), mesh, tcp=tcp)


def test_aliases_and_sources_do_not_explode() -> None:
    """A condition on principals beside many `from` entries stays of a size that Envoy can hold."""
    source = {"source": {"ipBlocks": ["10.0.0.0/8"]}}
    case = {
        "mesh": {"trustDomain": "a", "trustDomainAliases": [f"b{i}" for i in range(9)]},
        "rule": {
            "from": [source] * 100,
            "when": [{"key": "source.principal", "values": ["a/ns/n/sa/s"]}],
        },
    }
    rule = translated(case)
    assert rule is not None
    assert len(rule["principals"]) == 100
    assert len(rule["principals"][0]["andIds"]["ids"][1]["orIds"]["ids"]) <= 1000


TEXTS = st.text(st.sampled_from("ab*/[]{}.%:\\é 1"), min_size=1, max_size=8)


@settings(max_examples=200, deadline=None)
@given(
    key=st.sampled_from([*{case["key"] for case in cases("matchers.yaml")}]),
    values=st.lists(TEXTS, min_size=1, max_size=3),
    action=st.sampled_from(["ALLOW", "DENY"]),
    tcp=st.booleans(),
)
def test_any_text_compiles(key: str, values: list[str], action: str, tcp: bool) -> None:
    """Whatever a condition holds, it becomes a rule or is left out; nothing is raised."""
    rule = translated(
        {
            "unchecked": True,
            "action": action,
            "tcp": tcp,
            "rule": {"when": [{"key": key, "values": values}]},
        }
    )
    if rule is None:
        assert action == "ALLOW"
        return
    # No matcher of an empty prefix or suffix: Envoy would refuse the whole configuration.
    text = json.dumps(rule)
    assert '"prefix": ""' not in text
    assert '"suffix": ""' not in text
    assert rule["permissions"]
    assert rule["principals"]
