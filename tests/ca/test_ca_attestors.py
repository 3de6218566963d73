"""Who asks: join tokens, service-account tokens and SVIDs that are shown, each also abused."""

from __future__ import annotations

import base64
import json
import threading
from datetime import timedelta

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from issuing import CART, CART_CALLER, make_csr, open_ca, request_of

from ca.caller import Caller, Method
from ca.desk import Desk, DeskParts
from ca.entries import RegistrationEntry
from ca.errors import AttestationError, IssueRefusedError
from ca.issue import SvidRequest, issue_x509_svid
from ca.issued import SigningRequest, TokenRecord
from ca.join_tokens import JoinToken, JoinTokenAttestor
from ca.recorder import StaleRegistryError
from ca.refusal import Refusal
from ca.renewing import PeerChain, SvidAttestor
from ca.revocations import DeniedKind, Revocation, insert_revocation
from ca.service_account import ClusterRule, ServiceAccountAttestor, ServiceAccountToken
from identity.jwks import parse_jwk_set
from identity.jwt_rule import JwtRule
from identity.spiffe_id import SpiffeId, TrustDomain
from identity.trust_bundle import TrustBundle

ISSUER = "https://kubernetes.default.svc"


@pytest.fixture
def ca(authority, clock, tmp_path):
    """An issuing CA."""
    with open_ca(tmp_path, authority, clock) as opened:
        yield opened


@pytest.fixture
def desk(ca, clock):
    """The operator's desk of that CA."""
    parts = DeskParts(
        trust_domain=TrustDomain("example.org"),
        store=ca.store,
        registry=ca.registry,
        recorder=ca.recorder,
        clock=clock,
        published=lambda: None,
        node="one",
    )
    return Desk(parts)


def _reason(attest, evidence) -> Refusal:
    with pytest.raises(AttestationError) as caught:
        attest(evidence)
    return caught.value.reason


def test_a_join_token_lets_one_in_once(ca, desk, clock):
    """The first who shows a token gets its ID; whoever shows it again gets a named refusal."""
    attest = JoinTokenAttestor(ca.store, clock)
    token = desk.make_token(CART, timedelta(minutes=10))

    caller = attest(JoinToken(token))

    issued = ca.issuance.sign(SigningRequest(csr=make_csr()), caller)
    assert (str(issued.spiffe_id), caller.method) == (CART, Method.JOIN_TOKEN)
    assert _reason(attest, JoinToken(token)) is Refusal.TOKEN_USED
    assert token not in json.dumps(ca.events("svid_issued") + ca.events("join_token_made"))


