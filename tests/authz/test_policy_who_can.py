"""`policy explain --who-can`: every caller of the answer was put to the server's walk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from commanding import resources, run_policy

TD = "spiffe://cluster.local"
ISSUER = "https://idp.test"
# Each case: the spec of one ALLOW policy in namespace shop, and who may GET /x by it.
CASES: list[tuple[str, dict[str, Any], set[str]]] = [
    ("named", {"from": [{"source": {"principals": ["cluster.local/ns/a/sa/b"]}}]},
     {f"{TD}/ns/a/sa/b"}),
    ("namespace", {"from": [{"source": {"namespaces": ["team-*"]}}]},
     {"any account of namespace `team-*`"}),
    ("account", {"from": [{"source": {"serviceAccounts": ["web"]}}]}, {f"{TD}/ns/shop/sa/web"}),
    ("prefix", {"from": [{"source": {"principals": ["cluster.local/ns/a/*"]}}]},
     {"any peer like `cluster.local/ns/a/*`"}),
    ("suffix", {"from": [{"source": {"principals": ["*/sa/web"]}}]}, {"any peer like `*/sa/web`"}),
    ("nobody else", {"from": [{"source": {"notPrincipals": ["*"]}}]},
     {"anyone without a client certificate"}),
    ("both", {"from": [{"source": {"namespaces": ["a"], "principals": ["*/sa/web"]}}]},
     {f"a peer such as {TD}/ns/a/sa/web"}),
    ("token", {"from": [{"source": {"principals": ["cluster.local/ns/a/sa/b"],
                                    "requestPrincipals": [f"{ISSUER}/alice"]}}]},
     {f"{TD}/ns/a/sa/b with {ISSUER} alice"}),
    ("claim", {"from": [{"source": {"principals": ["cluster.local/ns/a/sa/b"]}}],
               "when": [{"key": "request.auth.claims[org][unit]", "values": ["x", "y*"]}]},
     {f"{TD}/ns/a/sa/b with {ISSUER} any"}),
    ("elsewhere", {"to": [{"operation": {"paths": ["/y"]}}]}, set()),
]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "wanted"), [each[1:] for each in CASES], ids=[c[0] for c in CASES]
)
def test_who_may(rule: dict[str, Any], wanted: set[str], folder: Path) -> None:
    """A policy lets in whom it names, by name or kind, with the token it asks for."""
    (folder / "p.yaml").write_text(
        resources(
            [
                {"name": "a", "spec": {"rules": [rule]}},
                {
                    "kind": "RequestAuthentication",
                    "name": "idp",
                    "spec": {"jwtRules": [{"issuer": ISSUER, "jwks": '{"keys": []}'}]},
                },
            ]
        )
    )

    found = who_can("/x")

    assert wanted == {in_short(each) for each in found["may"]}
    assert all("shop/a#0" == each["rule"]["name"] for each in found["may"])
    assert found["complete"]


@pytest.mark.parametrize(
    "place",
    [
        {"fromHeaders": [{"name": "x-token", "prefix": "T "}]},
        {"fromParams": ["tok"]},
        {"fromCookies": ["tok"]},
    ],
    ids=["header", "parameter", "cookie"],
)
def test_tokens_stand_where_they_are_looked_for(place: dict[str, Any], folder: Path) -> None:
    """An issuer whose tokens come elsewhere than in `authorization` is tried there."""
    (folder / "p.yaml").write_text(
        resources(
            [
                {
                    "name": "a",
                    "spec": {"rules": [{"from": [{"source": {"requestPrincipals": ["*"]}}]}]},
                },
                {
                    "kind": "RequestAuthentication",
                    "name": "idp",
                    "spec": {
                        "jwtRules": [
                            {"issuer": ISSUER, "jwks": '{"keys": []}', "audiences": ["z"], **place}
                        ]
                    },
                },
            ]
        )
    )

    found = who_can("/x")

    assert found["may"]
    assert all(each["token"]["issuer"] == ISSUER for each in found["may"])


def test_text_names_who_may_and_who_may_not(folder: Path) -> None:
    """For people: a tick and the rule for each who may, a cross and the cause for the others."""
    (folder / "p.yaml").write_text(resources([{"name": "a", "spec": {"rules": [CASES[0][1]]}}]))

    said = run_policy("explain", "--policies", "p.yaml", "--who-can", "GET", "/x").stdout

    assert f"✓ {TD}/ns/a/sa/b  shop/a#0 at p.yaml:" in said
    assert "✗ anyone without a client certificate  no_allow_rule_matched" in said


def who_can(path: str) -> dict[str, Any]:
    """The JSON answer for a GET to the namespace `shop`."""
    result = run_policy(
        "explain", "--policies", "p.yaml", "--to", "shop", "--who-can", "GET", path,
        "--format", "json", "-q",
    )  # fmt: skip
    assert 0 == result.exit_code, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def in_short(tried: dict[str, Any]) -> str:
    """Who may, with the token that it takes."""
    token = tried["token"]
    return tried["who"] + (f" with {token['issuer']} {token['subject'] or 'any'}" if token else "")
