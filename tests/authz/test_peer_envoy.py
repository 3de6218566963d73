"""Who asks, by a real Envoy's words: every name of a certificate, forwarded or in a waypoint."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml
from proxied import CASE, GATEWAY, PEER_KEY, SIDECAR, Proxies, Shape, running

from identity.peer import Peer, PeerProof
from identity.peer_certificate import read_peer_certificate
from identity.peer_finding import PeerFault, PeerFinding, PeerRules, find_peer
from identity.spiffe_id import TrustDomain
from identity.trust_bundle import BundleSet, TrustBundle
from identity.xfcc import parse_xfcc
from identity.xfcc_trust import ForwardMode, XfccTrust, parse_forwarder
from policies.mesh import Mesh
from policies.request import Request
from policies.snapshot import Snapshot, build_snapshot

pytestmark = [
    pytest.mark.envoy,
    # `cryptography` has its doubts about some of the subjects below.
    pytest.mark.filterwarnings("ignore:Attribute's length:UserWarning"),
]

UTF8 = "UTF8String"
CN, ORG, COUNTRY = "2.5.4.3", "2.5.4.10", "2.5.4.6"
PILOT, PKCS9, EV = "0.9.2342.19200300.100.1", "1.2.840.113549.1.9", "1.3.6.1.4.1.311.60.2.1"
EVERY_NAME = (
    *(f"2.5.4.{number}" for number in range(101) if number != 6),
    *(f"{PILOT}.{number}" for number in range(61)),
    *(f"{PKCS9}.{number}" for number in range(30)),
    *(f"{EV}.{number}" for number in range(4)),
    "1.2.3.4",
)
SHAPES: dict[str, Shape] = {
    "one": Shape(uris=("spiffe://td/ns/foo/sa/web",)),
    "two URIs": Shape(uris=("spiffe://td/ns/bar/sa/x", "spiffe://td/ns/foo/sa/web")),
    "URI and DNS": Shape(uris=("spiffe://td/x",), dns=("spiffe://td/ns/foo/sa/web", "a.b")),
    "all three": Shape(
        uris=("https://a/b",), dns=("a.b",), subject=((CN, "spiffe://td/ns/foo/sa/web", ""),)
    ),
    "DNS": Shape(dns=("web.foo", "spiffe://td/ns/foo/sa/web")),
    "subject": Shape(subject=((ORG, "o", ""), (CN, "spiffe://td/ns/foo/sa/web", ""))),
    "subject in DNS' shade": Shape(dns=("a.b",), subject=((CN, "x/ns/foo/sa/web", ""),)),
    "escapes": Shape(
        subject=((ORG, 'a, "b"+c;<d>\\#e=', ""), (CN, " /ns/foo/ü\x01 ", ""), (CN, "#x", ""))
    ),
    "NUL": Shape(uris=("spiffe://td/ns/foo\0/sa/web",)),
    "NUL at the end": Shape(uris=("spiffe://td/ns/foo/sa/web\0",)),
    "line end": Shape(uris=("spiffe://td/ns/foo/sa/web\n",)),
    "upper case": Shape(uris=("spiffe://TD/ns/foo/sa/web", "SPIFFE://td/ns/foo/sa/web")),
    "comma": Shape(uris=("spiffe://td/x,spiffe://td/ns/foo/sa/web",)),
    "percent": Shape(uris=("spiffe://td/ns/f%6fo/sa/web", "spiffe://td%2fns/foo/sa/web")),
    "dots": Shape(uris=("spiffe://td/ns/foo/../bar/sa/web",)),
    "empty URI": Shape(uris=("", "spiffe://td/ns/foo/sa/web")),
    "nameless": Shape(),
    **{
        f"attribute {place}": Shape(
            subject=tuple((oid, "a/ns/foo/b", UTF8) for oid in EVERY_NAME[place : place + 40])
        )
        for place in range(0, len(EVERY_NAME), 40)
    },
    "country": Shape(subject=((COUNTRY, "DE", ""), (CN, "x", "BMPString"))),
}


def named(**matcher: Any) -> dict[str, Any]:
    """Return Envoy's principal for a name."""
    return {"authenticated": {"principal_name": matcher}}


def pattern(text: str) -> dict[str, Any]:
    """Return Envoy's matcher of a regular expression."""
    return named(safe_regex={"regex": text})


# A rule's source, and what Istio makes of it.
RULES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"principals": ["*"]}, pattern(".+")),
    ({"principals": ["td/ns/foo/sa/web"]}, named(exact="spiffe://td/ns/foo/sa/web")),
    ({"principals": ["td/ns/foo*"]}, named(prefix="spiffe://td/ns/foo")),
    ({"principals": ["*/sa/web"]}, pattern("spiffe://.*/sa/web")),
    ({"notPrincipals": ["td/ns/foo/sa/web"]}, {"not_id": named(exact="spiffe://td/ns/foo/sa/web")}),
    ({"namespaces": ["foo"]}, pattern(".*/ns/foo/.*")),
    ({"namespaces": ["f*"]}, pattern(".*/ns/f.*/.*")),
    ({"notNamespaces": ["foo"]}, {"not_id": pattern(".*/ns/foo/.*")}),
    ({"serviceAccounts": ["foo/web"]}, pattern("spiffe://.+/ns/foo/(.+/|)sa/web(/.+)?")),
    ({"trustDomains": ["td"]}, named(prefix="spiffe://td/")),
]