def test_of_many_with_one_join_token_one_gets_in(ca, desk, clock):
    """Shown by eight at the same moment, a token attests exactly one of them."""
    attest, token = JoinTokenAttestor(ca.store, clock), desk.make_token(CART, timedelta(hours=1))
    won, lost = [], []

    def show() -> None:
        try:
            won.append(attest(JoinToken(token)))
        except AttestationError as exc:
            lost.append(exc.reason)

    threads = [threading.Thread(target=show) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(won) == 1
    assert lost == [Refusal.TOKEN_USED] * 7


@pytest.mark.parametrize("text", ["", "x", "A" * 43, "'; DROP TABLE join_token; --", "A" * 9000])
def test_a_strange_join_token_is_unknown(ca, clock, text):
    """What we never made is refused, whatever it looks like."""
    attest = JoinTokenAttestor(ca.store, clock)
    assert _reason(attest, JoinToken(text)) is Refusal.TOKEN_UNKNOWN


def test_a_join_token_ends(ca, desk, clock):
    """At the end of its time a token is worth nothing, and shows in no representation."""
    attest, token = JoinTokenAttestor(ca.store, clock), desk.make_token(CART, timedelta(minutes=1))
    clock.now += timedelta(minutes=1)
    assert _reason(attest, JoinToken(token)) is Refusal.TOKEN_EXPIRED
    assert token not in repr(JoinToken(token))


def test_a_token_for_another_trust_domain_is_not_made(desk):
    """A join token can only be made for a workload of this trust domain."""
    for text in ("spiffe://other.org/a", "spiffe://example.org", "cart"):
        with pytest.raises(IssueRefusedError):
            desk.make_token(text, timedelta(minutes=1))


KEY = ec.generate_private_key(ec.SECP256R1())


def _jwks(key=KEY) -> str:
    numbers = key.public_key().public_numbers()
    x, y = (
        base64.urlsafe_b64encode(n.to_bytes(32)).rstrip(b"=").decode()
        for n in (numbers.x, numbers.y)
    )
    entry = {"kty": "EC", "crv": "P-256", "kid": "one", "x": x, "y": y}
    return json.dumps({"keys": [entry]})


def _claims(clock, **changes):
    now = int(clock().timestamp())
    claims = {
        "iss": ISSUER,
        "aud": ["meshwarden-ca"],
        "sub": "system:serviceaccount:shop:cart",
        "exp": now + 3600,
        "iat": now,
        "jti": "token-1",
        "kubernetes.io": {
            "namespace": "shop",
            "pod": {"name": "cart-0", "uid": "7d0c9c2e"},
            "serviceaccount": {"name": "cart", "uid": "11"},
        },
    }
    return {name: value for name, value in (claims | changes).items() if value is not None}


def _token(clock, key=KEY, **changes) -> ServiceAccountToken:
    text = jwt.encode(_claims(clock, **changes), key, algorithm="ES256", headers={"kid": "one"})
    return ServiceAccountToken(text)


@pytest.fixture
def attest_account(clock):
    """The attestor of one cluster."""
    rule = JwtRule(issuer=ISSUER, audiences=("meshwarden-ca",), jwks=_jwks())
    keys = parse_jwk_set(rule.jwks, is_inline=True)
    clusters = [ClusterRule(cluster="main", rule=rule)]
    return ServiceAccountAttestor(clusters, lambda _: keys, clock)


def test_a_service_account_token_names_its_account_and_pod(ca, attest_account, clock):
    """A genuine token gives selectors of cluster, namespace, account and pod, and a certificate."""
    ca.add()
    caller = attest_account(_token(clock))

    assert caller.selectors >= {"k8s:cluster:main", "k8s:ns:shop", "k8s:sa:cart"}
    assert "k8s:pod-name:cart-0" in caller.selectors
    assert str(ca.issuance.sign(SigningRequest(csr=make_csr()), caller).spiffe_id) == CART
    [row] = ca.rows()
    assert row.evidence["subject"] == "system:serviceaccount:shop:cart"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"iss": "https://other.example"}, Refusal.TOKEN_UNKNOWN),
        ({"aud": ["vault"]}, Refusal.TOKEN_INVALID),
        ({"aud": None}, Refusal.TOKEN_INVALID),
        ({"exp": 1}, Refusal.TOKEN_EXPIRED),
        ({"exp": None}, Refusal.TOKEN_INVALID),
        ({"exp": 4_000_000_000}, Refusal.TOKEN_INVALID),
        ({"sub": "system:node:a"}, Refusal.TOKEN_INVALID),
        ({"sub": "system:serviceaccount:shop:cart:x"}, Refusal.TOKEN_INVALID),
        ({"sub": "system:serviceaccount:pay:cart"}, Refusal.TOKEN_INVALID),
        ({"sub": None}, Refusal.TOKEN_INVALID),
        ({"kubernetes.io": None}, Refusal.TOKEN_INVALID),
        ({"kubernetes.io": "shop"}, Refusal.TOKEN_INVALID),
        ({"kubernetes.io": {"namespace": "pay"}}, Refusal.TOKEN_INVALID),
    ],
)
def test_a_service_account_token_that_is_not_for_us(attest_account, clock, changes, reason):
    """Another issuer, audience, time or kind of subject is refused by name."""
    assert _reason(attest_account, _token(clock, **changes)) is reason


