"""Where other tools are wrong, by their places in the list of the linter's design: twelve."""

from __future__ import annotations

import pytest

from policies.mesh import Mesh, MeshMode
from tests.lint.linting import lint

HEAD = """\
apiVersion: security.istio.io/v1
kind: %s
metadata:
  name: shop
  namespace: shop
%sspec:
"""
DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: cart, namespace: shop}
spec: {template: {metadata: {labels: {app: cart}}}}
"""
REGO = """\
apiVersion: v1
kind: ConfigMap
data:
  p.rego: |
    package envoy.authz
    default allow := false
    allow if {
      false
      input.attributes.request.http.method == "GET"
    }
"""
DRY_RUN = "  annotations:\n    istio.io/dry-run: %s\n"


def _policy(spec: str, kind: str = "AuthorizationPolicy", more: str = "") -> str:
    return HEAD % (kind, more) + "".join(f"  {line}\n" for line in spec.splitlines())


def _to(field: str, action: str = "ALLOW") -> str:
    return f"action: {action}\nrules:\n- to:\n  - operation:\n      {field}"


def _from(field: str, action: str = "ALLOW") -> str:
    return f"action: {action}\nrules:\n- from:\n  - source:\n      {field}"


CASES = [
    ("1 Kiali upper-cases a method before it compares", "MW0211", _policy(_to('methods: ["get"]'))),
    ("2 Kiali takes wildcards at both ends", "MW0202",
     _policy(_from('principals: ["*.local/ns/shop/sa/test*"]'))),
    ("3 Kiali takes PERMISSIVE for mTLS", "MW0601",
     _policy("mtls:\n  mode: PERMISSIVE", "PeerAuthentication")
     + "---\n" + _policy(_from('principals: ["cluster.local/ns/shop/sa/x"]', "DENY"))),
    ("4 Kiali takes a DENY for a guard", "MW0404",
     DEPLOYMENT + "---\n" + _policy(_from('notNamespaces: ["shop"]', "DENY"))),
    ("4 Kiali takes an AUDIT for a guard", "MW0404",
     DEPLOYMENT + "---\n" + _policy(_to('methods: ["GET"]', "AUDIT"))),
    ("4 Kiali takes a trial for a guard", "MW0404",
     DEPLOYMENT + "---\n"
     + _policy(_to('methods: ["GET"]'), more=DRY_RUN % '"true"')),
    ("5 an example of Istio takes a subject's end for an issuer", "MW0705",
     _policy(_from('requestPrincipals: ["*@example.com"]'))),
    ("5 an older one has hosts in a source", "MW0101", _policy(_from('hosts: ["a.example"]'))),
    ("6 DENY by HTTP alone closes TCP ports of a sidecar", "MW0317",
     _policy(_to('methods: ["POST"]', "DENY"))),
    ("7 an unreadable trial is enforced", "MW0806",
     _policy(_to('methods: ["GET"]'), more=DRY_RUN % '"perhaps"')),
    ("8 the data plane honours identity under CUSTOM", "MW0803",
     _policy(_from('notPrincipals: ["*"]', "CUSTOM").replace(
         "rules", "provider: {name: opa}\nrules"))),
    ("10 Go takes host bits in a range", "MW0107", _policy(_from('ipBlocks: ["10.0.0.5/8"]'))),
    ("12 tutorials write a wildcard in the middle", "MW0201",
     _policy(_from('principals: ["cluster.local/ns/team-*/sa/*"]'))),
]  # fmt: skip


@pytest.mark.parametrize(("why", "code", "text"), CASES, ids=[case[0] for case in CASES])
def test_we_find_it(why: str, code: str, text: str) -> None:
    """What another tool passes is found."""
    assert code in {found.code for found in lint([("p.yaml", text)]).findings}, why


def test_the_same_denial_does_nothing_in_ambient() -> None:
    """6: what widens in a sidecar is skipped by the node proxy, and each is told as what it is."""
    text = _policy(_to('methods: ["POST"]', "DENY"))
    for mode, code, other in (
        (MeshMode.SIDECAR, "MW0317", "MW0318"),
        (MeshMode.ZTUNNEL, "MW0318", "MW0317"),
    ):
        codes = {found.code for found in lint([("p.yaml", text)], Mesh(mode=mode)).findings}
        assert code in codes
        assert other not in codes or mode is MeshMode.ZTUNNEL


@pytest.mark.parametrize("constant", ["false", "true"])
def test_a_constant_is_judged_by_its_value(constant: str) -> None:
    """9: a lone `false` is a kill switch and left alone; a `true` beside a condition as well."""
    found = lint([("p.yaml", REGO.replace("      false", f"      {constant}"))]).findings
    assert [each.code for each in found] == []


def test_a_lone_true_is_found() -> None:
    """9: a clause that asks nothing is found, however it is written."""
    for body in ("true", "{ true }", "{\n      true; true\n    }"):
        text = REGO.partition("    allow if")[0] + f"    allow if {body}\n"
        codes = [each.code for each in lint([("p.yaml", text)]).findings]
        assert codes == ["MW0909"]


def test_a_host_that_nobody_knows_is_no_fault() -> None:
    """11: Istio took its check of hosts back, and Kiali's skips most; we have none that is on."""
    text = DEPLOYMENT + "---\n" + _policy(_to('hosts: ["revews.shop.svc", "revews.shop.svc:*"]'))
    assert lint([("p.yaml", text)]).findings == ()