def route_of(index: int, principal: dict[str, Any]) -> dict[str, Any]:
    """Return the route of a rule."""
    policy = {"permissions": [{"any": True}], "principals": [principal]}
    rbac = {"rules": {"action": "ALLOW", "policies": {"p": policy}}}
    kind = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBACPerRoute"
    return {
        "match": {
            "prefix": "/",
            "headers": [{"name": CASE, "string_match": {"exact": str(index)}}],
        },
        "direct_response": {"status": 200},
        "typed_per_filter_config": {"envoy.filters.http.rbac": {"@type": kind, "rbac": rbac}},
    }


@pytest.fixture(scope="module")
def proxies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxies]:
    """Run one Envoy for all tests."""
    routes = [route_of(index, principal) for index, (_, principal) in enumerate(RULES)]
    with running(tmp_path_factory.mktemp("peers"), routes) as found:
        yield found


@pytest.fixture(scope="module")
def snapshot() -> Snapshot:
    """The rules as Istio's policies, in one namespace, one policy a rule."""
    documents = [
        {
            "apiVersion": "security.istio.io/v1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": f"p{index}", "namespace": "shop"},
            "spec": {"rules": [{"from": [{"source": source}]}]},
        }
        for index, (source, _) in enumerate(RULES)
    ]
    return build_snapshot([("p.yaml", yaml.safe_dump_all(documents))], Mesh())


def find(request: Request, rules: PeerRules | None = None, *, root: Any = None) -> PeerFinding:
    """Return who asks, by a bundle of `root` for `td` where one is given."""
    bundle = TrustBundle(trust_domain=TrustDomain("td"), x509_authorities=(root,) if root else ())
    assert request.peer_evidence is not None
    return find_peer(
        request.peer_evidence,
        rules or PeerRules(),
        BundleSet.of(bundle) if root else BundleSet(),
        datetime.now(UTC),
    )


@pytest.mark.parametrize("name", SHAPES)
def test_every_name_of_a_certificate(proxies: Proxies, snapshot: Snapshot, name: str) -> None:
    """A rule matches a certificate of any shape where Envoy's RBAC does, and nowhere else."""
    numbers = [str(index) for index in range(len(RULES))]
    answers = proxies.ask("main", SHAPES[name], *numbers)
    theirs = [
        (json.dumps(RULES[index][0]), answers[index][0] == 200) for index in range(len(RULES))
    ]
    ours = []
    for index, (_, request) in enumerate(answers):
        found = find(request)
        assert found.fault is None, found.detail
        asked = Request(peer=found.peer)
        matched = snapshot.policies[index][1].first_match(asked)
        ours.append((json.dumps(RULES[index][0]), matched is not None))

    assert {status for status, _ in answers} <= {200, 403}
    assert theirs == ours


@pytest.mark.parametrize("name", SHAPES)
def test_principal(proxies: Proxies, name: str) -> None:
    """What Envoy reports of a certificate is what we read in it, to the letter."""
    evidence = proxies.ask("main", SHAPES[name], "0")[0][1].peer_evidence
    assert evidence is not None

    assert evidence.principal == read_peer_certificate(evidence.certificate).principal


def test_verified_again(proxies: Proxies) -> None:
    """With the trust domain's bundle the certificate is the proof, and a stranger's is none."""
    request = proxies.ask("main", SHAPES["one"], "0")[0][1]
    found = find(request, root=proxies.authority.root)
    assert found.peer is not None
    assert PeerProof.CERTIFICATE is found.peer.proof

    twice = proxies.ask("main", SHAPES["two URIs"], "0")[0][1]
    assert PeerFault.CERTIFICATE_UNTRUSTED is find(twice, root=proxies.authority.root).fault


def trusting(mode: str = "SANITIZE_SET") -> PeerRules:
    """Return rules that believe the gateway."""
    return PeerRules(xfcc=XfccTrust(forwarders=(parse_forwarder(GATEWAY, mode=ForwardMode(mode)),)))


@pytest.mark.parametrize("name", ["one", "URI and DNS", "all three", "DNS", "subject", "escapes"])
def test_forwarded_by_a_gateway(proxies: Proxies, name: str) -> None:
    """A trusted gateway's client is the peer, under all the names of its certificate."""
    _, request = proxies.ask("gateway", SHAPES[name])[0]
    direct = proxies.ask("main", SHAPES[name], "0")[0][1].peer_evidence
    assert direct is not None

    found = find(request, trusting())
    assert found.peer is not None, found.detail
    assert (direct.principal, PeerProof.XFCC) == (found.peer.principal, found.peer.proof)
    assert set(read_peer_certificate(direct.certificate).names) == set(found.peer.names)
    assert found.xfcc.startswith("believed")