def test_a_service_account_token_signed_by_another_is_refused(attest_account, clock):
    """Neither a strange key nor no signature nor text that is no token gets in."""
    strange = ec.generate_private_key(ec.SECP256R1())
    assert _reason(attest_account, _token(clock, key=strange)) is Refusal.TOKEN_INVALID
    unsigned = jwt.encode(_claims(clock), None, algorithm="none")
    for text in (unsigned, "", "a.b.c"):
        assert _reason(attest_account, ServiceAccountToken(text)) in (
            Refusal.TOKEN_INVALID,
            Refusal.TOKEN_UNKNOWN,
        )


def test_a_cluster_without_audience_is_not_taken(clock):
    """Tokens meant for nobody in particular could be anybody's, so the rule needs an audience."""
    rule = ClusterRule(cluster="main", rule=JwtRule(issuer=ISSUER))
    with pytest.raises(ValueError, match="audience"):
        ServiceAccountAttestor([rule], lambda _: None, clock)


@pytest.fixture
def attest_svid(ca, authority, clock):
    """The attestor of renewals."""
    bundle = TrustBundle(trust_domain=TrustDomain("example.org"), x509_authorities=authority.roots)
    return SvidAttestor(lambda: bundle, ca.store, ca.registry, clock)


def _chain(svid) -> PeerChain:
    return PeerChain([c.public_bytes(serialization.Encoding.DER) for c in svid.chain])


def test_an_svid_on_record_renews_while_its_entry_stands(ca, desk, attest_svid):
    """Who shows an SVID of ours gets the next one, of the same ID, until the entry is removed."""
    ca.add()
    first = ca.issuance.sign(request_of(CART), CART_CALLER)

    caller = attest_svid(_chain(first))
    second = ca.issuance.sign(request_of(), caller)
    assert (second.spiffe_id, caller.holds) == (first.spiffe_id, first.spiffe_id)
    with pytest.raises(IssueRefusedError) as caught:
        ca.issuance.sign(request_of("spiffe://example.org/ns/shop/sa/pay"), caller)
    assert caught.value.reason is Refusal.ID_NOT_ALLOWED

    desk.remove_entry("entry-cart")
    with pytest.raises(IssueRefusedError) as caught:
        ca.issuance.sign(request_of(CART), caller)
    assert caught.value.reason is Refusal.CALLER_UNKNOWN


@pytest.mark.parametrize("kind", list(DeniedKind))
def test_a_denied_svid_renews_nothing(ca, desk, attest_svid, kind):
    """By its serial number, its key or its ID: what is denied is not renewed."""
    ca.add()
    issued = ca.issuance.sign(request_of(CART), CART_CALLER)
    [row] = ca.rows()
    value = {"serial": row.serial, "spki_sha256": row.spki_sha256, "spiffe_id": CART}[kind.value]
    desk.revoke(kind, value)
    assert _reason(attest_svid, _chain(issued)) is Refusal.CALLER_REVOKED
    told = {"act": 1, "kind": kind.value, "value": value, "reason": "unspecified"}
    assert ca.events("revoked") == [told]


def _deny_elsewhere(ca, clock, kind, value) -> None:
    """Deny something as another replica does: nobody here has read it yet."""
    revocation = Revocation(kind=DeniedKind(kind), value=value, revoked_at=clock())
    with ca.store.write() as connection:
        insert_revocation(connection, revocation)


@pytest.mark.parametrize("kind", ["serial", "spki_sha256", "spiffe_id"])
def test_an_svid_denied_after_it_was_shown_renews_nothing(ca, attest_svid, clock, kind):
    """A denial that came between proof and record, at another replica, counts for the renewal."""
    ca.add()
    first = ca.issuance.sign(request_of(), CART_CALLER)
    [row] = ca.rows()
    caller = attest_svid(_chain(first))
    _deny_elsewhere(ca, clock, kind, getattr(row, kind))
    with pytest.raises(IssueRefusedError) as caught:
        ca.issuance.sign(request_of(), caller)
    assert caught.value.reason is Refusal.CALLER_REVOKED
    assert len(ca.rows()) == 1


