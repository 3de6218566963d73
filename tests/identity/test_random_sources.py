"""What keys, answers and tokens are remembered by, in random worlds, beside those who forget.

Each world has issuers that rotate, break, empty and lie about their keys, an issuer of opaque
tokens that revokes, rules that come and go, and clocks that jump. After each event every token
is judged by what remembers (key cache, token memory, answers) and by what is true now: a token
that is believed must hold for a set that the issuer did publish, and that is not too old.
MESHWARDEN_RANDOM_WORLDS is how many worlds there are, MESHWARDEN_RANDOM_FIRST the first.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import threading
from collections.abc import Callable, Mapping
from typing import Any

import jwt
import pytest

from identity.document_fetch import Document
from identity.errors import KeySourceError, KeySourceUnreachableError
from identity.introspection import IntrospectionProvider, Introspector
from identity.jwks import JwkSet, parse_jwk_set
from identity.jwks_cache import JwksCache, RefreshTimes
from identity.jwt_rule import JwtRule
from identity.jwt_verify import Verdict, VerifiedToken, verify_token
from identity.token_memory import TokenMemory
from identity.token_verifier import TokenVerifier

WORLDS = int(os.environ.get("MESHWARDEN_RANDOM_WORLDS", "6"))
FIRST = int(os.environ.get("MESHWARDEN_RANDOM_FIRST", "0"))
STEPS = 60
BEGIN = 1_800_000_000
MAX_AGE, CACHED = 500.0, 60.0
ISSUERS = ("https://a.example", "https://b.example")
OPAQUE = "https://opaque.example"
FAULTS = (b"", b"{", b'{"keys": 5}', b'{"keys":[],"keys":[]}', b"[]", b"\xff", b"<html>")
KEYS = ("p256", "p384", "ed25519")


class World:
    """What is published, and the clocks: `now` judges tokens, `clock` is monotonic."""

    def __init__(self, ring: Any, chance: random.Random) -> None:
        self.ring, self.chance = ring, chance
        self.now, self.clock = float(BEGIN), 1000.0
        self.published: dict[str, bytes | None] = {each: self.key_set("p256") for each in ISSUERS}
        self.active: set[str] = {"opaque~1", "opaque~2"}
        self.is_reachable = True

    def key_set(self, *names: str) -> bytes:
        """Return the document of these keys."""
        return self.ring.public(*names).encode() if names else b'{"keys":[]}'

    def fetch(self, url: str, *, timeout_seconds: float) -> Document:
        """Answer as the issuer does now."""
        body = self.published[url.removesuffix("/keys")]
        if body is None:
            raise KeySourceUnreachableError("nothing listens")
        return Document(body=body, max_age_seconds=self.chance.choice((None, 0.0, 1.0, 1e9)))

    def post(self, _url: str, *, body: bytes, **_fields: Any) -> Document:
        """Answer for an opaque token."""
        if not self.is_reachable:
            raise KeySourceUnreachableError("nothing listens")
        is_active = any(each.replace("~", "%7E").encode() in body or each.encode() in body
                        for each in self.active)  # fmt: skip
        claims = {"sub": "ann", "aud": "shop", "exp": BEGIN + 2000} if is_active else {}
        return Document(body=json.dumps({"active": is_active, **claims}).encode())


class Published:
    """Every set that an issuer's place held, and when it last did, by the monotonic clock."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[str, tuple[JwkSet, float]]] = {each: {} for each in ISSUERS}

    def note(self, world: World) -> None:
        """Take down what is published now."""
        for issuer, body in world.published.items():
            try:
                keys = parse_jwk_set(body or b"", is_inline=False)
            except KeySourceError:
                continue
            digest = hashlib.sha256(body or b"").hexdigest()
            self._seen[issuer][digest] = keys, world.clock

    def may_hold(self, issuer: str, text: str, rule: JwtRule, world: World) -> bool:
        """Whether a set that was published, not too long ago, verifies a token now."""
        return any(
            isinstance(verify_token(text, rule, lambda keys=keys: keys, world.now), VerifiedToken)
            for keys, at in self._seen[issuer].values()
            if world.clock - at <= MAX_AGE
        )


def tokens(ring: Any) -> dict[str, str]:
    """Return a token of each key for each issuer and some times."""
    return {
        f"{issuer} {key} {name}": ring.mint(
            key, {"p256": "ES256", "p384": "ES384", "ed25519": "EdDSA"}[key], iss=issuer, **times
        )
        for issuer in ISSUERS
        for key in KEYS
        for name, times in {
            "long": {"exp": BEGIN + 10**6},
            "short": {"exp": BEGIN + 90},
            "later": {"exp": BEGIN + 10**6, "nbf": BEGIN + 150},
            "endless": {"exp": None},
        }.items()
    }


