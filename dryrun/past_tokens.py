"""The tokens of a recorded request under rules that may be others than then.

Theory of operation. Tokens are never recorded, what they proved is. Under the same rules, and
where the rule that believed the token stayed and no other could find one, that still holds; what
the verification does to headers is then worked out anew, since other rules own other headers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final
from urllib.parse import unquote

from dryrun.past import NotReplayable, Past
from identity.jwt_rule import JwtRule
from identity.token_outputs import output_header_names
from policies.decision import Decision, Effect, Layer, Reason
from policies.snapshot import WorkloadPolicies

_AUTHORIZATION: Final = "authorization"
_COOKIE: Final = "cookie"
# RFC 6750 section 2.3 names the parameter; Envoy looks there where nothing else is said.
_PARAMETER: Final = "access_token"
_NONE, _REFUSED = "none", "refused"

Place = tuple[str, str, str]
"""Where a token is looked for: the kind of place, its name, and the prefix in a header."""


def with_token(past: Past, policies: WorkloadPolicies) -> tuple[Past, Decision | None]:
    """Return a past request as it comes to the policies, and the refusal of its token.

    Raises:
        NotReplayable: the rules for tokens changed, and what they say of this one is not known.
    """
    if past.token_rules == policies.token_digest:
        return past, _refusal(past) if past.token == _REFUSED else None
    rules = policies.jwt_rules
    if past.is_token_moved:
        raise NotReplayable("the rules for tokens changed, and a provider changed the token")
    if not rules:
        # "No rules, no processing": tokens are neither believed nor refused.
        bare = replace(past, request=replace(past.request, claims=None), has_claims_of_then=False)
        return _rewritten(bare, (), None), None
    if past.token == _NONE and not _could_hold_token(past, map(_places, rules)):
        return _rewritten(past, rules, None), None
    believed = _still_believed(past, policies)
    if believed is None:
        raise NotReplayable("the rules for tokens changed, and tokens are not recorded")
    return _rewritten(past, rules, believed), None


def carriers(rules: Iterable[JwtRule]) -> frozenset[str]:
    """Return the names of every header, parameter and cookie in which tokens are looked for."""
    places = (place for rule in rules for place in _places(rule))
    return frozenset(_COOKIE if kind == _COOKIE else name for kind, name, _ in places)


def _still_believed(past: Past, policies: WorkloadPolicies) -> JwtRule | None:
    """Return the rule that believed the token, where it stands and believes it first again."""
    issuer = past.request.claims.issuer if past.request.claims else None
    if not past.token_rule or policies.issuer_digests.get(issuer or "") != past.token_rule:
        return None
    believing = next(rule for rule in policies.jwt_rules if rule.issuer == issuer)
    own = _places(believing)
    # "The first OK lets the request continue", in the order of issuers: what stands at the
    # rule's own places is of its issuer, and any other rule refuses it.
    earlier = (rule for rule in policies.jwt_rules if rule.issuer < believing.issuer)
    elsewhere = (_places(rule) - own for rule in earlier)
    return None if _could_hold_token(past, elsewhere) else believing


def _places(rule: JwtRule) -> frozenset[Place]:
    places = {("header", each.name.lower(), each.prefix) for each in rule.from_headers}
    places |= {("param", name, "") for name in rule.from_params}
    places |= {(_COOKIE, name, "") for name in rule.from_cookies}
    usual = {("header", _AUTHORIZATION, "Bearer "), ("param", _PARAMETER, "")}
    return frozenset(places or usual)


def _could_hold_token(past: Past, places: Iterable[frozenset[Place]]) -> bool:
    """Whether the request may have carried a token at one of these places."""
    names = past.request.headers.keys() | past.hidden.headers
    query = unquote(past.request.path.partition("?")[2])
    for kind, name, _ in (place for each in places for place in each):
        if kind == "param" and f"{name}=" in query:
            return True
        if kind != "param" and (_COOKIE if kind == _COOKIE else name) in names:
            return True
    return False


def _rewritten(past: Past, rules: Iterable[JwtRule], believed: JwtRule | None) -> Past:
    """Return a past request with the headers that these rules leave to DENY and ALLOW policies.

    `believed` is the rule that believed the token, as it did then.
    """
    owned = output_header_names(rules)
    claims = past.request.claims
    if past.asked and past.changed:
        # What a provider changed cannot be told from what the verification did.
        unknown = past.hidden.rules_headers | past.changed | owned
        hidden = replace(past.hidden, rules_headers=unknown)
        return replace(past, seen=replace(past.seen, claims=claims), hidden=hidden)
    written = frozenset[str]() if believed is None else output_header_names([believed])
    # A token that is not passed on was taken from where its rule found it.
    taken = frozenset[str]() if believed is None else past.gone & carriers([believed])
    lost = (owned | taken) - written
    kept = {
        name: values
        for name, values in past.request.headers.items()
        if name not in lost and name not in written
    }
    kept |= {name: past.seen.headers[name] for name in written if name in past.seen.headers}
    unknown = (past.hidden.headers - lost - written) | (past.hidden.rules_headers & written)
    return replace(
        past,
        seen=replace(past.request, headers=kept),
        hidden=replace(past.hidden, rules_headers=unknown),
    )


def _refusal(past: Past) -> Decision:
    return Decision(
        effect=Effect.DENY,
        reason=Reason.TOKEN_INVALID,
        layer=Layer.REQUEST_AUTHENTICATION,
        detail="the token was refused then",
        http_status=past.http_status,
    )
