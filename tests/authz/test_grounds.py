"""What a walk rests on is noted in full, and is no ground where it may change without a sign."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from checking import NoKeys

from authz.grounds import GroundsWatch
from authz.walk import Surroundings
from identity.deny_list import DenyList
from identity.jose import RegisteredClaims
from identity.jwks import JwkSet
from identity.jwt_rule import JwtRule
from identity.jwt_verify import TokenRefusal, Verdict, VerifiedToken
from identity.peer_finding import PeerRules
from identity.spiffe_id import SpiffeId
from identity.svid_fault import SvidFault, SvidRefusal
from identity.svid_memory import SvidMemory
from identity.token_status import TokenStatus
from identity.trust_bundle import BundleSet
from identity.x509_svid import X509Svid

_KEYS = JwkSet(keys=(), revision="r")
_CLAIMS = RegisteredClaims(issuer="i", audiences=(), not_before=0, expires_at=0)
_VERIFIED = VerifiedToken({}, "", _CLAIMS)
_RULE = JwtRule(issuer="i")


def _walked(verdict: Verdict, *, asks_keys: bool) -> GroundsWatch:
    """Return a watch over a walk that judged one token."""

    def verify(text: str, rule: JwtRule, keys: Callable[[], JwkSet | None], now: float) -> Verdict:
        if asks_keys:
            keys()
        return verdict

    watch = GroundsWatch(Surroundings(keys=NoKeys(), verify_token=verify))
    watch.around.now()
    watch.around.bundles()
    watch.around.peer_rules.denied()
    assert watch.around.verify_token("t", _RULE, lambda: _KEYS, 0.0) is verdict
    return watch


@pytest.mark.parametrize("asks_keys", [True, False])
@pytest.mark.parametrize("status", [None, *(each for each in TokenStatus if each != "ok")], ids=str)
def test_which_verdicts_are_grounds(status: TokenStatus | None, asks_keys: bool) -> None:
    """A token that a key verified, or of another issuer, is one; what else was refused may heal."""
    verdict = _VERIFIED if status is None else TokenRefusal(status, "", "")
    grounds = _walked(verdict, asks_keys=asks_keys).grounds()
    is_lasting = asks_keys and status in (None, TokenStatus.UNKNOWN_ISSUER)
    assert (grounds is not None) is is_lasting
    if grounds is not None:
        assert grounds.keys == ((_RULE, _KEYS),)
        assert grounds.tokens == ((_CLAIMS,) if status is None else ())


def test_what_changed_within_the_walk_is_no_ground() -> None:
    """A walk that saw two deny lists, or two sets of bundles, rests on neither."""
    changing = Surroundings(keys=NoKeys(), bundles=BundleSet, peer_rules=PeerRules(denied=DenyList))
    for ask in ("bundles", "denied"):
        watch = GroundsWatch(changing)
        around = watch.around
        around.now()
        for _ in range(2 if ask == "bundles" else 1):
            around.bundles()
        for _ in range(2 if ask == "denied" else 1):
            around.peer_rules.denied()
        assert watch.grounds() is None


_AT = datetime(2026, 1, 1, tzinfo=UTC)
_REFUSED = SvidRefusal(SvidFault.EXPIRED, "it has ended")


def _svid(begin: int, end: int) -> X509Svid:
    """Return a certificate that holds from and until so many seconds from a moment."""
    from_at, until_at = (_AT + timedelta(seconds=each) for each in (begin, end))
    name = SpiffeId.parse("spiffe://td/ns/shop/sa/web")
    return X509Svid(
        spiffe_id=name, dns_names=(), valid_from_at=from_at, valid_until_at=until_at, path=()
    )


class _Judged(SvidMemory):
    """Says of each certificate what is prepared for it."""

    def __init__(self, *verdicts: X509Svid | SvidRefusal) -> None:
        super().__init__()
        self._verdicts = iter(verdicts)

    def verify(
        self, chain: tuple[bytes, ...], bundles: BundleSet, at: datetime
    ) -> X509Svid | SvidRefusal:
        """Return the next verdict."""
        return next(self._verdicts)


def _shown(*verdicts: X509Svid | SvidRefusal) -> GroundsWatch:
    """Return a watch over a walk at a moment that was shown certificates."""
    given = Surroundings(keys=NoKeys(), svids=_Judged(*verdicts), now=_AT.timestamp)
    watch = GroundsWatch(given)
    around = watch.around
    around.now()
    bundles = around.bundles()
    around.peer_rules.denied()
    for verdict in verdicts:
        assert around.svids.verify((b"leaf",), bundles, _AT) is verdict
    return watch


@pytest.mark.parametrize(
    ("verdicts", "lasts"),
    [
        ((), True),
        ((_svid(-1, 1),), True),
        ((_svid(-1, 1), _svid(-2, 2)), True),
        ((_REFUSED,), False),
        ((_svid(-1, 1), _REFUSED), False),
        ((_REFUSED, _svid(-1, 1)), False),
    ],
    ids=["none", "one", "two", "refused", "then refused", "first refused"],
)
def test_which_certificates_are_grounds(
    verdicts: tuple[X509Svid | SvidRefusal, ...], lasts: bool
) -> None:
    """Every one that was verified; one that was refused may heal, whatever else was shown."""
    grounds = _shown(*verdicts).grounds()
    assert (grounds is not None) is lasts
    if grounds is not None:
        assert grounds.svids == verdicts


@pytest.mark.parametrize(
    ("after", "holds"),
    [(-1, False), (0, True), (4, True), (5, True), (6, False), (59, False), (60, False)],
)
def test_grounds_end_with_the_first_certificate(after: int, holds: bool) -> None:
    """Each has to hold still, its first and its last moment included."""
    for svids in (
        (_svid(0, 5), _svid(-9, 90)),
        (_svid(-9, 90), _svid(-9, 5), _svid(0, 90)),
    ):
        grounds = _shown(*svids).grounds()
        assert grounds is not None
        given = Surroundings(keys=NoKeys(), now=lambda: _AT.timestamp() + after)
        # It began to hold at that moment: what was decided before does not count before either.
        assert replace(grounds, decided_at=grounds.decided_at - 9).hold(given) is holds


def test_a_clock_that_goes_back_within_the_walk() -> None:
    """The latest that a walk was told counts, so that nothing is younger than it is."""
    clock = iter([5.0, 9.0, 7.0])
    watch = GroundsWatch(Surroundings(keys=NoKeys(), now=lambda: next(clock)))
    for _ in range(3):
        watch.around.now()
    watch.around.bundles()
    watch.around.peer_rules.denied()
    grounds = watch.grounds()
    assert grounds is not None
    assert grounds.decided_at == 9.0
    for now, holds in ((8.9, False), (9.0, True), (68.9, True), (69.0, False)):
        assert grounds.hold(Surroundings(keys=NoKeys(), now=lambda now=now: now)) is holds


def test_what_was_never_asked_is_no_ground() -> None:
    """Without bundles and deny list nothing was decided about a peer."""
    assert GroundsWatch(Surroundings(keys=NoKeys())).grounds() is None
