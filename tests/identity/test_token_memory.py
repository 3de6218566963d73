"""Verified tokens are known again, and only while everything they were verified by still holds."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from identity import jwt_verify
from identity.jose import RegisteredClaims
from identity.jwks import JwkSet, parse_jwk_set
from identity.jwt_rule import JwtRule
from identity.jwt_verify import TokenRefusal, Verdict, VerifiedToken, verify_token
from identity.token_memory import TokenMemory
from identity.token_status import TokenStatus


class Counted:
    """Verifies, and counts how often it is asked to."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, text: str, rule: JwtRule, keys: Any, now: float) -> Verdict:
        """Verify once."""
        self.calls += 1
        return verify_token(text, rule, keys, now)


class Desk:
    """A memory beside the keys, the clock and the count of the test."""

    def __init__(self, ring: Any, **bounds: Any) -> None:
        self.verifier = Counted()
        self.memory = TokenMemory(verify=self.verifier, **bounds)
        self.keys: JwkSet | None = parse_jwk_set(ring.inline(), is_inline=True)
        self.rule = JwtRule(issuer=ring.issuer)
        self.now = float(ring.now)

    def status(self, text: str, rule: JwtRule | None = None) -> TokenStatus:
        """Judge a token and return its status."""
        verdict = self.memory.verify(text, rule or self.rule, lambda: self.keys, self.now)
        return TokenStatus.OK if isinstance(verdict, VerifiedToken) else verdict.status


@pytest.fixture
def desk(ring: Any) -> Desk:
    """A memory of the usual size."""
    return Desk(ring)


def test_known_again(ring: Any, desk: Desk) -> None:
    """The same bytes are verified once, and the verdict is the same object's worth."""
    text = ring.mint()
    first = desk.memory.verify(text, desk.rule, lambda: desk.keys, desk.now)
    assert [desk.status(text) for _ in range(5)] == [TokenStatus.OK] * 5
    assert desk.verifier.calls == 1
    assert desk.memory.verify(text, desk.rule, lambda: desk.keys, desk.now) == first


def test_other_bytes_are_strangers(ring: Any, desk: Desk) -> None:
    """A changed signature, payload or header is verified for itself, and refused."""
    text = ring.mint()
    assert desk.status(text) is TokenStatus.OK
    head, payload, signature = text.split(".")
    other = "B" if signature[0] != "B" else "C"
    forged = ring.mint(sub="root").split(".")[1]
    for changed in (
        f"{head}.{payload}.{other}{signature[1:]}",
        f"{head}.{forged}.{signature}",
        f"{head}.{payload}.",
        f"{text}.",
        f"{text}=",
        text.swapcase(),
    ):
        assert desk.status(changed) is not TokenStatus.OK
    assert len(desk.memory) == 1


def test_times_count_at_every_use(ring: Any, desk: Desk) -> None:
    """A remembered token expires at its time with leeway, as a new one does."""
    text = ring.mint(exp=ring.now + 100, nbf=ring.now - 10)
    assert desk.status(text) is TokenStatus.OK
    desk.now = ring.now + 160.9
    assert desk.status(text) is TokenStatus.OK
    desk.now = ring.now + 161.0
    assert desk.status(text) is TokenStatus.EXPIRED
    assert len(desk.memory) == 0
    desk.now = ring.now - 71.0
    assert desk.status(text) is TokenStatus.NOT_YET_VALID


def test_clock_leaps(ring: Any, desk: Desk) -> None:
    """A clock set back verifies anew, and one set forward past the age does as well."""
    text = ring.mint(exp=None)
    assert desk.status(text) is TokenStatus.OK
    desk.now -= 1
    assert desk.status(text) is TokenStatus.OK
    assert desk.verifier.calls == 2
    desk.now += 3601
    assert desk.status(text) is TokenStatus.OK
    assert desk.verifier.calls == 3


def test_rotation_forgets(ring: Any, desk: Desk) -> None:
    """A set without the key, an empty one and none refuse what was verified before."""
    text = ring.mint()
    assert desk.status(text) is TokenStatus.OK
    desk.keys = parse_jwk_set(ring.public("p256"), is_inline=False)
    assert desk.status(text) is TokenStatus.KEY_MISMATCH
    desk.keys = parse_jwk_set('{"keys":[]}', is_inline=False)
    assert desk.status(text) is TokenStatus.NO_KEYS
    desk.keys = None
    assert desk.status(text) is TokenStatus.NO_KEYS


