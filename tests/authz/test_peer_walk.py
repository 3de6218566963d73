"""Who asks, through the whole check: the answer, its reason, and what the record says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grpc
import pytest
from checking import MemoryRecorder, ask, make_authorizer, make_message
from click.testing import CliRunner, Result
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.document import LINE_ADAPTER, document_from_record
from audit.redact import Redactor
from authz.cli import main
from authz.grpc_server import SERVICE, GrpcServer
from identity.mapping import MappingSet, RuleTexts, make_mapping
from identity.peer_finding import PeerRules
from identity.spiffe_id import TrustDomain
from identity.xfcc_trust import ForwardMode, XfccTrust, parse_forwarder

GW = "spiffe://td/ns/edge/sa/gateway"
ALICE = "spiffe://td/ns/web/sa/alice"
TRUSTING = PeerRules(
    xfcc=XfccTrust(forwarders=(parse_forwarder(GW),), own_mode=ForwardMode.FORWARD_ONLY)
)
TEAM = RuleTexts(
    pattern="/team/{ns}/{sa}", namespace="{ns}", service_account="{sa}", labels={"app": "{sa}"}
)
MAPPED = PeerRules(mappings=MappingSet((make_mapping("team", [TrustDomain("td")], [TEAM]),)))


def allow(**source: list[str]) -> dict[str, Any]:
    """Return an ALLOW policy for a source."""
    return {"rules": [{"from": [{"source": source}]}]}


def deny(**source: list[str]) -> dict[str, Any]:
    """Return a DENY policy for a source."""
    return {"action": "DENY", **allow(**source)}


def check(
    message: CheckRequest, *policies: dict[str, Any], rules: PeerRules | None = None
) -> tuple[bool, dict[str, Any]]:
    """Return whether the request may pass, and what the record says."""
    recorder = MemoryRecorder()
    authorizer = make_authorizer(policies, recorder, peer_rules=rules or PeerRules())
    answer = ask(authorizer, message)
    document = document_from_record(recorder.records[0], node="n", redactor=Redactor())
    line = {**document, "seq": 1, "prev": "0" * 64, "hash": "0" * 64}
    return answer.status.code == 0, dict(LINE_ADAPTER.validate_python(line))


def forwarded(peer: str, header: str) -> CheckRequest:
    """Return a check whose client sent a header."""
    return make_message(peer, x_forwarded_client_cert=header)


def test_forwarded_peer() -> None:
    """A trusted gateway's client is whom policies see, and the record says by which proof."""
    passed, record = check(forwarded(GW, f"URI={ALICE}"), allow(namespaces=["web"]), rules=TRUSTING)

    assert passed
    assert {"principal": ALICE, "spiffe_id": ALICE, "proof": "xfcc"} == record["peer"]
    assert f"believed: it names `{ALICE}`" == record["xfcc"]


@pytest.mark.parametrize("rules", [None, TRUSTING])
def test_forged_header(rules: PeerRules | None) -> None:
    """A forged header is ignored, and the record says so."""
    mallory = "spiffe://td/ns/evil/sa/mallory"
    passed, record = check(
        forwarded(mallory, f"By={GW};URI={ALICE}"), allow(namespaces=["web"]), rules=rules
    )

    assert not passed
    assert mallory == record["peer"]["principal"]
    assert "tls" == record["peer"]["proof"]
    assert record["xfcc"].startswith("ignored: ")
    assert mallory in record["xfcc"]


def test_no_header_no_word() -> None:
    """Without the header the record has no word on it."""
    _, record = check(make_message(ALICE), allow(namespaces=["web"]))

    assert "xfcc" not in record


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (forwarded(GW, 'URI="'), "xfcc_invalid"),
        (forwarded(GW, f"URI={ALICE},URI={ALICE}"), "xfcc_invalid"),
        (forwarded(GW, "Hash=x"), "xfcc_invalid"),
    ],
)
def test_refused_header(message: CheckRequest, reason: str) -> None:
    """A trusted proxy's header that cannot be right is a denial with a name, whatever the rules."""
    passed, record = check(message, rules=TRUSTING)

    assert not passed
    assert (reason, "peer_authentication") == (
        record["decision"]["reason"],
        record["decision"]["layer"],
    )
    assert record["peer"] is None


@pytest.mark.parametrize(
    ("certificate", "reason"), [("x", "peer_certificate_unreadable"), ("%", None)]
)
def test_refused_certificate(certificate: str, reason: str | None) -> None:
    """A certificate that cannot be read is a denial with a name, and the client hears nothing."""
    message = make_message(ALICE)
    message.attributes.source.certificate = certificate
    passed, record = check(message)

    assert not passed
    assert (reason or "peer_certificate_unreadable") == record["decision"]["reason"]
    assert 403 == record["decision"]["http_status"]


