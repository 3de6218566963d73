"""A real issuer that is down, slow or lying: decisions stay right, and nobody waits for it.

Each case starts with good keys, lets the server misbehave, and asks on. The figures
go to the summary of the run (`-s`) and into the properties of the test report: how
long the slowest request took, and how long the cache kept good keys.
"""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from loopback_issuer import FETCHER, PATIENCE, Issuer, eventually

from identity.document_fetch import MAX_DOCUMENT_BYTES
from identity.jwks_cache import JwksCache, RefreshTimes
from identity.jwt_rule import JwtRule
from identity.request_authentication import authenticate_request
from identity.token_memory import TokenMemory
from identity.token_status import TokenStatus

WAIT_SECONDS = 0.05
FETCH_SECONDS = 0.25
MAX_AGE_SECONDS = 1000.0
# Generous: a request may wait WAIT_SECONDS, and a busy machine may keep it waiting for a core.
BOUND_SECONDS = WAIT_SECONDS + 1.0
REQUESTS = 40
TIMES = RefreshTimes(
    refresh_seconds=0.01,
    first_retry_seconds=0.01,
    last_retry_seconds=0.05,
    early_floor_seconds=0.2,
    max_age_seconds=MAX_AGE_SECONDS,
    wait_seconds=WAIT_SECONDS,
)


def _body(body: bytes, **headers: str) -> Callable[[Issuer], Any]:
    """Return a misbehaviour: one body, whole, with status 200."""
    return lambda _issuer: (200, headers, body)


def _status(status: int, **headers: str) -> Callable[[Issuer], Any]:
    """Return a misbehaviour: a status that is no answer, with a body of good JSON."""
    return lambda _issuer: (status, headers, b'{"keys":[]}')


def _hang(issuer: Issuer) -> Any:
    """Never answer."""
    return lambda _handler: issuer.release.wait(PATIENCE)


def _drip(issuer: Issuer) -> Any:
    """Send a byte now and then, for as long as anyone listens."""

    def act(handler: Any) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            while not issuer.release.wait(0.02):
                handler.wfile.write(b" ")
        except OSError:
            return

    return act