def test_same_kid_other_key(ring: Any, desk: Desk) -> None:
    """A set that holds another key under the same `kid` is another set."""
    text = ring.mint()
    assert desk.status(text) is TokenStatus.OK
    stranger = ring.public_key("stranger") | {"kid": "rsa"}
    desk.keys = parse_jwk_set(f'{{"keys":[{json.dumps(stranger)}]}}', is_inline=False)
    assert desk.status(text) is TokenStatus.BAD_SIGNATURE


def test_equal_set_fetched_anew_is_known(ring: Any, desk: Desk) -> None:
    """The same keys fetched again are the same revision, so nothing is verified anew."""
    text = ring.mint()
    desk.status(text)
    desk.keys = parse_jwk_set(ring.inline(), is_inline=True)
    assert desk.status(text) is TokenStatus.OK
    assert desk.verifier.calls == 1


def test_changed_keys_keep_one_of_a_token(ring: Any, desk: Desk) -> None:
    """Under keys that change and change back a token is verified each time, and kept once."""
    text = ring.mint()
    more = json.loads(ring.inline())
    more["keys"] += json.loads(ring.public("stranger"))["keys"]
    sets = desk.keys, parse_jwk_set(json.dumps(more), is_inline=True)
    for turn in range(6):
        desk.keys = sets[turn % 2]
        assert [desk.status(text) for _ in range(3)] == [TokenStatus.OK] * 3
        assert (desk.verifier.calls, len(desk.memory)) == (turn + 1, 1)


def test_keys_of_another_source_do_not_share(ring: Any, desk: Desk) -> None:
    """Rules that differ in nothing but where their keys come from know a token each for itself."""
    text = ring.mint()
    rules = [
        desk.rule,
        replace(desk.rule, jwks_uri="https://issuer.example/keys"),
        replace(desk.rule, jwks=ring.inline()),
    ]
    for _ in range(3):
        assert [desk.status(text, rule) for rule in rules] == [TokenStatus.OK] * 3
    assert (desk.verifier.calls, len(desk.memory)) == (3, 3)


def test_rules_do_not_share(ring: Any, desk: Desk) -> None:
    """A token verified under one rule is judged for itself under another."""
    text = ring.mint()
    assert desk.status(text) is TokenStatus.OK
    assert desk.status(text, JwtRule(issuer="https://other")) is TokenStatus.UNKNOWN_ISSUER
    assert (
        desk.status(text, JwtRule(issuer=ring.issuer, audiences=("x",)))
        is TokenStatus.AUDIENCE_NOT_ALLOWED
    )
    assert desk.status(text, JwtRule(issuer="")) is TokenStatus.OK
    assert desk.verifier.calls == 4


def test_refusals_are_not_kept(ring: Any, desk: Desk) -> None:
    """A flood of bad tokens takes no memory."""
    for number in range(50):
        assert desk.status(f"{number}.b.c") is TokenStatus.BAD_FORMAT
        assert desk.status(ring.mint("stranger", sub=str(number))) is not TokenStatus.OK
    assert len(desk.memory) == 0


def test_bounds(ring: Any) -> None:
    """Number and bytes are bounded; what was used longest ago goes first."""
    tokens = [ring.mint("ed25519", "EdDSA", sub=str(number)) for number in range(6)]
    few = Desk(ring, max_tokens=3)
    for text in (*tokens[:3], tokens[0], tokens[3]):
        few.status(text)
    assert (len(few.memory), few.verifier.calls) == (3, 4)
    few.status(tokens[0])
    assert few.verifier.calls == 4
    few.status(tokens[1])
    assert few.verifier.calls == 5
    short = Desk(ring, max_bytes=len(tokens[0]) * 2)
    for text in tokens:
        short.status(text)
    assert len(short.memory) <= 2
    none = Desk(ring, max_tokens=0)
    assert [none.status(tokens[0]) for _ in range(3)] == [TokenStatus.OK] * 3
    assert (len(none.memory), none.verifier.calls) == (0, 3)


def test_what_has_ended_is_forgotten_unasked(ring: Any) -> None:
    """Tokens that nobody asks for again leave, at their end or at the greatest age; no others."""
    desk = Desk(ring, max_age_seconds=600.0)
    for number, seconds in enumerate((30, 90, 30, 5000, None, 90)):
        ends = None if seconds is None else ring.now + seconds
        desk.status(ring.mint("ed25519", "EdDSA", sub=str(number), exp=ends))
    left = []
    for desk.now in (ring.now + 91.0, ring.now + 92.0, ring.now + 152.0, ring.now + 601.0):
        desk.status(ring.mint("ed25519", "EdDSA", sub=f"at {desk.now}", exp=ring.now + 9000))
        left.append(len(desk.memory))

    assert [7, 6, 5, 4] == left