@pytest.mark.parametrize(
    ("peer", "policy", "passes"),
    [
        ("spiffe://td/team/web/cart", allow(namespaces=["web"]), True),
        ("spiffe://td/team/web/cart", allow(serviceAccounts=["web/cart"]), True),
        ("spiffe://td/team/web/cart", allow(namespaces=["team"]), False),
        ("spiffe://td/team/web/cart", allow(principals=["td/team/web/cart"]), True),
        ("spiffe://td/team/web/cart", allow(principals=["td/ns/web/sa/cart"]), False),
        ("spiffe://td/team/web/cart", allow(trustDomains=["td"]), True),
        ("spiffe://td/team/web/cart", allow(notNamespaces=["web"]), False),
        ("spiffe://td/team/web/cart", deny(namespaces=["web"]), False),
        ("spiffe://td/team/web/cart", deny(notNamespaces=["web"]), True),
        # In a mapped trust domain a name of another form lets nobody in, and still keeps out.
        ("spiffe://td/ns/web/sa/cart", allow(namespaces=["web"]), False),
        ("spiffe://td/ns/web/sa/cart", allow(serviceAccounts=["web/cart"]), False),
        ("spiffe://td/ns/web/sa/cart", allow(notNamespaces=["web"]), False),
        ("spiffe://td/ns/web/sa/cart", allow(notNamespaces=["x"]), True),
        ("spiffe://td/ns/web/sa/cart", deny(namespaces=["web"]), False),
        ("spiffe://td/ns/web/sa/cart", deny(serviceAccounts=["web/cart"]), False),
        ("spiffe://td/ns/web/sa/cart", deny(notNamespaces=["web"]), False),
        ("spiffe://td/ns/web/sa/cart", allow(principals=["td/ns/web/sa/cart"]), True),
        # Elsewhere everything is as in Istio.
        ("spiffe://other/ns/web/sa/cart", allow(namespaces=["web"]), True),
        ("spiffe://other/ns/web/sa/cart", deny(notNamespaces=["web"]), True),
    ],
)
def test_mapped_peer(peer: str, policy: dict[str, Any], passes: bool) -> None:
    """Namespaces and service accounts are the mapping's; principals and trust domains are true."""
    passed, record = check(make_message(peer), policy, rules=MAPPED)

    assert passes is passed
    assert peer == record["peer"]["principal"]


def test_mapping_in_the_record() -> None:
    """The record says which mapping spoke, and what it said."""
    _, record = check(make_message("spiffe://td/team/web/cart"), rules=MAPPED)

    assert {
        "mapping": "team",
        "namespace": "web",
        "service_account": "cart",
        "labels": {"app": "cart"},
    } == record["peer"]["mapped"]


def test_workload_by_its_mapping() -> None:
    """The listener's own certificate is read by the same mappings."""
    message = make_message(ALICE)
    message.attributes.destination.principal = "spiffe://td/team/shop/orders"
    recorder = MemoryRecorder()
    ask(make_authorizer((), recorder, peer_rules=MAPPED, static_workload=None), message)

    assert recorder.records[0].destination is not None
    assert ("shop", "orders") == (
        recorder.records[0].destination.namespace,
        recorder.records[0].destination.service_account,
    )


def test_waypoint_metadata() -> None:
    """What the call's metadata names is the peer where the configuration says so."""
    recorder = MemoryRecorder()
    rules = PeerRules(forwarded_key="x-peer")
    authorizer = make_authorizer([allow(namespaces=["web"])], recorder, peer_rules=rules)
    raw = make_message("").SerializeToString()
    authorizer.check(raw, (ALICE,))
    authorizer.check(raw, ())
    authorizer.check(raw, (ALICE, GW))

    assert ["allow", "deny", "deny"] == [each.decision.effect for each in recorder.records]
    assert "peer_forwarded_invalid" == recorder.records[2].decision.reason
    assert recorder.records[0].peer is not None
    assert "filter_state" == recorder.records[0].peer.proof


def run(*arguments: str, given: str | bytes = "") -> Result:
    """Run a command line of `meshwarden identity`."""
    return CliRunner().invoke(main, ["identity", *arguments], input=given)


def test_inspect_xfcc(tmp_path: Path) -> None:
    """The command shows the elements, the steps and the peer; the exit code tells a refusal."""
    config = tmp_path / "m.yaml"
    config.write_text(
        f"identity: {{xfcc: {{ownMode: FORWARD_ONLY, trustedPeers: [{{peer: '{GW}'}}]}}}}"
    )
    header = f'X-Forwarded-Client-Cert: By={GW};Subject="CN=a";URI={ALICE}\r\n'
    common = ("inspect-xfcc", "-", "-c", str(config), "--peer")

    shown = run(*common, GW, given=header)
    assert 0 == shown.exit_code, shown.output
    assert f"URI={ALICE}" in shown.output
    assert "peer proof:            xfcc" in shown.output

    plain = json.loads(run(*common, GW, "--format", "json", given=header).output)
    assert (ALICE, "web", "alice") == (
        plain["peer"]["principal"], plain["peer"]["namespace"], plain["peer"]["service_account"]
    )  # fmt: skip

    ignored = run(*common, ALICE, given=header)
    assert (0, True) == (ignored.exit_code, "not trusted to forward" in ignored.output)
    refused = run(*common, GW, given='URI="')
    assert (1, True) == (refused.exit_code, "refused: xfcc_invalid" in refused.output)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\0",
        b"\xff\xfe",
        b"-----BEGIN CERTIFICATE-----",
        b"%2D%2D%2D%2D%2DBEGIN",
        b"0" * 99999,
    ],
)
def test_inspect_garbage(raw: bytes) -> None:
    """Whatever a file holds, the commands answer in words."""
    certificate = run("inspect-cert", "-", given=raw)
    assert 1 == certificate.exit_code
    assert "refused: peer_certificate_unreadable" in certificate.output
    header = run("inspect-xfcc", "-", given=raw)
    assert header.exception is None or isinstance(header.exception, SystemExit)
    assert 0 == header.exit_code, header.output