def _wrong_length(issuer: Issuer) -> Any:
    """Promise more than is sent."""

    def act(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("content-length", "5000")
        handler.end_headers()
        handler.wfile.write(b'{"keys":[]}')
        handler.close_connection = True

    return act


def _endless(issuer: Issuer) -> Any:
    """Send without end and without saying how much."""

    def act(handler: Any) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            while not issuer.release.is_set():
                handler.wfile.write(b" " * 65_536)
        except OSError:
            return

    return act


def _down(issuer: Issuer) -> Any:
    """Hang up at once."""

    def act(handler: Any) -> None:
        handler.close_connection = True

    return act


def _redirect(target: str) -> Callable[[Issuer], Any]:
    """Return a misbehaviour: send the client elsewhere."""
    return lambda issuer: (302, {"location": target}, b"")


BOMB = gzip.compress(b" " * (50 * MAX_DOCUMENT_BYTES))
# After each of these the last good keys must still be what decides.
FAILURES: dict[str, Callable[[Issuer], Any]] = {
    "down": _down,
    "hanging": _hang,
    "slow drip": _drip,
    "endless": _endless,
    "500 with good JSON": _status(500),
    "404 with good JSON": _status(404),
    "HTML with 200": _body(
        b"<!doctype html><title>Log in</title>", **{"content-type": "text/html"}
    ),
    "10 MB": _body(b'{"keys":[' + b" " * 10_000_000 + b"]}"),
    "shorter than promised": _wrong_length,
    "gzip bomb": _body(BOMB, **{"content-encoding": "gzip"}),
    "redirect loop": _redirect("/keys"),
    "redirect to the metadata service": _redirect("http://169.254.169.254/latest/meta-data"),
    "redirect to a file": _redirect("file:///etc/passwd"),
    "no keys list": _body(b'{"jwks":{}}'),
    "keys that are no list": _body(b'{"keys":{"0":{}}}'),
    "duplicate names": _body(b'{"keys":[],"keys":[]}'),
    "deeply nested": _body(b'{"keys":' + b"[" * 200_000),
    "not UTF-8": _body(b"\xff\xfe{\x00}\x00"),
    "empty body": _body(b""),
}


@dataclass(slots=True)
class Desk:
    """A cache before a real server, and what the requests under its keys came to."""

    ring: Any
    issuer: Issuer
    cache: JwksCache
    rule: JwtRule
    clock: list[float]
    waits: list[float] = field(default_factory=list)
    memory: TokenMemory = field(default_factory=TokenMemory)

    def ask(self, token: str) -> TokenStatus:
        """Authenticate one request as the authorizer does, and note how long it took."""
        begun = time.monotonic()
        outcome = authenticate_request(
            [self.rule],
            method="GET",
            path="/x",
            host="shop.example",
            scheme="https",
            headers={"authorization": (f"Bearer {token}",)},
            keys=self.cache,
            now=self.ring.now,
            on_unknown_key=self.cache.hasten,
            verify=self.memory.verify,
        )
        self.waits.append(time.monotonic() - begun)
        if outcome.failure is not None:
            assert outcome.claims is None
            assert outcome.failure.http_status == 401
            return outcome.failure.status
        assert outcome.claims is not None
        return TokenStatus.OK

    def misbehave(self, answer: Any) -> None:
        """Let the server answer so from now on, and wait until it was asked twice."""
        self.issuer.answers["/keys"] = answer
        self.issuer.wait_asked(len(self.issuer.asked) + 1)
        before = self.cache.status()[0].fetches
        eventually(lambda: self.cache.status()[0].fetches > before)


@pytest.fixture
def desk(ring: Any) -> Iterator[Desk]:
    """A cache that has fetched good keys from a real server."""
    issuer = Issuer()
    issuer.answers["/keys"] = (200, {}, ring.public("rsa").encode())
    clock = [0.0]
    rule = JwtRule(issuer=ring.issuer, jwks_uri=issuer.url + "/keys", timeout_seconds=FETCH_SECONDS)
    cache = JwksCache(
        fetch=FETCHER.fetch, times=TIMES, clock=lambda: clock[0], fraction=lambda: 0.0
    )
    cache.prepare([rule], wait_seconds=PATIENCE)
    yield Desk(ring, issuer, cache, rule, clock)
    issuer.release.set()
    cache.close(wait_seconds=PATIENCE)
    issuer.close()


@pytest.mark.parametrize("name", FAILURES)
def test_last_good_keys_decide(desk: Desk, name: str, record_property: Any) -> None:
    """While nothing good comes, the last good keys decide; too old, and every token is 401."""
    good, unknown = desk.ring.mint(), desk.ring.mint("p256", "ES256")
    assert desk.ask(good) is TokenStatus.OK
    desk.misbehave(FAILURES[name](desk.issuer))
    # Half of the requests carry a key that would have to be fetched first.
    desk.clock[0] = TIMES.early_floor_seconds
    for _ in range(REQUESTS // 2):
        assert desk.ask(good) is TokenStatus.OK
        assert desk.ask(unknown) is TokenStatus.KEY_MISMATCH
    (status,) = desk.cache.status()
    assert status.failures > 0
    desk.clock[0] = MAX_AGE_SECONDS - PATIENCE * 10
    assert desk.ask(good) is TokenStatus.OK
    desk.clock[0] = MAX_AGE_SECONDS + 1
    assert desk.ask(good) is TokenStatus.NO_KEYS
    slowest = max(desk.waits)
    record_property("slowest_request_seconds", round(slowest, 4))
    record_property("requests", len(desk.waits))
    print(
        f"\n{name}: {len(desk.waits)} requests, the slowest {slowest * 1000:.1f} ms "
        f"(limit {WAIT_SECONDS * 1000:.0f} ms), {status.fetches} fetches, "
        f"{status.failures} failed: {status.last_error[:100]}"
    )
    assert slowest < BOUND_SECONDS


def test_recovery(desk: Desk) -> None:
    """After a failure the next good answer counts, whatever came between."""
    desk.misbehave((500, {}, b""))
    desk.misbehave((200, {}, desk.ring.public("p256").encode()))
    eventually(lambda: desk.ask(desk.ring.mint("p256", "ES256")) is TokenStatus.OK)
    assert desk.ask(desk.ring.mint()) is TokenStatus.KEY_MISMATCH


def test_withdrawn_key(desk: Desk) -> None:
    """A key that the issuer withdrew verifies nothing, not even a token that is remembered."""
    token = desk.ring.mint()
    assert [desk.ask(token) for _ in range(3)] == [TokenStatus.OK] * 3
    desk.misbehave((200, {}, desk.ring.public("p256").encode()))
    eventually(lambda: desk.ask(token) is TokenStatus.KEY_MISMATCH)


def test_empty_set(desk: Desk) -> None:
    """An empty set is an answer: the issuer has no keys, so nothing verifies."""
    desk.misbehave((200, {}, b'{"keys":[]}'))
    eventually(lambda: desk.ask(desk.ring.mint()) is TokenStatus.NO_KEYS)


def test_private_keys_published(desk: Desk) -> None:
    """A key whose private part was published verifies nothing: anyone could have signed."""
    private = [
        desk.ring.keys[name].as_dict(private=True) | {"kid": name} for name in ("rsa", "oct")
    ]
    body = json.dumps({"keys": [*private, desk.ring.public_key("p256")]}).encode()
    desk.misbehave((200, {}, body))
    eventually(lambda: desk.ask(desk.ring.mint("p256", "ES256")) is TokenStatus.OK)
    assert desk.ask(desk.ring.mint()) is TokenStatus.KEY_MISMATCH
    assert desk.ask(desk.ring.mint("oct", "HS256")) is TokenStatus.KEY_MISMATCH
    (status,) = desk.cache.status()
    assert any("private part" in note for note in status.notes)
    secrets = [entry[name] for entry in private for name in ("d", "k") if name in entry]
    assert not any(secret in repr(status) for secret in secrets)


def test_duplicate_kid(desk: Desk) -> None:
    """Two keys under one `kid` are both tried, and the status says so."""
    twins = [desk.ring.public_key(name) | {"kid": "rsa"} for name in ("stranger", "rsa")]
    desk.misbehave((200, {}, json.dumps({"keys": twins}).encode()))
    eventually(lambda: any("share" in note for note in desk.cache.status()[0].notes))
    assert desk.ask(desk.ring.mint()) is TokenStatus.OK
    assert desk.ask(desk.ring.mint("p256", "ES256", kid=None)) is not TokenStatus.OK


def test_lying_metadata(ring: Any) -> None:
    """Discovery that names another issuer, or leads to where nothing is fetched, gives no keys."""
    issuer = Issuer()
    cache = JwksCache(fetch=FETCHER.fetch, times=TIMES)
    path = "/.well-known/openid-configuration"
    lies = [
        {"issuer": "https://other.example", "jwks_uri": issuer.url + "/keys"},
        {"issuer": issuer.url + "/", "jwks_uri": issuer.url + "/keys"},
        {"issuer": issuer.url, "jwks_uri": "http://169.254.169.254/keys"},
        {"issuer": issuer.url, "jwks_uri": "file:///etc/passwd"},
        {"issuer": issuer.url, "jwks_uri": 5},
        {"issuer": issuer.url},
    ]
    try:
        issuer.answers["/keys"] = (200, {}, ring.public().encode())
        issuer.answers[path] = (200, {}, json.dumps(lies[0]).encode())
        rule = JwtRule(issuer=issuer.url)
        cache.prepare([rule], wait_seconds=PATIENCE)
        for lie in lies:
            issuer.answers[path] = (200, {}, json.dumps(lie).encode())
            issuer.wait_asked(len(issuer.asked) + 2)
            assert cache.keys_for(rule) is None
        assert "/keys" not in issuer.asked
        truth = {"issuer": issuer.url, "jwks_uri": issuer.url + "/keys"}
        issuer.answers[path] = (200, {}, json.dumps(truth).encode())
        eventually(lambda: cache.keys_for(rule) is not None)
    finally:
        cache.close(wait_seconds=PATIENCE)
        issuer.close()


def test_crowd_waits_for_one_fetch(ring: Any, record_property: Any) -> None:
    """After a rotation a crowd with the new key waits for one fetch, and all of it is verified."""
    issuer = Issuer()
    issuer.answers["/keys"] = (200, {}, ring.public("rsa").encode())
    clock = [0.0]
    times = RefreshTimes(refresh_seconds=3600, wait_seconds=PATIENCE)
    cache = JwksCache(fetch=FETCHER.fetch, times=times, clock=lambda: clock[0])
    rule = JwtRule(issuer=ring.issuer, jwks_uri=issuer.url + "/keys")
    cache.prepare([rule], wait_seconds=PATIENCE)
    desk = Desk(ring, issuer, cache, rule, clock)
    issuer.answers["/keys"] = (200, {}, ring.public("p256").encode())
    clock[0] = 31.0
    token = ring.mint("p256", "ES256")
    found: list[TokenStatus] = []
    threads = [threading.Thread(target=lambda: found.append(desk.ask(token))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cache.close(wait_seconds=PATIENCE)
    issuer.close()
    record_property("slowest_request_seconds", round(max(desk.waits), 4))
    assert found == [TokenStatus.OK] * 8
    assert issuer.asked == ["/keys", "/keys"]


def test_flood_of_unknown_keys_waits_once(ring: Any, record_property: Any) -> None:
    """Before a hanging issuer, a flood of unknown keys costs one wait altogether."""
    issuer = Issuer()
    issuer.answers["/keys"] = (200, {}, ring.public("rsa").encode())
    clock = [0.0]
    times = RefreshTimes(refresh_seconds=3600, wait_seconds=WAIT_SECONDS)
    cache = JwksCache(fetch=FETCHER.fetch, times=times, clock=lambda: clock[0])
    rule = JwtRule(issuer=ring.issuer, jwks_uri=issuer.url + "/keys", timeout_seconds=PATIENCE)
    cache.prepare([rule], wait_seconds=PATIENCE)
    desk = Desk(ring, issuer, cache, rule, clock)
    issuer.answers["/keys"] = _hang(issuer)
    clock[0] = 31.0
    unknown = ring.mint("p256", "ES256")
    assert [desk.ask(unknown) for _ in range(100)] == [TokenStatus.KEY_MISMATCH] * 100
    waited = [wait for wait in desk.waits if wait >= WAIT_SECONDS]
    issuer.release.set()
    cache.close(wait_seconds=PATIENCE)
    issuer.close()
    record_property("requests_that_waited", len(waited))
    print(f"\n100 unknown keys: {len(waited)} waited, all together {sum(desk.waits):.3f} s")
    assert len(issuer.asked) == 2
    assert sum(desk.waits) < WAIT_SECONDS + 100 * 0.05