Ends = Callable[[float, str], int]
"""When a token ends, by the time it is verified at and its text."""
KEYS = JwkSet(keys=(), revision="r")
RULE = JwtRule(issuer="i")


def believing(ends: Ends, **bounds: Any) -> TokenMemory:
    """Return a memory that believes every text."""

    def verified(text: str, _rule: JwtRule, _keys: Any, now: float) -> Verdict:
        registered = RegisteredClaims(
            issuer="i", audiences=(), not_before=0, expires_at=ends(now, text)
        )
        return VerifiedToken(payload={}, payload_text="", claims=registered)

    return TokenMemory(verify=verified, **bounds)


def judge(memory: TokenMemory, text: str, now: float) -> None:
    """Have a memory judge a text, and hold that what it keeps is within its bounds."""
    memory.verify(text, RULE, lambda: KEYS, now)
    kept = [found.place for found in memory._tokens.values()]
    places = set(map(id, memory._round))
    assert len(places) == len(memory._round)
    assert places.issuperset(map(id, kept))
    assert memory._bytes == sum(found.length for found in memory._tokens.values())


def test_a_life_of_short_tokens_fills_nothing() -> None:
    """However many come and go, the memory holds those that still count, and few more."""
    memory = believing(lambda now, text: int(now) + int(text) % 7)
    for number in range(3000):
        judge(memory, str(number), float(number))
        assert len(memory) < 100
        assert len(memory._round) < 120


FLOODS: dict[str, Ends] = {
    "far ends": lambda now, text: 10**12,
    "no ends": lambda now, text: 0,
    "equal ends": lambda now, text: 2000,
    "each later": lambda now, text: int(now) + int(text),
    "each sooner": lambda now, text: 10**6 - int(text),
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_stays_within_the_bounds(name: str) -> None:
    """New tokens without number, whenever they end: those used last are kept."""
    memory = believing(FLOODS[name], max_tokens=50)
    for number in range(1000):
        judge(memory, str(number), 1000.0 + number / 1000)
        assert len(memory) == min(number + 1, 50)
        assert len(memory._round) <= 70
    assert [found.length for found in memory._tokens.values()] == [3] * 50


def test_a_token_that_is_verified_anew_has_one_place() -> None:
    """A clock that is set back at each use has a few tokens verified over and over."""
    memory = believing(lambda now, text: 10**9)
    for turn in range(2000):
        judge(memory, str(turn % 3), 10_000.0 - turn)
    assert len(memory) == 3
    assert len(memory._round) <= 10


def test_thousands_that_end_together_are_forgotten_a_few_at_a_time() -> None:
    """No check pays for all of them; a clock that leaps on and back forgets no more than that."""
    memory = believing(lambda now, text: 10**9 if text.startswith("n") else 2000)
    for number in range(2000):
        memory.verify(str(number), RULE, lambda: KEYS, 1000.0)
    before = len(memory)
    for number in range(100):
        judge(memory, f"n{number}", 3000.0)
        assert 0 < before - len(memory) < 8
        before = len(memory)
    judge(memory, "n back", 1000.0)
    assert len(memory) == before + 1
    for number in range(200):
        judge(memory, f"n again {number}", 3000.0)
    assert len(memory) == 301


@settings(max_examples=40)
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 9), st.integers(-5000, 5000), st.integers(0, 4000)), max_size=60
    ),
    most=st.integers(0, 6),
    room=st.integers(0, 40),
)
def test_any_clock_and_any_ends_keep_the_books(
    steps: list[tuple[int, int, int]], most: int, room: int
) -> None:
    """Whatever comes, each token has one place, its bytes are counted once, the bounds hold."""
    ends = 0
    memory = believing(lambda now, text: ends, max_tokens=most, max_bytes=room)
    now = 10_000.0
    for text, leap, life in steps:
        now += leap
        ends = int(now) + life if life else 0
        judge(memory, "t" * text, now)
        assert len(memory) <= most
        assert memory._bytes <= room
        assert len(memory._round) <= 8 * (most + 1)


