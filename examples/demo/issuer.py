"""An OpenID Connect issuer on loopback: discovery document, key set, tokens.

It is the other side of `identity`, so it stands on another library (joserfc)
than the one that verifies.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from enum import StrEnum
from http.server import BaseHTTPRequestHandler
from typing import Any, Final

from joserfc import jwt
from joserfc.jwk import ECKey, KeyParameters, KeySet

from examples.demo.loopback import LOOPBACK, LoopbackServer

AUDIENCE: Final = "orders-api"
_ALGORITHM: Final = "ES256"
_CURVE: Final = "P-256"
_KEY_ID: Final = "demo-1"
_LIFETIME_SECONDS: Final = 12 * 3600
# Far beyond the clock skew that Istio forgives (60 s).
_EXPIRED_SECONDS: Final = 3600


class TokenFault(StrEnum):
    """What is wrong with a token, on purpose."""

    NONE = "none"
    EXPIRED = "expired"
    WRONG_AUDIENCE = "wrong_audience"
    BAD_SIGNATURE = "bad_signature"
    UNKNOWN_ISSUER = "unknown_issuer"


class Issuer:
    """The issuer: its key, its two documents, its tokens. `now` gives seconds since the epoch."""

    def __init__(self, now: Callable[[], float]) -> None:
        """Make a key of its own, and another that nobody trusts; bind a port."""
        self._now = now
        self._key = _new_key()
        self._stranger = _new_key()
        self.server = LoopbackServer(_documents_handler(self.document))

    @property
    def url(self) -> str:
        """The issuer identifier, which is also where its documents are served."""
        return f"http://{LOOPBACK}:{self.server.port}"

    def document(self, path: str) -> Mapping[str, Any] | None:
        """Return the document at a path, None when there is none.

        Spec: OpenID Connect Discovery 1.0 §3, §4; RFC 7517 §5.
        """
        if path == "/jwks.json":
            return KeySet([self._key]).as_dict(private=False)
        if path == "/.well-known/openid-configuration":
            return {
                "issuer": self.url,
                "jwks_uri": f"{self.url}/jwks.json",
                "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token",
                "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": [_ALGORITHM],
            }
        return None

    def mint(self, claims: Mapping[str, Any], fault: TokenFault = TokenFault.NONE) -> str:
        """Return a signed token with these claims, right in all but `fault`."""
        now = int(self._now())
        expires_at = now + _LIFETIME_SECONDS
        if fault is TokenFault.EXPIRED:
            expires_at = now - _EXPIRED_SECONDS
        elsewhere = "https://elsewhere.meshwarden.test"
        payload = {
            "iss": elsewhere if fault is TokenFault.UNKNOWN_ISSUER else self.url,
            "aud": "another-api" if fault is TokenFault.WRONG_AUDIENCE else AUDIENCE,
            "iat": now - 2 * _EXPIRED_SECONDS,
            "exp": expires_at,
            **claims,
        }
        key = self._stranger if fault is TokenFault.BAD_SIGNATURE else self._key
        return jwt.encode({"alg": _ALGORITHM, "kid": _KEY_ID}, payload, key)


def _new_key() -> ECKey:
    """Return a fresh signing key. Both keys of an issuer bear one id, so the signature decides."""
    parameters: KeyParameters = {"kid": _KEY_ID, "use": "sig", "alg": _ALGORITHM}
    return ECKey.generate_key(_CURVE, parameters, private=True)


def _documents_handler(
    document: Callable[[str], Mapping[str, Any] | None],
) -> type[BaseHTTPRequestHandler]:
    """Return a handler class that serves JSON documents by path."""

    class Documents(BaseHTTPRequestHandler):
        """Serve what `document` knows; 404 for everything else."""

        def do_GET(self) -> None:
            """Answer with a document."""
            found = document(self.path)
            body = json.dumps({"error": "not_found"} if found is None else found).encode()
            self.send_response(404 if found is None else 200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Keep quiet: the demo's own output is the table."""

    return Documents
