"""Who asks: whatever Envoy tells, nobody is named by a word that is not trusted, nor who is denied.

Certificates, headers and the filter state of a waypoint are put together from good and bent
pieces, under random rules. What is said of the caller is held against what may count at all,
and what a memory of certificates says against what is said without one.
"""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from identity.deny_list import DenyList
from identity.errors import CertificateError
from identity.peer_certificate import read_peer_certificate
from identity.peer_finding import PeerEvidence, PeerFinding, PeerRules, find_peer
from identity.spiffe_id import TrustDomain
from identity.svid_memory import SvidMemory
from identity.trust_bundle import BundleSet, TrustBundle
from identity.x509_svid import X509Svid, verify_svid
from identity.xfcc import parse_xfcc
from identity.xfcc_trust import ForwardMode, XfccTrust, parse_forwarder
from tests.fuzz.choices import Choices
from tests.fuzz.target import Target

_AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
_TD = "spiffe://mesh.test"
_WEB, _GW, _EDGE = f"{_TD}/ns/shop/sa/web", f"{_TD}/ns/in/sa/gw", f"{_TD}/ns/in/sa/edge"
_NAMES = (
    *(_WEB, _GW, _EDGE, f"{_WEB}/", "SPIFFE://mesh.test/ns/in/sa/gw", "spiffe://MESH.test/a"),
    *(f"{_TD}:80/ns/in/sa/gw", f"{_TD}/ns/in/sa/%67w", f"{_TD}/ns/in/../in/sa/gw", f"{_TD}?/x"),
    *("spiffe://u@mesh.test/a", "spiffe://xn--msh-bma.test/a", "https://mesh.test/a", _TD, ""),
    *("spiffe://other.test/ns/in/sa/gw", f"{_GW},By=x;URI={_WEB}", "web.shop", 'a"b', f"{_GW} "),
)
_HASH = "Hash=" + "0" * 64
_KEYS = [ec.derive_private_key(0x5EED + number, ec.SECP256R1()) for number in range(3)]