def test_two_that_verify_the_same_token_at_once_keep_it_once() -> None:
    """Who comes second with a verdict that is kept already replaces it, and counts it once."""
    memory = believing(lambda now, text: 10**9)
    verified, others = memory._verify, iter([1])

    def overtaken(text: str, rule: JwtRule, keys: Any, now: float) -> Verdict:
        for _ in others:
            judge(memory, text, now)
        return verified(text, rule, keys, now)

    memory._verify = overtaken
    judge(memory, "four", 1000.0)

    assert (len(memory), memory._bytes) == (1, 4)
    assert [False, True] == sorted(place.has_left for place in memory._round)


def test_sixteen_threads_keep_the_books() -> None:
    """Under threads that end, replace and flood, nothing is counted twice or kept too long."""
    memory = believing(lambda now, text: int(now) + int(text) % 5, max_tokens=40)
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for step in range(400):
                text = str((seed * 31 + step * 7) % 97)
                memory.verify(text, RULE, lambda: KEYS, 1000.0 + (step * (seed % 3 - 1)) % 130)
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    judge(memory, "1", 1000.0)
    assert len(memory) <= 40
    assert len(memory._round) <= 60


def test_set_without_revision_is_not_remembered(ring: Any, desk: Desk) -> None:
    """Keys that no document was read for have no revision, so nothing is bound to them."""
    assert desk.keys is not None
    desk.keys = JwkSet(desk.keys.keys)
    text = ring.mint()
    assert [desk.status(text) for _ in range(2)] == [TokenStatus.OK] * 2
    assert (len(desk.memory), desk.verifier.calls) == (0, 2)


def test_many_threads(ring: Any) -> None:
    """Under threads the bounds hold and every verdict is right."""
    desk = Desk(ring, max_tokens=5)
    good = [ring.mint("ed25519", "EdDSA", sub=str(number)) for number in range(12)]
    bad = [text[:-6] + "AAAAAA" for text in good]
    wrong: list[str] = []

    def work(start: int) -> None:
        for step in range(60):
            place = (start + step) % len(good)
            if desk.status(good[place]) is not TokenStatus.OK:
                wrong.append("good")
            if desk.status(bad[place]) is not TokenStatus.BAD_SIGNATURE:
                wrong.append("bad")

    threads = [threading.Thread(target=work, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(desk.memory) <= 5


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(steps=st.lists(st.tuples(st.integers(0, 3), st.integers(-4000, 4000), st.integers(0, 2))))
def test_memory_never_differs(ring: Any, steps: list[tuple[int, int, int]]) -> None:
    """Whatever the order of tokens, clock leaps and key sets, memory changes no verdict."""
    tokens = [
        ring.mint("ed25519", "EdDSA", exp=ring.now + 100),
        ring.mint("ed25519", "EdDSA", exp=None, nbf=ring.now + 200),
        ring.mint("p256", "ES256", iss="x"),
        "a.b.c",
    ]
    sets = [
        parse_jwk_set(ring.public("ed25519"), is_inline=False),
        parse_jwk_set(ring.public("p256"), is_inline=False),
        None,
    ]
    rule, memory = JwtRule(issuer=ring.issuer), TokenMemory(max_tokens=2)
    for token, leap, chosen in steps:
        keys, now = sets[chosen], float(ring.now + leap)
        mine = memory.verify(tokens[token], rule, lambda keys=keys: keys, now)
        assert mine == verify_token(tokens[token], rule, lambda keys=keys: keys, now)


def test_refusal_is_a_value(ring: Any, desk: Desk) -> None:
    """What is refused is a `TokenRefusal`, as without memory, and names no token text."""
    verdict = desk.memory.verify("secret.secret.secret", desk.rule, lambda: desk.keys, desk.now)
    assert isinstance(verdict, TokenRefusal)
    assert "secret" not in repr(verdict)
    assert jwt_verify.CLOCK_SKEW_SECONDS == 60


def test_all_that_a_verdict_asks_of_a_rule_is_in_the_key(ring: Any, desk: Desk) -> None:
    """Judging reads issuer and audiences of a rule and nothing else: these two the memory keeps."""
    asked: set[str] = set()

    class Spy:
        """A rule that notes what is asked of it."""

        def __getattr__(self, name: str) -> object:
            asked.add(name)
            return getattr(JwtRule(issuer=ring.issuer, audiences=("shop",)), name)

    for text in (ring.mint(), ring.mint(aud="x"), ring.mint("stranger"), "a.b.c"):
        verify_token(text, Spy(), lambda: desk.keys, desk.now)  # type: ignore[arg-type]
    assert asked == {"issuer", "audiences"}
