"""Who the tokens of a request say is asking, under the rules attached to the workload.

Spec: Istio RequestAuthentication; combination and answers as Envoy's `jwt_authn`
filter gives them for the configuration Istio builds (reference section 7).

Rules this file keeps:
- no rules, no processing: tokens are then neither believed nor refused;
- a header that a rule writes never reaches the upstream as the client sent it,
  whether or not there was a token;
- no token text in anything that is returned, except `www_authenticate`, which
  quotes the caller's own URL to the caller as Envoy does, and so is not for records.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from identity.claims import VerifiedClaims
from identity.jwks import JwkSet
from identity.jwt_rule import JwtRule, RuleOrigin
from identity.jwt_verify import TokenRefusal, VerifiedToken, Verify, verify_token
from identity.token_locations import FoundToken, Headers, TokenPlace, find_tokens
from identity.token_outputs import output_header_names, output_headers, verified_claims
from identity.token_status import TokenStatus

__all__ = [
    "Authentication",
    "KeyLookup",
    "TokenFailure",
    "TokenRules",
    "TokenStatus",
    "authenticate_request",
]

_MAX_REALM_PATH: Final = 256
# A rotated key shows as an unknown `kid`, or where there is no `kid` as a bad signature.
_PERHAPS_ROTATED: Final = (TokenStatus.KEY_MISMATCH, TokenStatus.BAD_SIGNATURE)
_UNSPECIFIC: Final = (TokenStatus.MISSING, TokenStatus.UNKNOWN_ISSUER)


class KeyLookup(Protocol):
    """Where verification keys come from; answers at once, without I/O."""

    def keys_for(self, rule: JwtRule) -> JwkSet | None:
        """Return the keys of the rule's issuer, or None when they could not be had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFailure:
    """Why the request is rejected for its tokens.

    `body` and `www_authenticate` are the answer to the caller; `detail` is for
    the record; `origin` is that of the rule that decided.
    """

    status: TokenStatus
    http_status: int
    body: str
    www_authenticate: str
    detail: str
    origin: RuleOrigin | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Authentication:
    """What the tokens of a request proved, and what goes upstream.

    Shapes: header names are lower case; `set_request_headers` overwrite, and a name among
    them may have several values; `token_headers` and `token_params` name where tokens stood,
    for masking.
    `owned_headers` are those that only the rules write: whatever stands in front of the
    verification has no say in them. `failure` and `claims` are never both there; neither
    means no identity.
    """

    claims: VerifiedClaims | None = None
    failure: TokenFailure | None = None
    set_request_headers: tuple[tuple[str, str], ...] = ()
    remove_request_headers: tuple[str, ...] = ()
    remove_query_parameters: tuple[str, ...] = ()
    token_headers: tuple[str, ...] = ()
    token_params: tuple[str, ...] = ()
    owned_headers: frozenset[str] = frozenset()


_NO_AUTHENTICATION: Final = Authentication()


@dataclass(frozen=True, slots=True)
class _RuleOutcome:
    """What one rule made of the tokens at its places: those that held, as they were tried."""

    rule: JwtRule
    held: tuple[tuple[FoundToken, VerifiedToken], ...] = ()
    refusal: TokenRefusal | None = None

    @property
    def status(self) -> TokenStatus:
        """The status of the rule; no token at its places is `MISSING`."""
        if self.refusal is not None:
            return self.refusal.status
        return TokenStatus.OK if self.held else TokenStatus.MISSING


@dataclass(frozen=True, slots=True)
class TokenRules:
    """Rules as they are tried, with the headers that any of them may write. Made once, by `of`."""

    ordered: tuple[JwtRule, ...] = ()
    written: frozenset[str] = frozenset()

    @classmethod
    def of(cls, rules: Sequence[JwtRule]) -> TokenRules:
        """Return the rules in their order."""
        # The rules "are ordered by issuer" (reference 6.2).
        ordered = tuple(sorted(rules, key=lambda rule: rule.issuer))
        return cls(ordered, output_header_names(ordered))


def _ignore(_rule: JwtRule) -> bool:
    """Take no notice of an unknown key."""
    return False


def authenticate_request(  # noqa: PLR0913 - the parts of a request, each named by the caller
    rules: Sequence[JwtRule] | TokenRules,
    *,
    method: str,
    path: str,
    host: str,
    scheme: str,
    headers: Headers,
    keys: KeyLookup,
    now: float,
    on_unknown_key: Callable[[JwtRule], bool] = _ignore,
    verify: Verify = verify_token,
) -> Authentication:
    """Return what the tokens prove, or why the request is rejected.

    `path` includes the query; `now` is seconds since the epoch.
    `on_unknown_key` hears of a token that no key of the issuer's set verifies, and
    returns whether other keys have come meanwhile: then the token is judged once more.
    `verify` judges one token; by default nothing is remembered between calls.
    """
    tried = rules if isinstance(rules, TokenRules) else TokenRules.of(rules)
    if not tried.ordered:
        return _NO_AUTHENTICATION
    found = [find_tokens(rule, headers, path) for rule in tried.ordered]
    places = _Places.of(found, tried.written)
    # Envoy: a CORS preflight carries no credentials and is let through unverified.
    if _is_preflight(method, headers):
        return places.without_identity()
    outcomes: list[_RuleOutcome] = []
    for rule, tokens in zip(tried.ordered, found, strict=True):
        outcome = _verify_all(rule, tokens, keys, now, verify)
        if outcome.status in _PERHAPS_ROTATED and on_unknown_key(rule):
            outcome = _verify_all(rule, tokens, keys, now, verify)
        outcomes.append(outcome)
        # "the first OK lets the request continue; later rules are not tried" (reference 7.4).
        if outcome.held and outcome.refusal is None:
            return places.with_identity(outcomes)
    # "otherwise continue only if every rule reports missing; else reject" (reference 7.4).
    if all(outcome.status is TokenStatus.MISSING for outcome in outcomes):
        return places.without_identity()
    return places.rejected(_reject(outcomes, _realm(scheme, host, path)))