def _certificate(issuer: int, uris: tuple[str, ...], *, is_ca: bool = False) -> x509.Certificate:
    """Return a certificate of these names, signed by one of two authorities."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"root {issuer}")])
    key = _KEYS[issuer] if is_ca else _KEYS[2]
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False
    )
    builder = (
        x509.CertificateBuilder(name, name if is_ca else x509.Name([]), key.public_key())
        .serial_number(1 + _NAMES.index(uris[0]) if uris else 99)
        .not_valid_before(_AT - timedelta(days=1))
        .not_valid_after(_AT + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=not is_ca, key_cert_sign=is_ca, crl_sign=is_ca,
                encipher_only=False, decipher_only=False, **usage,
            ),
            critical=True,
        )
    )  # fmt: skip
    if uris:
        names = [x509.UniformResourceIdentifier(each) for each in uris]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    return builder.sign(_KEYS[issuer], hashes.SHA256())


_ROOTS = [_certificate(number, (), is_ca=True) for number in range(2)]
_BUNDLES = (
    BundleSet(),
    *(
        BundleSet.of(
            TrustBundle(trust_domain=TrustDomain("mesh.test"), x509_authorities=(_ROOTS[number],))
        )
        for number in range(2)
    ),
    BundleSet.of(TrustBundle(trust_domain=TrustDomain("mesh.test"))),
)


@cache
def _pem(issuer: int, first: int, second: int) -> str:
    """Return a leaf as Envoy sends it; `second` 0 is one name only."""
    uris = (_NAMES[first], *((_NAMES[second],) if second else ()))
    made = _certificate(issuer, uris)
    return quote(made.public_bytes(serialization.Encoding.PEM).decode())


def _run(data: bytes) -> None:
    choices = Choices(data)
    rules, evidence = _rules(choices), _evidence(choices)
    bundles = [choices.pick(_BUNDLES) for _ in range(2)]
    memory = SvidMemory()
    for bundle, at in (
        *((bundles[0], _AT), (bundles[0], _AT), (bundles[1], _AT)),
        *((bundles[0], _AT + timedelta(days=3)), (bundles[0], _AT)),
    ):
        cold = find_peer(evidence, rules, bundle, at)
        warm = find_peer(evidence, rules, bundle, at, memory)
        assert cold == warm, "what is remembered differs"
        assert cold.fault is None or cold.peer is None
        _hold(cold, evidence, rules, bundle, at)


def _hold(
    found: PeerFinding, evidence: PeerEvidence, rules: PeerRules, bundles: BundleSet, at: datetime
) -> None:
    """Hold what may never be, however the peer was found."""
    if found.peer is None:
        return
    peer, denied = found.peer, rules.denied()
    forwarded = evidence.forwarded if rules.forwarded_key else ()
    told = {each for each in (evidence.principal, *forwarded) if each not in ("", "-")}
    read = _read(evidence.certificate)
    told |= set(read.names) if read is not None else set()
    leaf = read.chain[0] if read is not None else None
    assert denied.denial_of([*peer.names, *told], leaf, at) is None, "who is denied is let in"
    if leaf is not None and (rules.verify_all or _claims_domain(read.names, rules, bundles)):
        assert isinstance(verify_svid(read.chain, bundles, at), X509Svid), "not verified"
    if rules.verify_all or _claims_domain((evidence.principal,), rules, bundles):
        assert leaf is not None, "nobody who must verify is believed without a certificate"
    if not _is_trusted(evidence, rules, told):
        assert set(peer.names) <= told, "a name out of a header of somebody who is not trusted"
        return
    header = evidence.xfcc or ""
    for name in peer.names:
        assert name in told or name in header or _reads_in(header, name), "a name nobody said"
    if found.xfcc.startswith("believed"):
        elements = parse_xfcc(header)
        ours = [place for place, each in enumerate(elements) if peer.principal in each.names]
        for each in elements[ours[-1] + 1 :] if ours else ():
            assert denied.denial_of(each.names, None, at) is None, "the word of who is denied"


def _reads_in(header: str, name: str) -> bool:
    """Whether a name stands in a certificate inside the header."""
    texts = [piece.partition('"')[0] for piece in header.split('Cert="')[1:]]
    return any(name in found.names for found in map(_read, texts) if found is not None)


def _read(encoded: str) -> Any:
    try:
        return read_peer_certificate(encoded) if encoded else None
    except CertificateError:
        return None


def _claims_domain(names: tuple[str, ...], rules: PeerRules, bundles: BundleSet) -> bool:
    domains = {*rules.verified_domains, *(each.trust_domain.name for each in bundles)}
    return any(name.lower().startswith(f"spiffe://{each}/") for name in names for each in domains)


def _is_trusted(evidence: PeerEvidence, rules: PeerRules, told: set[str]) -> bool:
    """Whether anybody who was told of, or the address, is trusted to forward."""
    for each in rules.xfcc.forwarders:
        if each.spiffe_id is not None and str(each.spiffe_id) in told:
            return True
        address = evidence.source_ip
        if each.network is not None and address and ipaddress.ip_address(address) in each.network:
            return True
    return False


def _rules(choices: Choices) -> PeerRules:
    who = (_GW, _EDGE, "10.0.0.0/8", _WEB)
    modes = (ForwardMode.SANITIZE_SET, ForwardMode.APPEND_FORWARD)
    forwarders = tuple(
        parse_forwarder(choices.pick(who), mode=choices.pick(modes))
        for _ in range(choices.number(3))
    )
    if choices.number(3) < 2:
        forwarders = tuple(parse_forwarder(each, mode=choices.pick(modes)) for each in (_GW, _EDGE))
    kinds = [("spiffe_id", choices.pick(_NAMES[:4])), ("serial", f"{choices.number(20):040x}")]
    listed = DenyList(until=dict.fromkeys(kinds[: choices.number(3)]))
    return PeerRules(
        xfcc=XfccTrust(
            forwarders=forwarders,
            own_mode=choices.pick((*ForwardMode, ForwardMode.APPEND_FORWARD)),
            max_hops=1 + choices.number(3),
        ),
        verified_domains=frozenset(("mesh.test",) * choices.number(2)),
        verify_all=choices.number(6) == 5,
        forwarded_key="k" * choices.number(2),
        denied=lambda: listed,
    )


def _evidence(choices: Choices) -> PeerEvidence:
    first = choices.number(len(_NAMES)) if choices.is_yes() else 1
    principal = choices.pick((_NAMES[first],) * 3 + ("", _WEB))
    certificate = ""
    if choices.number(3) == 2:
        certificate = _leaf(choices, first)
        principal = principal if choices.number(6) == 5 else _NAMES[first]
    return PeerEvidence(
        principal=principal,
        certificate=certificate,
        source_ip=choices.pick(("10.1.2.3", "11.0.0.1", "")),
        xfcc=_header(choices, principal) if choices.is_yes() else None,
        forwarded=tuple(choices.pick((*_NAMES, "-")) for _ in range(choices.number(3))),
    )


def _leaf(choices: Choices, first: int) -> str:
    second = choices.number(len(_NAMES)) if choices.number(4) == 3 else 0
    pem = _pem(choices.number(2), first, second)
    if choices.number(8) == 7:
        return choices.edited(pem.encode(), 2).decode("utf-8", "surrogateescape")
    return pem


def _header(choices: Choices, principal: str) -> str:
    # The nearest element is that of a proxy before the gateway, where there are two.
    count = choices.number(4)
    elements = [_element(choices, 2 if 0 < place == count - 1 else 0) for place in range(count)]
    if not choices.is_yes():
        elements.append(f"By=spiffe://mesh.test/me;URI={principal}")
    text = ",".join(elements)
    if choices.number(6) == 5:
        return choices.edited(text.encode(), 3).decode("utf-8", "surrogateescape")
    return text


def _element(choices: Choices, usual: int) -> str:
    name = choices.number(len(_NAMES)) if choices.number(4) == 3 else usual
    pairs = [f"URI={_NAMES[name]}"] if choices.number(5) < 4 else []
    for _ in range(max(0, choices.number(5) - 2)):
        other = choices.pick(_NAMES)
        pairs.append(
            choices.pick(
                (f"By={other}", f"URI={other}", f'URI="{other}"', f"DNS={other}", _HASH,
                 f'Subject="CN={other}"', f'Cert="{_leaf(choices, name)}"', "x=y", "URI=")
            )
        )  # fmt: skip
    return ";".join(pairs)


def _good() -> bytes:
    """Return choices under which a gateway forwards, and is believed."""
    return bytes([1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0])


def _seeds() -> list[bytes]:
    return [
        b"",
        _good(),
        *(bytes([2, who, 1, 1, mode]) + bytes(8) for who in range(4) for mode in range(5)),
    ]


TARGET = Target(run=_run, seeds=_seeds, words=("URI=", "By=", 'Cert="', ","), share=0.5)