def test_an_svid_of_a_workload_denied_elsewhere_is_not_recorded(ca, authority, clock):
    """What the configuration gives is held against the registry as of its row, too."""
    spiffe_id = SpiffeId.parse(CART)
    request = SvidRequest(spiffe_id=spiffe_id, lifetime=timedelta(hours=1))
    caller = Caller(method=Method.SOCKET, granted=spiffe_id)
    ca.issuance.record_svid(issue_x509_svid(request, authority, now=clock()), caller)
    # Something else changes: it is checked once more, and goes on record.
    _deny_elsewhere(ca, clock, "spiffe_id", "spiffe://example.org/other")
    ca.issuance.record_svid(issue_x509_svid(request, authority, now=clock()), caller)
    _deny_elsewhere(ca, clock, "spiffe_id", CART)
    with pytest.raises(IssueRefusedError, match="is denied"):
        ca.issuance.record_svid(issue_x509_svid(request, authority, now=clock()), caller)
    assert len(ca.rows()) == 2


def test_a_token_denied_while_its_sibling_is_recorded(ca, authority, clock):
    """Of a caller's tokens each is recorded as of the registry that the caller was judged by."""
    token = TokenRecord(
        token_id="t",
        spiffe_id=SpiffeId.parse(CART),
        audiences=("a",),
        key=authority.intermediate.public_key(),
        token_sha256="0" * 64,
        issued_at=clock(),
        expires_at=clock() + timedelta(minutes=5),
    )
    revision = ca.registry.state.revision
    _deny_elsewhere(ca, clock, "spiffe_id", CART)
    ca.registry.refresh()
    with pytest.raises(StaleRegistryError):
        ca.issuance.record_token(token, CART_CALLER, "e", revision=revision).result()
    assert ca.rows() == ()


def test_an_svid_that_is_not_on_record_renews_nothing(ca, attest_svid, authority, clock):
    """A leaf that our key signed and our ledger does not know is no proof; nor an expired one."""
    ca.add()
    request = SvidRequest(spiffe_id=SpiffeId.parse(CART), lifetime=timedelta(hours=1))
    stray = issue_x509_svid(request, authority, now=clock())
    assert _reason(attest_svid, _chain(stray)) is Refusal.SVID_UNKNOWN
    ours = ca.issuance.sign(request_of(CART), CART_CALLER)
    assert _reason(attest_svid, PeerChain([])) is Refusal.SVID_INVALID
    clock.now += timedelta(hours=2)
    assert _reason(attest_svid, _chain(ours)) is Refusal.SVID_INVALID


def test_attestation_that_fails_is_on_record(ca):
    """A transport records who was turned away, and why."""
    error = AttestationError("the token was used before", reason=Refusal.TOKEN_USED)
    ca.issuance.refuse(error, Method.JOIN_TOKEN, {"address": "192.0.2.7"}).result()
    [recorded] = ca.events("svid_refused")
    assert recorded["reason"] == "token_used"
    assert recorded["evidence"] == {"address": "192.0.2.7"}


def test_an_entry_must_make_sense(desk, ca):
    """An entry without selectors would fit everyone; neither that nor a strange ID is taken."""
    now = ca.issuance._parts.clock()
    good = {"entry_id": "a", "spiffe_id": CART, "selectors": frozenset({"unix:uid:1"})}
    for change in (
        {"selectors": frozenset()},
        {"selectors": frozenset({"uid=1"})},
        {"spiffe_id": "spiffe://other.org/a"},
        {"spiffe_id": "spiffe://example.org"},
        {"spiffe_id": "spiffe://example.org/{name}"},
        {"entry_id": "a b"},
        {"dns_names": ("*.shop",)},
        {"lifetime": timedelta(0)},
        {"hint": "x" * 1025},
    ):
        with pytest.raises(IssueRefusedError):
            desk.add_entry(RegistrationEntry(created_at=now, **good | change))
    assert desk.entries() == ()
    entry = RegistrationEntry(created_at=now, **good)
    desk.add_entry(entry)
    assert desk.entries() == (entry,)
    with pytest.raises(IssueRefusedError, match="already"):
        desk.add_entry(entry)
    with pytest.raises(IssueRefusedError, match="no entry"):
        desk.remove_entry("b")
