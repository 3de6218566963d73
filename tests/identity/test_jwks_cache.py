"""Keys of issuers over real HTTP on loopback: fresh, failing, lying and slow."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from loopback_issuer import (
    FETCHER,
    ON_LOOPBACK,
    PATIENCE,
    Issuer,
    eventually,
)

from identity.document_fetch import MAX_DOCUMENT_BYTES, Document, DocumentFetcher, fetch_document
from identity.errors import KeySourceError, KeySourceUnreachableError
from identity.jwks_cache import JwksCache, RefreshTimes
from identity.jwt_rule import JwtRule

FETCH = FETCHER.fetch
SLOW = RefreshTimes(refresh_seconds=3600, first_retry_seconds=3600)
QUICK = RefreshTimes(
    refresh_seconds=0.02, first_retry_seconds=0.02, last_retry_seconds=0.05, early_floor_seconds=0
)


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    """A loopback issuer."""
    running = Issuer()
    yield running
    running.close()


@pytest.fixture
def cache_of() -> Iterator[Callable[..., JwksCache]]:
    """Make caches that are closed at the end."""
    made: list[JwksCache] = []

    def make(**fields: Any) -> JwksCache:
        made.append(JwksCache(**({"fetch": FETCH} | fields)))
        return made[-1]

    yield make
    for cache in made:
        cache.close(wait_seconds=PATIENCE)


def test_keys_from_uri(ring: Any, issuer: Issuer, cache_of: Any) -> None:
    """After `prepare` the keys are there, fetched once for all rules that name them."""
    issuer.answers["/keys"] = (200, {}, ring.public().encode())
    rules = [JwtRule(issuer=str(n), jwks_uri=issuer.url + "/keys") for n in range(5)]
    cache = cache_of(times=SLOW)
    assert cache.keys_for(rules[0]) is None
    cache.prepare(rules, wait_seconds=PATIENCE)
    keys = cache.keys_for(rules[4])
    assert keys is not None
    assert [key.kid for key in keys.keys] == ["rsa", "p256", "p384", "p521", "ed25519"]
    cache.prepare(rules, wait_seconds=PATIENCE)
    assert issuer.asked == ["/keys"]
    (status,) = cache.status()
    assert (status.is_ready, status.key_count, status.failures) == (True, 5, 0)


def test_discovery(ring: Any, issuer: Issuer, cache_of: Any) -> None:
    """Without a URL the issuer's metadata names it, if it is that issuer's metadata."""
    issuer.answers["/keys"] = (200, {}, ring.public().encode())
    body = {"issuer": issuer.url + "/", "jwks_uri": issuer.url + "/keys"}
    path = "/.well-known/openid-configuration"
    issuer.answers[path] = (200, {}, json.dumps(body).encode())
    cache = cache_of(times=SLOW)
    right, wrong = JwtRule(issuer=issuer.url + "/"), JwtRule(issuer=issuer.url)
    cache.prepare([right, wrong], wait_seconds=PATIENCE)
    assert cache.keys_for(right) is not None
    assert cache.keys_for(wrong) is None
    errors = {status.source: status.last_error for status in cache.status()}
    assert "that of another issuer" in errors[f"issuer {issuer.url}"]


@pytest.mark.parametrize(
    "answer",
    [
        (500, {}, b"{}"),
        (200, {}, b"<html>login</html>"),
        (200, {}, b"[]"),
        (200, {}, b'{"keys": {}}'),
        (200, {}, b'{"keys": [], "keys": []}'),
        (200, {}, b'{"keys":' + b"[" * 5000),
        (200, {}, b" " * (MAX_DOCUMENT_BYTES + 1)),
        (302, {"location": "/again"}, b""),
        (302, {"location": "file:///etc/passwd"}, b""),
        (302, {"location": "http://169.254.169.254/latest"}, b""),
        (302, {"location": "http://[::ffff:169.254.169.254]/"}, b""),
    ],
    ids=lambda answer: f"{answer[0]} {answer[1] or bytes(answer[2][:12])}",
)
def test_bad_answers_keep_the_last_good_keys(
    ring: Any, issuer: Issuer, cache_of: Any, answer: Any
) -> None:
    """An issuer that fails or lies changes nothing but the status."""
    issuer.answers["/again"] = (302, {"location": "/again"}, b"")
    issuer.answers["/keys"] = (200, {}, ring.public().encode())
    rule = JwtRule(issuer="i", jwks_uri=issuer.url + "/keys")
    cache = cache_of(times=QUICK)
    cache.prepare([rule], wait_seconds=PATIENCE)
    before = cache.keys_for(rule)
    issuer.answers["/keys"] = answer
    eventually(lambda: cache.status()[0].failures > 0)
    kept = cache.keys_for(rule)
    assert kept is not None
    assert before is not None
    assert [key.kid for key in kept.keys] == [key.kid for key in before.keys]
    assert cache.status()[0].last_error
    issuer.answers["/keys"] = (200, {}, ring.public("p256").encode())
    eventually(lambda: len(getattr(cache.keys_for(rule), "keys", ())) == 1)


def test_published_secrets_are_left_out(ring: Any, issuer: Issuer, cache_of: Any) -> None:
    """A fetched set's symmetric keys, and keys with their private part, verify nothing."""
    private = ring.keys["rsa"].as_dict(private=True)
    body = json.dumps({"keys": [private, ring.public_key("oct"), ring.public_key("p256")]})
    issuer.answers["/keys"] = (200, {}, body.encode())
    rule = JwtRule(issuer="i", jwks_uri=issuer.url + "/keys")
    cache = cache_of(times=SLOW)
    cache.prepare([rule], wait_seconds=PATIENCE)
    keys = cache.keys_for(rule)
    assert keys is not None
    assert [key.kid for key in keys.keys] == ["p256"]
    assert len(keys.notes) == 2