EVENTS: Mapping[str, Callable[[World, random.Random], None]] = {
    "keys": lambda world, chance: world.published.__setitem__(
        chance.choice(ISSUERS), world.key_set(*chance.sample(KEYS, chance.randrange(4)))
    ),
    "fault": lambda world, chance: world.published.__setitem__(
        chance.choice(ISSUERS), chance.choice((None, *FAULTS))
    ),
    "time": lambda world, chance: _move(world, chance.choice((0.5, 1, 29, 61, 400, 501))),
    "jump": lambda world, chance: setattr(
        world, "now", world.now + chance.choice((-(10**6), -4000, -61, -1, 61, 4000, 10**5))
    ),
    "right": lambda world, chance: setattr(world, "now", BEGIN + world.clock - 1000),
    "revoke": lambda world, chance: world.active.discard(chance.choice(("opaque~1", "opaque~2"))),
    "grant": lambda world, chance: world.active.add(chance.choice(("opaque~1", "opaque~2"))),
    "unplug": lambda world, chance: setattr(world, "is_reachable", chance.random() < 0.7),
}


def _move(world: World, seconds: float) -> None:
    world.clock += seconds
    world.now += seconds


@pytest.mark.parametrize("number", range(FIRST, FIRST + WORLDS))
def test_what_is_remembered_is_what_was_published(ring: Any, number: int) -> None:
    """Nothing is believed that no set published lately verifies, nor any answer too old."""
    chance = random.Random(number)
    world, published, minted = World(ring, chance), Published(), tokens(ring)
    rules = [JwtRule(issuer=each, jwks_uri=f"{each}/keys", audiences=("shop",)) for each in ISSUERS]
    fetched = threading.Condition()

    def fetch(url: str, *, timeout_seconds: float) -> Document:
        with fetched:
            fetched.notify_all()
            return world.fetch(url, timeout_seconds=timeout_seconds)

    times = RefreshTimes(
        refresh_seconds=0.002, first_retry_seconds=0.001, last_retry_seconds=0.002,
        early_floor_seconds=0.001, max_age_seconds=MAX_AGE, wait_seconds=0.0,
    )  # fmt: skip
    cache = JwksCache(clock=lambda: world.clock, fetch=fetch, times=times)
    provider = IntrospectionProvider(
        issuer=OPAQUE, endpoint="https://o.example/", client_id="c", client_secret="s",
        timeout_seconds=5.0, cache_seconds=CACHED,
    )  # fmt: skip
    introspector = Introspector([provider], world.post, clock=lambda: world.clock)
    asking = TokenVerifier(verify_jwt=TokenMemory().verify, ask_issuer=introspector.verify)
    published.note(world)
    cache.prepare(rules)
    last_active: dict[str, float] = {}
    believed = 0
    try:
        for _ in range(STEPS):
            with fetched:
                EVENTS[chance.choice(tuple(EVENTS))](world, chance)
                published.note(world)
            for name in world.active:
                last_active[name] = world.clock
            for text in chance.sample(sorted(minted.values()), 6):
                rule = chance.choice(rules)
                for _ in range(2):
                    with fetched:
                        keys = cache.keys_for(rule)
                        warm = asking.verify(text, rule, lambda keys=keys: keys, world.now)
                        cold = verify_token(text, rule, lambda keys=keys: keys, world.now)
                        assert _shown(warm) == _shown(cold)
                        if isinstance(warm, VerifiedToken):
                            believed += 1
                            assert published.may_hold(rule.issuer, text, rule, world)
            for name in ("opaque~1", "opaque~2", "opaque~3"):
                rule = JwtRule(issuer=OPAQUE, audiences=("shop",))
                verdict = asking.verify(name, rule, lambda: None, world.now)
                if isinstance(verdict, VerifiedToken):
                    believed += 1
                    assert world.clock - last_active.get(name, -1e9) <= CACHED, "revoked long ago"
                    assert world.now <= BEGIN + 2000 + 60
    finally:
        cache.close()
        introspector.close()
    assert believed, "a world in which nothing is believed proves nothing"


def _shown(verdict: Verdict) -> tuple[Any, ...]:
    if isinstance(verdict, VerifiedToken):
        return verdict.payload, verdict.payload_text, verdict.claims
    return verdict.status, verdict.public_text, verdict.detail


def test_the_tokens_are_good(ring: Any) -> None:
    """Each holds for its own key at some time: what is compared above is not all refusals."""
    for name, text in tokens(ring).items():
        issuer, key, kind = name.split(" ")
        keys = parse_jwk_set(ring.public(key), is_inline=False)
        rule = JwtRule(issuer=issuer, audiences=("shop",))
        at = BEGIN + (200 if kind == "later" else 0)
        assert isinstance(verify_token(text, rule, lambda keys=keys: keys, at), VerifiedToken)
        assert jwt.get_unverified_header(text)["kid"] == key