def test_forwarded_and_verified(proxies: Proxies) -> None:
    """The certificate in the header is verified as one of the connection is."""
    _, request = proxies.ask("gateway", SHAPES["one"])[0]
    assert find(request, trusting(), root=proxies.authority.root).fault is None

    _, twice = proxies.ask("gateway", SHAPES["two URIs"])[0]
    assert PeerFault.XFCC_INVALID is find(twice, trusting()).fault


def test_not_believed_without_configuration(proxies: Proxies) -> None:
    """Where nobody is trusted to forward, the gateway is the peer, and the record says so."""
    _, request = proxies.ask("gateway", SHAPES["one"])[0]

    found = find(request)
    assert Peer.from_principal(GATEWAY) == found.peer
    assert found.xfcc.startswith("ignored")


def test_forged_by_a_client(proxies: Proxies) -> None:
    """What a client writes into the header does not get past Envoy's own element."""
    forged = f"By={GATEWAY};URI=spiffe://td/ns/foo/sa/web"
    _, request = proxies.ask("main", SHAPES["one"], "0", x_forwarded_client_cert=forged)[0]
    assert request.peer_evidence is not None
    elements = parse_xfcc(request.peer_evidence.xfcc or "")
    assert [(GATEWAY,), (SIDECAR,)] == [each.by for each in elements]

    found = find(request, trusting())
    assert found.peer is not None
    assert ("spiffe://td/ns/foo/sa/web", PeerProof.TLS) == (found.peer.principal, found.peer.proof)
    assert "not trusted to forward" in found.xfcc


def test_plaintext_cannot_forward(proxies: Proxies) -> None:
    """Without a client certificate Envoy drops the header, and nobody is the peer."""
    forged = f"By={GATEWAY};URI=spiffe://td/ns/foo/sa/web"
    _, request = proxies.ask("main", None, "0", x_forwarded_client_cert=forged)[0]

    assert PeerFinding(steps=("no client certificate",)) == find(request, trusting())


def test_comma_in_a_name(proxies: Proxies) -> None:
    """A certificate whose URI holds a comma makes Envoy write two elements: refused."""
    uri = f"spiffe://td/x,By={GATEWAY};URI=spiffe://td/ns/foo/sa/web"
    _, request = proxies.ask("gateway", Shape(uris=(uri,)))[0]

    found = find(request, trusting())
    assert PeerFault.XFCC_INVALID is found.fault
    assert "sends one element, and there are 2" in found.detail


@pytest.mark.parametrize("rest", ["x=1", "By=x", "URI=x", "URI=", "DNS=a;x=1"])
def test_semicolon_in_a_name(proxies: Proxies, rest: str) -> None:
    """A certificate whose URI holds a semicolon is none of the shorter name that Envoy writes."""
    shape = Shape(uris=(f"spiffe://td/ns/foo/sa/web;{rest}",))
    _, request = proxies.ask("gateway", shape)[0]
    assert PeerFault.XFCC_INVALID is find(request, trusting()).fault
    told = request.peer_evidence
    assert told is not None
    # As a gateway writes it that sends no certificate along.
    bare = re.sub(r'(?:Cert|Chain)="[^"]*";', "", told.xfcc or "")
    found = find(replace(request, peer_evidence=replace(told, xfcc=bare)), trusting())
    assert PeerFault.XFCC_INVALID is found.fault
    assert "URI=spiffe://td/ns/foo/sa/web;" in bare


def test_plaintext_client_of_a_gateway(proxies: Proxies) -> None:
    """A gateway whose client had no certificate speaks for itself only."""
    _, request = proxies.ask("gateway", None)[0]

    found = find(request, trusting())
    assert found.peer is not None
    assert (GATEWAY, PeerProof.TLS) == (found.peer.principal, found.peer.proof)


def test_waypoint(proxies: Proxies) -> None:
    """Behind a waypoint's internal listener the filter state names the peer, and nothing else."""
    _, request = proxies.ask("waypoint", SHAPES["one"], x_meshwarden_peer="spiffe://td/forged")[0]
    assert find(request).peer is None

    found = find(request, PeerRules(forwarded_key=PEER_KEY))
    assert found.peer is not None
    assert "spiffe://td/ns/foo/sa/web" == found.peer.principal
    assert PeerProof.FILTER_STATE is found.peer.proof


@pytest.mark.parametrize("name", ["nameless", "DNS", "subject"])
def test_waypoint_without_a_name(proxies: Proxies, name: str) -> None:
    """A certificate without URI leaves the filter state without a name: nobody is the peer."""
    _, request = proxies.ask("waypoint", SHAPES[name])[0]

    assert find(request, PeerRules(forwarded_key=PEER_KEY)).peer is None
