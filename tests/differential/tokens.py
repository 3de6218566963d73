"""Tokens of the trial: one signing key for every issuer, one that nobody trusts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from joserfc import jwk, jws

_KID = "k1"
_ALG = "ES256"


class TokenMint:
    """Mints what a probe spells: `claims`, and at most one `fault`.

    `claims.exp` and `nbf` are relative to the last `turn` when written as `+60` or `-60`.
    Faults: `stranger` (signed by another key), `garbled`, `none` (no signature).
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """Make the keys."""
        self._clock = clock
        self._now = int(clock())
        self._key = jwk.ECKey.generate_key("P-256")
        self._stranger = jwk.ECKey.generate_key("P-256")
        self._minted: dict[str, str] = {}
        public = dict(self._key.as_dict(private=False)) | {"kid": _KID, "alg": _ALG}
        self.jwks = json.dumps({"keys": [public]})

    def turn(self) -> None:
        """Take the time anew: a run may last longer than a token."""
        self._now = int(self._clock())
        self._minted.clear()

    def token(self, spec: Mapping[str, Any]) -> str:
        """Return the compact token of a specification; the same text for the same one."""
        name = json.dumps(spec, sort_keys=True)
        if name not in self._minted:
            self._minted[name] = self._mint(spec)
        return self._minted[name]

    def _mint(self, spec: Mapping[str, Any]) -> str:
        claims = {key: self._time(value) for key, value in spec.get("claims", {}).items()}
        fault = spec.get("fault", "")
        if fault == "none":
            return "eyJhbGciOiJub25lIn0.e30."
        key = self._stranger if fault == "stranger" else self._key
        payload = json.dumps(claims).encode()
        registry = jws.JWSRegistry(algorithms=[_ALG])
        text = jws.serialize_compact({"alg": _ALG, "kid": _KID}, payload, key, registry=registry)
        return text.replace(".", "..", 1) if fault == "garbled" else text

    def _time(self, value: Any) -> Any:
        if isinstance(value, str) and value[:1] in "+-" and value[1:].isdigit():
            return self._now + int(value)
        return value
