"""Opaque tokens: their issuer is asked, and its answers are remembered for a while.

Theory of operation. An answer is known by the SHA-256 of the whole token. A token
that nobody knows is asked about on a thread of a small pool, once for however many
requests carry it, and each request waits for `timeout_seconds` at most. Rules this
file keeps:
- only `"active": true` with claims that the rule accepts is verified; no answer, a
  late answer and an answer that cannot be read refuse the token;
- an answer is believed no longer than `cache_seconds` and than the token's `exp`, and
  the token's times and audience are held against the rule at every use;
- an endpoint that cannot be reached is left alone for a pause that doubles, so that
  requests do not wait for what will not come;
- a flood of texts that are no tokens drives no good answer out of memory;
- number of answers, of threads and of questions under way are bounded;
- no token and no secret in any message.

Spec: RFC 7662 (OAuth 2.0 Token Introspection) §2, §4; RFC 6750 §2.1 (form of a token).
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

from identity.document_fetch import Document
from identity.errors import KeySourceError, KeySourceUnreachableError
from identity.introspection_memory import Answer, AnswerMemory, TokenKey
from identity.jose import (
    TokenFormatError,
    parse_json_object,
    read_registered_claims,
)
from identity.jwt_rule import JwtRule
from identity.jwt_verify import TokenRefusal, Verdict, VerifiedToken, check_claims
from identity.token_status import TokenStatus

# BUDGET: opaque tokens are handles of some tens of characters; RFC 6750 bounds none.
MAX_OPAQUE_CHARS: Final = 4096
# BUDGET: questions under way, waiting for a thread or for the endpoint.
MAX_QUESTIONS: Final = 64
_THREADS: Final = 4
_FIRST_PAUSE_SECONDS: Final = 1.0
_LAST_PAUSE_SECONDS: Final = 30.0
# RFC 6750 §2.1: b64token.
_B64TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*", re.ASCII)


class Post(Protocol):
    """Sends one form; raises KeySourceError."""

    def __call__(
        self, url: str, *, headers: Mapping[str, str], body: bytes, timeout_seconds: float
    ) -> Document:
        """Return what the URL answers with 2xx."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IntrospectionProvider:
    """An issuer that can be asked about its tokens, and how."""

    issuer: str
    endpoint: str
    client_id: str
    client_secret: str = field(repr=False)
    auth_method: Literal["client_secret_basic", "client_secret_post"] = "client_secret_basic"
    timeout_seconds: float = 1.0
    cache_seconds: float = 60.0
    refusal_cache_seconds: float = 5.0