def test_hanging_issuer(issuer: Issuer, cache_of: Any) -> None:
    """An issuer that never answers holds up neither `prepare` beyond its time nor a decision."""
    issuer.answers["/keys"] = lambda _handler: issuer.release.wait(PATIENCE)
    rule = JwtRule(issuer="i", jwks_uri=issuer.url + "/keys", timeout_seconds=0.2)
    cache = cache_of(times=SLOW)
    cache.prepare([rule], wait_seconds=0.01)
    assert cache.keys_for(rule) is None
    eventually(lambda: "did not answer within 0.2 s" in cache.status()[0].last_error)


def test_dripping_issuer(issuer: Issuer) -> None:
    """A server that sends a byte now and then does not extend the time limit."""

    def drip(handler: Any) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            while not issuer.release.wait(0.02):
                handler.wfile.write(b" ")
        except OSError:
            return

    issuer.answers["/keys"] = drip
    with pytest.raises(KeySourceError, match=r"within 0\.3 s"):
        fetch_document(issuer.url + "/keys", timeout_seconds=0.3, addresses=ON_LOOPBACK)


def test_unknown_key_hastens_within_the_floor(ring: Any, issuer: Issuer, cache_of: Any) -> None:
    """A rotation is followed up at once, and no faster than the floor allows."""
    now = [0.0]
    issuer.answers["/keys"] = (200, {}, ring.public("rsa").encode())
    rule = JwtRule(issuer="i", jwks_uri=issuer.url + "/keys")
    # Whoever begins a fetch waits for its end, so that a fetch too many would be seen.
    times = dataclasses.replace(SLOW, wait_seconds=PATIENCE)
    cache = cache_of(clock=lambda: now[0], times=times)
    cache.prepare([rule], wait_seconds=PATIENCE)
    issuer.answers["/keys"] = (200, {}, ring.public("p256").encode())
    assert [cache.hasten(rule) for _ in range(50)] == [False] * 50
    assert issuer.asked == ["/keys"]
    now[0] = 31.0
    assert cache.hasten(rule)
    assert [cache.hasten(rule) for _ in range(50)] == [False] * 50
    assert issuer.asked == ["/keys", "/keys"]
    eventually(lambda: cache.keys_for(rule).keys[0].kid == "p256")


def test_old_keys_are_given_up(ring: Any, issuer: Issuer, cache_of: Any) -> None:
    """Keys older than the limit verify nothing any more."""
    now = [0.0]
    issuer.answers["/keys"] = (200, {}, ring.public().encode())
    rule = JwtRule(issuer="i", jwks_uri=issuer.url + "/keys")
    cache = cache_of(clock=lambda: now[0], times=SLOW)
    cache.prepare([rule], wait_seconds=PATIENCE)
    now[0] = SLOW.max_age_seconds
    assert cache.keys_for(rule) is not None
    now[0] += 1
    assert cache.keys_for(rule) is None


def test_inline_keys_win(ring: Any, cache_of: Any) -> None:
    """Inline keys need no fetch; an inline text that is no key set is refused."""
    cache = cache_of(times=SLOW)
    rule = JwtRule(issuer="i", jwks=ring.inline(), jwks_uri="http://127.0.0.1:1/")
    cache.prepare([rule])
    assert cache.keys_for(rule) is not None
    assert cache.status() == ()
    with pytest.raises(KeySourceError):
        cache.prepare([JwtRule(issuer="i", jwks="{}")])
    assert cache.keys_for(rule) is not None


def test_sources_retire_after_two_snapshots(ring: Any, issuer: Issuer, cache_of: Any) -> None:
    """Keys stay for the snapshot that is being replaced, and go with the one after."""
    issuer.answers["/keys"] = (200, {}, ring.public().encode())
    rule = JwtRule(issuer="i", jwks_uri=issuer.url + "/keys")
    cache = cache_of(times=SLOW)
    cache.prepare([rule], wait_seconds=PATIENCE)
    cache.prepare([])
    assert cache.keys_for(rule) is not None
    cache.prepare([])
    assert cache.keys_for(rule) is None


def test_redirect_within_limits(ring: Any, issuer: Issuer) -> None:
    """A redirect or two are followed."""
    issuer.answers["/a"] = (302, {"Location": "/b"}, b"")
    issuer.answers["/b"] = (307, {"location": issuer.url + "/keys"}, b"")
    issuer.answers["/keys"] = (200, {}, b"ok")
    url = issuer.url + "/a"
    assert fetch_document(url, timeout_seconds=PATIENCE, addresses=ON_LOOPBACK) == b"ok"


