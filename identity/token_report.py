"""What a rule makes of a token, step by step, for people; no signature and no secret in it.

The verdict is `verify_token`'s own, and each step asks the same function as it does:
there is no second opinion here, only more of the first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from identity.jose import (
    RegisteredClaims,
    TokenFormatError,
    UnverifiedToken,
    has_jws_shape,
    parse_token,
    peek_header,
)
from identity.jwks import Jwk, JwkSet
from identity.jwt_rule import JwtRule
from identity.jwt_verify import (
    CLOCK_SKEW_SECONDS,
    TokenRefusal,
    Verdict,
    claim_steps,
    is_signed_by,
    verify_token,
)

_SHOWN_HEADER: Final = ("alg", "kid", "typ", "cty", "crit", "b64", "zip", "enc")
_NOT_SHOWN: Final = "(not shown)"
# Private and symmetric JWK parameters (RFC 7518 §6), and what people call secrets.
_SECRET_NAMES: Final = frozenset({"k", "d", "p", "q", "dp", "dq", "qi", "oth"})
_SECRET_WORDS: Final = re.compile(r"secret|password|passwd|api[-_]?key|private|credential", re.I)
_LAST_TIME: Final = 253_402_300_799  # The last second of the year 9999.


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenStep:
    """One thing that is looked at. `holds` is None where it could not be looked at."""

    name: str
    holds: bool | None
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenReport:
    """A token as one rule sees it; `header` and `claims` hold what may be shown."""

    header: Mapping[str, Any]
    ignored: tuple[str, ...]
    claims: Mapping[str, Any]
    steps: tuple[TokenStep, ...]
    verdict: Verdict


def explain_token(text: str, rule: JwtRule, keys: JwkSet | None, now: float) -> TokenReport:
    """Return what a rule makes of a token and why; `keys` None means that there are none."""
    verdict = verify_token(text, rule, lambda: keys, now)
    try:
        token = parse_token(text)
    except TokenFormatError as exc:
        return TokenReport(
            header=_shown_header(_header(text)),
            ignored=_ignored(_header(text)),
            claims={},
            steps=(TokenStep(name="form", holds=False, detail=_form_detail(text, exc)),),
            verdict=verdict,
        )
    header = _header(text)
    return TokenReport(
        header=_shown_header(header),
        ignored=_ignored(header),
        claims=_shown(token.payload),
        steps=(
            TokenStep(name="form", holds=True, detail=f"a JWT of {len(text)} characters"),
            *_claims_judged(token.claims, rule, now),
            *_keys_judged(token, keys),
        ),
        verdict=verdict,
    )


def is_refused(report: TokenReport) -> bool:
    """Return whether the rule refuses the token."""
    return isinstance(report.verdict, TokenRefusal)


def _form_detail(text: str, exc: TokenFormatError) -> str:
    """Return why a text has the wrong form, and what it may be instead."""
    if has_jws_shape(text):
        return exc.public_text
    return f"{exc.public_text}; an opaque token is asked about at its issuer"


def _header(text: str) -> Mapping[str, Any]:
    """Return the header's fields, none where there is no header."""
    try:
        return peek_header(text)
    except TokenFormatError:
        return {}


def _shown_header(header: Mapping[str, Any]) -> dict[str, Any]:
    """Return the header's fields that are looked at, or tell what the token is."""
    return {name: header[name] for name in _SHOWN_HEADER if name in header}


def _ignored(header: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of header fields that are never looked at, such as `jwk` and `jku`."""
    return tuple(sorted(header.keys() - set(_SHOWN_HEADER)))


def _claims_judged(claims: RegisteredClaims, rule: JwtRule, now: float) -> list[TokenStep]:
    """Return issuer, times and audience, each held against the rule."""
    details = {
        "issuer": f"`iss` is {_quoted(claims.issuer)}, the rule takes {_or_any(rule.issuer)}",
        "not before": _time_detail(claims.not_before, now, "no `nbf`"),
        "expiry": _time_detail(claims.expires_at, now, "no `exp`: it never expires"),
        "audience": f"`aud` is {_listed(claims.audiences)}, "
        f"the rule takes {_listed(rule.audiences) if rule.audiences else 'any'}",
    }
    steps = zip(details, claim_steps(claims, rule, now), strict=True)
    return [TokenStep(name=name, holds=holds, detail=details[name]) for name, holds in steps]


def _time_detail(at: int, now: float, absent: str) -> str:
    """Return a time beside the clock, with the leeway that both have."""
    if at == 0:
        return absent
    seconds = at - int(now)
    distance = f"in {seconds} s" if seconds >= 0 else f"{-seconds} s ago"
    written = datetime.fromtimestamp(at, UTC).isoformat() if at <= _LAST_TIME else str(at)
    return f"{written}, {distance} (leeway {CLOCK_SKEW_SECONDS} s)"


def _keys_judged(token: UnverifiedToken, keys: JwkSet | None) -> list[TokenStep]:
    """Return whether there are keys, which fit, and whether one of them verifies."""
    if keys is None or not keys.keys:
        why = "there are no keys" if keys is None else "the set has no usable key"
        return [
            TokenStep(name="keys", holds=False, detail=why),
            TokenStep(name="signature", holds=None, detail="not checked: there is no key"),
        ]
    fitting = keys.eligible(token.kid, token.alg)
    named = f"`kid` {_quoted(token.kid)}" if token.kid else "no `kid`"
    steps = [
        TokenStep(
            name="keys",
            holds=bool(fitting),
            detail=f"{len(fitting)} of {len(keys.keys)} may have signed: "
            f"the token names {token.alg} and {named}",
        )
    ]
    signed = [key for key in fitting if is_signed_by(token, key)]
    detail = f"key {_key_name(signed[0])} verifies it" if signed else "no key verifies it"
    if not fitting:
        detail = "not checked: no key fits"
    steps.append(
        TokenStep(name="signature", holds=bool(signed) if fitting else None, detail=detail)
    )
    return steps


def _key_name(key: Jwk) -> str:
    """Return a key by its `kid`."""
    return _quoted(key.kid) if key.kid else "without `kid`"


def _quoted(text: str) -> str:
    """Return a text of the token in backticks, its control letters escaped; `(none)` if empty."""
    return f"`{text.encode('unicode_escape').decode('ascii')[:200]}`" if text else "(none)"


def _or_any(text: str) -> str:
    """Return a text of the rule, or that it takes any."""
    return _quoted(text) if text else "any"


def _listed(texts: tuple[str, ...]) -> str:
    """Return texts in backticks."""
    return ", ".join(map(_quoted, texts)) or "(none)"


def _shown(value: Any, name: str = "") -> Any:
    """Return claims without what looks like a secret, a key or another token."""
    if name in _SECRET_NAMES or _SECRET_WORDS.search(name):
        return _NOT_SHOWN
    if isinstance(value, dict):
        return {key: _shown(inner, key) for key, inner in value.items()}
    if isinstance(value, list):
        return [_shown(inner) for inner in value]
    if isinstance(value, str) and has_jws_shape(value):
        return "(a token, not shown)"
    return value