class Introspector:
    """Asks issuers about opaque tokens. Thread-safe; `verify` is an `AskIssuer`."""

    def __init__(
        self,
        providers: Iterable[IntrospectionProvider],
        post: Post,
        *,
        clock: Callable[[], float] = time.monotonic,
        fraction: Callable[[], float] = random.random,
    ) -> None:
        """Keep the providers, one for each issuer; `clock` is monotonic seconds."""
        self._providers = {each.issuer: _Endpoint(each, post) for each in providers}
        self._clock = clock
        self._fraction = fraction
        self._lock = threading.Lock()
        self._answers = AnswerMemory()
        self._asked: dict[TokenKey, Future[Answer]] = {}
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="introspection")

    def verify(self, text: str, rule: JwtRule, now: float) -> Verdict | None:
        """Return the verdict on an opaque token; None when the rule's issuer cannot be asked.

        `now` is seconds since the epoch. Waits at most the provider's `timeout_seconds`.
        """
        endpoint = self._providers.get(rule.issuer)
        if endpoint is None:
            return None
        if len(text) > MAX_OPAQUE_CHARS or _B64TOKEN.fullmatch(text) is None:
            status = TokenStatus.BAD_FORMAT
            return TokenRefusal(status, status.public_text, "the text is no bearer token")
        answer = self._answer(endpoint, text, now)
        if answer.payload is None or answer.claims is None:
            return TokenRefusal(answer.status, answer.status.public_text, answer.why)
        return check_claims(answer.claims, rule, now) or VerifiedToken(
            answer.payload, _payload_text(answer.payload), answer.claims
        )

    def close(self) -> None:
        """Take no more questions; those under way end by their own time limit."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _answer(self, endpoint: _Endpoint, text: str, now: float) -> Answer:
        """Return the remembered answer, or ask and wait a bounded while for it."""
        provider = endpoint.provider
        key = (provider.issuer, hashlib.sha256(text.encode("ascii")).digest())
        with self._lock:
            known = self._answers.recall(key, self._clock())
            if known is not None:
                return known
            asked = self._asked.get(key)
            if asked is None:
                if endpoint.is_paused(self._clock()):
                    return _failed("the introspection endpoint could not be reached lately")
                if len(self._asked) >= MAX_QUESTIONS:
                    return _failed("too many tokens are being asked about")
                asked = self._ask(endpoint, key, text, now)
        try:
            return asked.result(provider.timeout_seconds)
        except FutureTimeoutError:
            return _failed(f"no answer came within {provider.timeout_seconds:g} s")

    def _ask(self, endpoint: _Endpoint, key: TokenKey, text: str, now: float) -> Future[Answer]:
        """Begin to ask about a token; the lock is held."""
        asked: Future[Answer] = Future()
        try:
            self._pool.submit(self._ask_now, endpoint, key, text, now, asked)
        except RuntimeError:  # The pool was closed: we are draining.
            asked.set_result(_failed("no more tokens are asked about"))
            return asked
        self._asked[key] = asked
        return asked

    def _ask_now(
        self,
        endpoint: _Endpoint,
        key: TokenKey,
        text: str,
        now: float,
        asked: Future[Answer],
    ) -> None:
        """Ask, remember the answer, and hand it to everyone who waits."""
        try:
            answer, seconds = endpoint.ask(text, now)
            self._note_reached(endpoint)
        except KeySourceUnreachableError as exc:
            answer, seconds = _failed(str(exc)), 0.0
            self._note_unreached(endpoint)
        except KeySourceError as exc:
            answer, seconds = _failed(str(exc)), endpoint.provider.refusal_cache_seconds
        # WHY every exception: those who wait must hear of a defect at once, not by their timeout.
        except Exception as exc:
            answer, seconds = _failed(f"asking failed: {type(exc).__name__}"), 0.0
        with self._lock:
            del self._asked[key]
            if seconds > 0:
                self._answers.remember(key, answer, self._clock() + seconds)
        asked.set_result(answer)

    def _note_reached(self, endpoint: _Endpoint) -> None:
        """End the pause of an endpoint."""
        with self._lock:
            endpoint.pause_seconds = 0.0

    def _note_unreached(self, endpoint: _Endpoint) -> None:
        """Leave an endpoint alone for twice as long as before, less a random part."""
        with self._lock:
            if endpoint.is_paused(self._clock()):
                return  # Another question that was under way has said so already.
            pause = max(_FIRST_PAUSE_SECONDS, min(2 * endpoint.pause_seconds, _LAST_PAUSE_SECONDS))
            endpoint.pause_seconds = pause
            endpoint.paused_until = self._clock() + pause * (1 - 0.1 * self._fraction())


class _Endpoint:
    """One provider's endpoint. The pause is guarded by the introspector's lock."""

    def __init__(self, provider: IntrospectionProvider, post: Post) -> None:
        """Keep the provider; nothing is asked yet."""
        # WHY here: most servers ask no issuer.
        from authlib.oauth2.auth import ClientAuth  # noqa: PLC0415
        from authlib.oauth2.rfc7009 import prepare_revoke_token_request  # noqa: PLC0415

        self.provider = provider
        self.pause_seconds = 0.0
        self.paused_until = 0.0
        self._post = post
        self._auth = ClientAuth(provider.client_id, provider.client_secret, provider.auth_method)
        self._request_about = prepare_revoke_token_request

    def is_paused(self, at: float) -> bool:
        """Return whether the endpoint is left alone."""
        return self.pause_seconds > 0 and at < self.paused_until

    def ask(self, text: str, now: float) -> tuple[Answer, float]:
        """Return the answer and for how many seconds it may be remembered.

        Raises:
            KeySourceError: there was no answer that can be read.
        """
        provider = self.provider
        # RFC 7662 §2.1: a POST of `token` and `token_type_hint`, as for revocation.
        body, headers = self._request_about(text, "access_token")
        url, headers, body = self._auth.prepare("POST", provider.endpoint, headers, body)
        headers.pop("Content-Length", None)
        found = self._post(
            url,
            headers=headers,
            body=body.encode("ascii"),
            timeout_seconds=provider.timeout_seconds,
        )
        answer = _read_answer(found.body, provider)
        if answer.claims is None:
            return answer, provider.refusal_cache_seconds
        if answer.claims.expires_at == 0:
            return answer, provider.cache_seconds
        return answer, min(provider.cache_seconds, max(0.0, answer.claims.expires_at - now))


def _read_answer(body: bytes, provider: IntrospectionProvider) -> Answer:
    """Return what the body says of a token."""
    try:
        document = parse_json_object(body)
    except ValueError as exc:
        raise KeySourceError(f"`{provider.endpoint}` answered with no JSON object") from exc
    active = document.pop("active", None)
    if not isinstance(active, bool):
        raise KeySourceError(f"`{provider.endpoint}` does not say whether the token is `active`")
    # RFC 7662 §2.2: of a token that is not active nothing else is said, nor believed.
    if not active:
        return Answer(why="the issuer says that the token is not active")
    payload = {"iss": provider.issuer} | document
    try:
        claims = read_registered_claims(payload)
    except TokenFormatError as exc:
        raise KeySourceError(f"`{provider.endpoint}` answered: {exc.public_text}") from exc
    return Answer(payload=payload, claims=claims, length=len(body))


def _payload_text(payload: Mapping[str, Any]) -> str:
    """Return the claims as the payload part of a JWT, for `outputPayloadToHeader`."""
    text = json.dumps(payload, ensure_ascii=False, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode("ascii")


def _failed(why: str) -> Answer:
    """Return the answer where there is none."""
    return Answer(status=TokenStatus.INTROSPECTION_FAILED, why=why)