@pytest.mark.parametrize(
    "url",
    ["", "ftp://x/", "file:///etc/passwd", "http://", "http://u:p@127.0.0.1/", "http://[::1",
     "http://127.0.0.1:99999/", "http://127.0.0.1:x/", "http://a\x00b/", "http://ü.example\n/"],
)  # fmt: skip
def test_bad_urls(url: str) -> None:
    """Any URL that cannot be fetched is a named error."""
    with pytest.raises(KeySourceError):
        fetch_document(url, timeout_seconds=0.5, resolve=lambda _host, _port: [])


def test_max_age_of_the_issuer(ring: Any, issuer: Issuer, cache_of: Any) -> None:
    """Keys are fetched again ahead of the `max-age` their issuer gave, when that is sooner."""
    body = ring.public().encode()
    issuer.answers["/short"] = (200, {"cache-control": "public, max-age=1"}, body)
    issuer.answers["/long"] = (200, {"cache-control": "max-age=86400"}, body)
    issuer.answers["/zero"] = (200, {"cache-control": "no-store, max-age=0"}, body)
    cache = cache_of(times=dataclasses.replace(SLOW, early_floor_seconds=0))
    rules = [JwtRule(issuer="i", jwks_uri=issuer.url + path) for path in issuer.answers]
    cache.prepare(rules, wait_seconds=PATIENCE)
    issuer.wait_asked(4)
    assert issuer.asked[3] == "/short"


def test_pauses_are_shortened_by_chance(ring: Any, issuer: Issuer, cache_of: Any) -> None:
    """A part of the pause, drawn by chance, is left out, so that a fleet does not ask at once."""
    issuer.answers["/keys"] = (200, {}, ring.public().encode())
    fractions = iter([1.0, 1.0])
    cache = cache_of(
        times=dataclasses.replace(SLOW, jitter=1.0), fraction=lambda: next(fractions, 0.0)
    )
    cache.prepare([JwtRule(issuer="i", jwks_uri=issuer.url + "/keys")], wait_seconds=PATIENCE)
    issuer.wait_asked(3)
    eventually(lambda: cache.status()[0].fetches == 3)


def test_names_that_are_not_found_in_time() -> None:
    """A resolver that hangs holds nobody up beyond the time for the exchange."""
    release = threading.Event()

    def hang(_host: str, _port: int) -> list[str]:
        release.wait(PATIENCE)
        return ["127.0.0.1"]

    fetcher = DocumentFetcher(addresses=ON_LOOPBACK, resolve=hang)
    with pytest.raises(KeySourceUnreachableError, match=r"did not answer within 0\.05 s"):
        fetcher.fetch("http://a.example/keys", timeout_seconds=0.05)
    release.set()


@pytest.mark.parametrize("error", [OSError(2, "no such host"), UnicodeError("label too long")])
def test_names_that_are_not_found(error: Exception) -> None:
    """What a resolver raises is a refusal by name."""

    def fail(_host: str, _port: int) -> list[str]:
        raise error

    fetcher = DocumentFetcher(addresses=ON_LOOPBACK, resolve=fail)
    with pytest.raises(KeySourceError, match="http://a.example/keys"):
        fetcher.fetch("http://a.example/keys", timeout_seconds=PATIENCE)


@pytest.mark.parametrize("seconds", [1e11, float("inf")])
def test_keys_that_are_never_refreshed_are_hastened(
    ring: Any, issuer: Issuer, seconds: float
) -> None:
    """A pause beyond any does not end the fetching: an unknown key still begins one."""
    issuer.answers["/keys"] = (200, {}, ring.public("rsa").encode())
    times = RefreshTimes(refresh_seconds=seconds, early_floor_seconds=0, wait_seconds=PATIENCE)
    cache = JwksCache(fetch=FETCH, times=times)
    rule = JwtRule(issuer=ring.issuer, jwks_uri=issuer.url + "/keys")
    cache.prepare([rule], wait_seconds=PATIENCE)
    issuer.answers["/keys"] = (200, {}, ring.public("p256").encode())
    assert cache.hasten(rule)
    cache.close(wait_seconds=PATIENCE)


def test_a_changed_timeout_counts_from_the_next_fetch(ring: Any, cache_of: Any) -> None:
    """A rule's `timeout` that is edited counts without a start, and nothing is fetched for it."""
    given: list[float] = []

    def fetch(_url: str, *, timeout_seconds: float) -> Document:
        given.append(timeout_seconds)
        return Document(body=ring.public().encode())

    cache = cache_of(
        fetch=fetch, times=dataclasses.replace(SLOW, early_floor_seconds=0, wait_seconds=PATIENCE)
    )
    for seconds in (5.0, 0.5, 0.5):
        rule = JwtRule(issuer="i", jwks_uri="https://i.example/keys", timeout_seconds=seconds)
        cache.prepare([rule], wait_seconds=PATIENCE)
    assert given == [5.0]
    cache.hasten(rule)
    assert given == [5.0, 0.5]