def test_inspect_shows_no_control_characters() -> None:
    """What an attacker wrote cannot act on the terminal."""
    shown = run("inspect-xfcc", "-", "--peer", "spiffe://td/\x1b[2J\u202e", given="URI=a")

    assert "\x1b" not in shown.output
    assert "\u202e" not in shown.output


def test_unusable_options(tmp_path: Path) -> None:
    """A wrong bundle, time or configuration is said on one line, exit code 2."""
    for arguments in (
        ("--bundle", "td"),
        ("--bundle", f"td={tmp_path}/none"),
        ("--bundle", "TD=x"),
        ("--at", "noon"),
        ("-c", str(tmp_path / "none.yaml")),
    ):
        assert 2 == run("inspect-cert", "-", *arguments).exit_code, arguments


def test_forwarded_over_plaintext_is_no_mtls() -> None:
    """STRICT asks for mTLS of the connection itself; a proxy's word about its client is none."""
    rules = PeerRules(
        xfcc=XfccTrust(
            forwarders=(parse_forwarder("10.0.0.0/8"),), own_mode=ForwardMode.ALWAYS_FORWARD_ONLY
        )
    )
    message = forwarded("", f"URI={ALICE}")
    message.attributes.source.address.socket_address.address = "10.1.2.3"

    passed, record = check(message, allow(namespaces=["web"]), rules=rules)
    assert (True, "xfcc") == (passed, record["peer"]["proof"])
    strict = {"kind": "PeerAuthentication", "mtls": {"mode": "STRICT"}}
    passed, record = check(message, strict, rules=rules)
    assert (False, "peer_required") == (passed, record["decision"]["reason"])
    passed, record = check(forwarded(GW, f"URI={ALICE}"), strict, rules=TRUSTING)
    assert passed


def test_repeated_header() -> None:
    """Several headers of the name are one list, as they would be on the way."""
    message = forwarded(GW, f"URI={ALICE}")
    http = message.attributes.request.http
    http.header_map.headers.add(key="X-Forwarded-Client-Cert", raw_value=b"URI=spiffe://td/x")
    passed, record = check(message, rules=TRUSTING)

    assert (False, "xfcc_invalid") == (passed, record["decision"]["reason"])
    assert "there are 2" in record["decision"]["detail"]


def test_connection_with_a_certificate() -> None:
    """A connection's certificate is weighed as a request's is; it has no header to forge."""
    message = CheckRequest()
    attributes = message.attributes
    attributes.source.principal, attributes.source.certificate = ALICE, "x"
    attributes.destination.address.socket_address.port_value = 80
    passed, record = check(message)

    assert (False, "peer_certificate_unreadable") == (passed, record["decision"]["reason"])


@given(st.binary(max_size=80), st.text(max_size=40), st.text(max_size=40), st.booleans())
@settings(max_examples=150, deadline=None)
def test_any_evidence(header: bytes, certificate: str, principal: str, is_trusted: bool) -> None:
    """Whatever Envoy says of the caller, there is one answer and one record of it."""
    message = make_message(GW if is_trusted else principal)
    message.attributes.source.certificate = certificate
    headers = message.attributes.request.http.header_map.headers
    headers.add(key="x-forwarded-client-cert", raw_value=header)
    _, record = check(message, allow(namespaces=["web"]), rules=TRUSTING)

    assert "internal_error" != record["decision"]["reason"]


def test_metadata_over_the_wire() -> None:
    """The server hands on what stands under the configured key, and nothing else of the call."""
    recorder = MemoryRecorder()
    rules = PeerRules(forwarded_key="x-peer")
    authorizer = make_authorizer([allow(namespaces=["web"])], recorder, peer_rules=rules)
    server = GrpcServer("127.0.0.1:0", 1, authorizer.check, metadata_key="x-peer")
    try:
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            call = channel.unary_unary(f"/{SERVICE}/Check")
            raw = make_message("", x_peer=ALICE).SerializeToString()
            for metadata in ([("x-peer", ALICE)], [("x-other", ALICE)], [("x-peer", ALICE)] * 2):
                call(raw, metadata=metadata, timeout=10)
    finally:
        server.stop(1)

    told = [each.peer.principal if each.peer else None for each in recorder.records]
    assert [ALICE, None, None] == told
    assert ["allow", "deny", "deny"] == [each.decision.effect for each in recorder.records]