def _is_preflight(method: str, headers: Headers) -> bool:
    """Return whether this is a CORS preflight: all three signs, exactly (reference 7.9)."""
    return (
        method == "OPTIONS"
        and any(headers.get("origin", ()))
        and any(headers.get("access-control-request-method", ()))
    )


def _verify_all(
    rule: JwtRule, tokens: Sequence[FoundToken], keys: KeyLookup, now: float, verify: Verify
) -> _RuleOutcome:
    """Return the outcome of one rule: the last token first, and all must hold (reference 7.2)."""
    held: list[tuple[FoundToken, VerifiedToken]] = []
    for token in reversed(tokens):
        verdict = verify(token.text, rule, lambda: keys.keys_for(rule), now)
        if isinstance(verdict, TokenRefusal):
            return _RuleOutcome(rule, tuple(held), verdict)
        held.append((token, verdict))
    return _RuleOutcome(rule, tuple(held))


def _reject(outcomes: Sequence[_RuleOutcome], realm: str) -> TokenFailure:
    """Return the failure Envoy would report for these rules (reference 7.4)."""
    tried = [(each.rule, each.refusal) for each in outcomes if each.refusal is not None]
    # "the statuses in order, then that of the first rule that is not missing; the last
    # that is neither missing nor unknown issuer is reported, else unknown issuer."
    in_order = [*tried, tried[0]]
    telling = [each for each in in_order if each[1].status not in _UNSPECIFIC] or tried
    rule, refusal = telling[-1]
    return TokenFailure(
        status=refusal.status,
        http_status=refusal.status.http_status,
        body=refusal.public_text,
        www_authenticate=f'Bearer realm="{realm}", error="invalid_token"',
        detail=refusal.detail,
        origin=rule.origin,
    )


def _realm(scheme: str, host: str, path: str) -> str:
    """Return the realm: the URL asked for, its path cut as Envoy cuts it (RFC 6750 §3)."""
    url = f"{scheme}://{host}{path[:_MAX_REALM_PATH]}"
    # WHY: a quote or a control in the URL must not end the quoted text or the header.
    return "".join(
        char if char.isprintable() and char not in '"\\' else f"%{ord(char):02X}" for char in url
    )


@dataclass(frozen=True, slots=True)
class _Places:
    """Where tokens stood in the request, and the headers that only rules may write."""

    token_headers: tuple[str, ...]
    token_params: tuple[str, ...]
    written: frozenset[str]

    @classmethod
    def of(cls, found: Sequence[Sequence[FoundToken]], written: frozenset[str]) -> _Places:
        """Return the places of every token that any rule found."""
        names: set[str] = set()
        params: set[str] = set()
        for token in (token for tokens in found for token in tokens):
            if token.place is TokenPlace.PARAM:
                params.add(token.name)
            else:
                names.add("cookie" if token.place is TokenPlace.COOKIE else token.name)
        return cls(tuple(sorted(names)), tuple(sorted(params)), written)

    def without_identity(self) -> Authentication:
        """Return the outcome of a request that carried no token."""
        return Authentication(
            remove_request_headers=tuple(sorted(self.written)),
            token_headers=self.token_headers,
            token_params=self.token_params,
            owned_headers=self.written,
        )

    def rejected(self, failure: TokenFailure) -> Authentication:
        """Return the outcome of a request with a token that is not believed."""
        return Authentication(
            failure=failure,
            remove_request_headers=tuple(sorted(self.written)),
            token_headers=self.token_headers,
            token_params=self.token_params,
            owned_headers=self.written,
        )

    def with_identity(self, outcomes: Sequence[_RuleOutcome]) -> Authentication:
        """Return the outcome of a request whose tokens the last of these rules verified."""
        # WHY of rules that failed as well: Envoy takes a token away and writes what it says as
        # soon as it holds, whatever becomes of another one at the places of the same rule.
        held = [(each.rule, *pair) for each in outcomes for pair in each.held]
        written = [pair for rule, _, token in held for pair in output_headers(token, rule)]
        taken = {
            (each.place, each.name) for rule, each, _ in held if not rule.forward_original_token
        }
        # INVARIANT: what is set is not removed as well, for Envoy removes last.
        removed = {name for place, name in taken if place is TokenPlace.HEADER} | self.written
        rule, _, token = held[-1]
        return Authentication(
            claims=verified_claims(token, rule),
            set_request_headers=tuple(written),
            remove_request_headers=tuple(sorted(removed - {name for name, _ in written})),
            remove_query_parameters=tuple(
                sorted(name for place, name in taken if place is TokenPlace.PARAM)
            ),
            token_headers=self.token_headers,
            token_params=self.token_params,
            owned_headers=self.written,
        )
