"""The pytest plugin: `policy_engine` asks policies as the server answers, and failures say why."""

from __future__ import annotations

import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from commanding import resources

from authz.policytest.engine import PolicyEngine
from policies.diagnostic import LoadError
from policies.request import Workload

pytest_plugins = ["pytester"]

WEB = "cluster.local/ns/shop/sa/web"
READERS = {
    "name": "readers",
    "spec": {
        "selector": {"matchLabels": {"app": "orders"}},
        "rules": [
            {
                "from": [{"source": {"principals": [WEB]}}],
                "to": [{"operation": {"methods": ["GET"]}}],
            },
            {"from": [{"source": {"requestPrincipals": ["https://idp.test/alice"]}}]},
        ],
    },
}
IDP = {
    "kind": "RequestAuthentication",
    "name": "idp",
    "spec": {"jwtRules": [{"issuer": "https://idp.test", "jwksUri": "https://idp.test/keys"}]},
}
TRIAL = {
    "name": "trial",
    "annotations": {"istio.io/dry-run": "true"},
    "spec": {"action": "DENY", "rules": [{"to": [{"operation": {"paths": ["/old"]}}]}]},
}
ORDERS = "shop/app=orders"
TEST = """
def test_passes(policy_engine):
    engine = policy_engine("p.yaml")
    assert engine.ask("GET", "/x", caller="shop/web", to="shop/app=orders").allowed

def test_fails(policy_engine):
    engine = policy_engine("p.yaml")
    assert engine.ask("PUT", "/x", caller="shop/web", to="shop/app=orders").allowed
"""


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    """A file of policies."""
    path = tmp_path / "p.yaml"
    path.write_text(resources([READERS, IDP, TRIAL]))
    return path


def test_the_plugin_is_installed() -> None:
    """pytest finds the plugin by the project's entry point, which stands in pyproject.toml."""
    text = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text()
    wanted = tomllib.loads(text)["project"]["entry-points"]["pytest11"]["meshwarden"]

    assert "authz.policytest.plugin" == wanted
    assert wanted in [each.value for each in entry_points(group="pytest11")]


def test_a_failure_tells_why(pytester: pytest.Pytester, policies: Path) -> None:
    """A failed assertion shows the answer, the reason and the near miss."""
    pytester.path.joinpath("p.yaml").write_text(policies.read_text())
    pytester.makepyfile(TEST)

    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*DENY 403 (no_allow_rule_matched)*near miss: shop/readers#0*"])


def test_what_an_engine_answers(policies: Path) -> None:
    """Callers, tokens of any issuer, workloads and dry-run policies are the server's."""
    engine = PolicyEngine(policies)
    alice = engine.token("https://idp.test", "alice")
    expired = engine.token("https://idp.test", "alice", exp=1)

    by_name = engine.ask("GET", "/old", caller="shop/web", to=ORDERS)
    assert (True, "shop/readers#0") == (by_name.allowed, by_name.rule)
    assert {"shop/trial": "would_deny"} == by_name.shadow
    assert engine.ask("PUT", token=alice, to=ORDERS).rule == "shop/readers#1"
    refused = engine.ask("PUT", token=expired, to=ORDERS)
    assert (False, 401, "token_invalid") == (refused.allowed, refused.status, refused.reason)
    other = Workload(namespace="shop", labels={"app": "other"})
    assert "no_allow_policy" == engine.ask(to=other).reason
    assert not engine.ask(caller=f"spiffe://{WEB}x", to=ORDERS).allowed


def test_rego_answers_for_providers(tmp_path: Path) -> None:
    """Modules answer for every CUSTOM policy, or for the provider they are named for."""
    custom = {"action": "CUSTOM", "provider": {"name": "mine"}, "rules": [{}]}
    (tmp_path / "p.yaml").write_text(resources([{"name": "c", "spec": custom}]))
    (tmp_path / "p.rego").write_text(
        "package envoy.authz\nimport rego.v1\ndefault allow := false\n"
        'allow if input.attributes.request.http.path == "/yes"\n'
    )

    for rego in ([tmp_path / "p.rego"], {"mine": [tmp_path / "p.rego"]}):
        engine = PolicyEngine(tmp_path / "p.yaml", rego=rego)
        assert engine.ask(path="/yes").allowed
        assert "custom_denied" == engine.ask(path="/no").reason


def test_policies_that_do_not_load(tmp_path: Path) -> None:
    """What is wrong is raised with its place."""
    (tmp_path / "p.yaml").write_text(resources([{"name": "a", "spec": {"acton": "DENY"}}]))

    with pytest.raises(LoadError, match=r"p\.yaml:\d+"):
        PolicyEngine(tmp_path / "p.yaml")
