"""What a walk rests on is noted in full, and is no ground where it may change without a sign."""

from __future__ import annotations

from collections.abc import Callable

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
from identity.token_status import TokenStatus
from identity.trust_bundle import BundleSet

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


def test_what_was_never_asked_is_no_ground() -> None:
    """Without bundles and deny list nothing was decided about a peer."""
    assert GroundsWatch(Surroundings(keys=NoKeys())).grounds() is None
