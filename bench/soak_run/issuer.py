"""An issuer of tokens whose keys change, with its key set over HTTP.

Theory of operation. A key is published before tokens are signed with it, and stays until the
last of its tokens has expired: nobody's token is refused for the change. `turn` is called at
even intervals; everything else follows from how many turns there were.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final, Self

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import get_default_algorithms

AUDIENCE: Final = "shop"
TURN_SECONDS: Final = 15.0
REFRESH_SECONDS: Final = 5  # of whoever verifies: a new key is known long before it signs
_TURNS_PER_KEY, _TURNS_AHEAD = 4, 2
_TOKENS_PER_TURN, _TURNS_IN_USE = 60, 3
_LIFETIME_SECONDS: Final = 120


@dataclass(slots=True)
class _Key:
    name: str
    algorithm: str
    private: Any
    last_expiry: float = field(default_factory=lambda: time.time() + _LIFETIME_SECONDS)

    def published(self) -> dict[str, Any]:
        public = get_default_algorithms()[self.algorithm].to_jwk(self.private.public_key())
        return {**json.loads(public), "kid": self.name, "alg": self.algorithm, "use": "sig"}


class Issuer:
    """The issuer; `tokens` are those in use now, `bad_tokens` those that must be refused."""

    def __init__(self, dice: random.Random) -> None:
        """Listen on loopback, with one key and tokens signed with it."""
        self.rotations = 0
        self._dice = dice
        self._keys: list[_Key] = []
        self._withdrawn: deque[_Key] = deque(maxlen=1)
        self._leaving: list[_Key] = []
        self._turns = 0
        self._batches: deque[list[str]] = deque(maxlen=_TURNS_IN_USE)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self._keys.append(_new_key(0))
        self._signing = self._keys[0]
        self._batches.append(self._mint())

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()

    @property
    def tokens(self) -> list[str]:
        """Tokens that are good, and stay so until two turns from now."""
        return [token for batch in self._batches for token in batch]

    def bad_tokens(self) -> list[str]:
        """Tokens that are none: expired, signed by a stranger, signed with a withdrawn key."""
        stranger = _Key(self._signing.name, "ES256", ec.generate_private_key(ec.SECP256R1()))
        signers = [stranger, *self._withdrawn]
        expired = [self._token(self._signing, -_LIFETIME_SECONDS) for _ in range(3)]
        return expired + [self._token(each, _LIFETIME_SECONDS) for each in signers]

    def turn(self) -> None:
        """Change keys where it is time, withdraw those nobody needs, sign new tokens."""
        self._turns += 1
        if self._turns % _TURNS_PER_KEY == 0:
            self._keys.append(_new_key(self._turns // _TURNS_PER_KEY))
        if self._turns % _TURNS_PER_KEY == _TURNS_AHEAD and self._keys[-1] is not self._signing:
            self._signing = self._keys[-1]
            self.rotations += 1
        # WHY a turn later: until it looks again (REFRESH_SECONDS) whoever verifies knows the key.
        self._withdrawn += self._leaving
        self._leaving = []
        now = time.time()
        for key in list(self._keys):
            if key.last_expiry < now and key is not self._signing and key is not self._keys[-1]:
                self._keys.remove(key)
                self._leaving.append(key)
        self._batches.append(self._mint())

    def _mint(self) -> list[str]:
        return [self._token(self._signing, _LIFETIME_SECONDS) for _ in range(_TOKENS_PER_TURN)]

    def _token(self, key: _Key, seconds: float) -> str:
        expiry = time.time() + seconds
        key.last_expiry = max(key.last_expiry, expiry)
        claims = {
            "iss": self.url,
            "sub": f"user-{self._dice.getrandbits(32):08x}",
            "aud": AUDIENCE,
            "iat": int(expiry - _LIFETIME_SECONDS),
            "exp": int(expiry),
            "scope": self._dice.choice(("orders:read", "orders:read orders:write")),
            "groups": self._dice.sample(("web", "staff", "batch", "audit", "sales"), 2),
        }
        return jwt.encode(claims, key.private, key.algorithm, headers={"kid": key.name})

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps({"keys": [key.published() for key in list(issuer._keys)]})
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None:
                return

        return Handler


def _new_key(number: int) -> _Key:
    if number % 2:
        return _Key(f"k{number}", "ES256", ec.generate_private_key(ec.SECP256R1()))
    return _Key(f"k{number}", "RS256", rsa.generate_private_key(65537, 2048))
