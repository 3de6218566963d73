"""Reads RequestAuthentication into the rules that `identity` verifies tokens by."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from identity.errors import KeySourceError
from identity.jwks import parse_jwk_set
from identity.jwt_rule import ClaimHeader, JwtRule, RuleOrigin, TokenHeader
from policies.diagnostic import shown
from policies.dry_run_annotation import refuse_dry_run
from policies.fields import Fields, suggestion
from policies.load_metadata import read_attachment
from policies.model import Metadata, RequestAuthentication

_RULE_FIELDS = (
    "issuer", "audiences", "jwksUri", "jwks_uri", "jwks", "fromHeaders", "fromParams",
    "fromCookies", "outputPayloadToHeader", "outputClaimToHeaders", "forwardOriginalToken",
    "spaceDelimitedClaims", "timeout", "presence",
)  # fmt: skip
_SPEC_FIELDS = ("selector", "targetRef", "targetRefs", "jwtRules", "presence")
# Go's time.ParseDuration, by which Istio reads durations: `1h30m`, `1.5s`, `250ms`.
_UNITS = {"h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1, "us": 1e-3, "\u00b5s": 1e-3, "ns": 1e-6}
_PART = r"([0-9]{1,15}(?:\.[0-9]{0,15})?|\.[0-9]{1,15})(h|ms|m|s|us|\u00b5s|ns)"
_DURATION = re.compile(f"(?:{_PART})+", re.ASCII)
_HEADER_NAME = re.compile(r"[-_A-Za-z0-9]+", re.ASCII)
_DEFAULT_TIMEOUT = 5.0
# "maxLength", "maxItems" of the CRD.
_URI_MAX = 2048
_CLAIMS_MAX = 64
# RFC 7518 section 6: what of a key must stay with its owner.
_PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


def read_request_authentication(fields: Fields, metadata: Metadata) -> RequestAuthentication:
    """Return the resource; what is wrong with it is in the findings."""
    refuse_dry_run(fields, metadata, "RequestAuthentication")
    spec = fields.child("spec", _SPEC_FIELDS)
    if spec is not None:
        _check_presence(spec)
    rules = spec.children("jwtRules", _RULE_FIELDS) if spec else ()
    return RequestAuthentication(
        metadata=metadata,
        attachment=read_attachment(spec),
        jwt_rules=tuple(_read_rule(rule, metadata) for rule in rules),
    )


def _check_presence(fields: Fields) -> None:
    if not fields.has("presence"):
        return
    presence = fields.text("presence", "OPTIONAL")
    if presence not in ("OPTIONAL", "REQUIRED"):
        fields.error(
            "unknown-presence", f"unknown presence `{shown(presence)}`", "presence",
            suggestion(presence.upper(), ("OPTIONAL", "REQUIRED")),
        )  # fmt: skip
    elif presence == "REQUIRED":
        fields.warning(
            "presence-ignored", "`REQUIRED` has no effect: requests without a token pass",
            "presence", "add a DENY policy with `notRequestPrincipals: ['*']`",
        )  # fmt: skip


def _read_rule(rule: Fields, metadata: Metadata) -> JwtRule:
    uri_key = "jwks_uri" if rule.has("jwks_uri") and not rule.has("jwksUri") else "jwksUri"
    issuer, jwks, jwks_uri = rule.text("issuer"), rule.text("jwks"), rule.text(uri_key)
    _check_presence(rule)
    if rule.misses("issuer") and rule.lacks(uri_key):
        rule.error(
            "no-issuer", f"`{rule.path}` has neither `issuer` nor `jwksUri`",
            help_="write the `iss` of the tokens, or where their keys are",
        )  # fmt: skip
    elif rule.has("issuer") and rule.lacks("issuer"):
        rule.error(
            "empty-value", f"`{rule.at('issuer')}` is empty", "issuer",
            "leave it out to take any issuer",
        )  # fmt: skip
    if jwks and jwks_uri:
        rule.error(
            "two-key-sources", f"`{rule.at('jwks')}` stands beside `jwksUri`", "jwks", "keep one"
        )
    _check_uri(rule, uri_key, jwks_uri)
    _check_jwks(rule, jwks)
    return JwtRule(
        issuer=issuer,
        audiences=rule.texts("audiences"),
        jwks_uri=jwks_uri,
        jwks=jwks,
        from_headers=tuple(_read_headers(rule)),
        from_params=rule.texts("fromParams"),
        from_cookies=rule.texts("fromCookies"),
        forward_original_token=rule.boolean("forwardOriginalToken"),
        output_payload_to_header=_read_payload_header(rule),
        output_claim_to_headers=tuple(_read_claim_headers(rule)),
        space_delimited_claims=_read_split_claims(rule),
        timeout_seconds=_read_timeout(rule),
        origin=RuleOrigin(
            namespace=metadata.namespace,
            name=metadata.name,
            file=rule.node.location.file,
            line=rule.node.location.line,
            column=rule.node.location.column,
        ),
    )


def _check_uri(rule: Fields, key: str, uri: str) -> None:
    if not uri:
        return
    if len(uri) > _URI_MAX:
        rule.error(
            "bad-uri", f"the URL is longer than {_URI_MAX} characters", key, "write it shorter"
        )
        return
    try:
        parts = urlsplit(uri)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
        _ = parts.port
    except ValueError:
        usable = False
    if not usable:
        rule.error(
            "bad-uri", f"`{shown(uri)}` is not an http(s) URL", key,
            "write it like `https://issuer.example/keys`",
        )  # fmt: skip


def _check_jwks(rule: Fields, jwks: str) -> None:
    if not jwks:
        return
    try:
        keys = json.loads(jwks).get("keys")
    except (ValueError, AttributeError, RecursionError):
        keys = None
    if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
        rule.error(
            "bad-jwks", f"`{rule.at('jwks')}` is not a JWK set", "jwks",
            "a JSON object with a list `keys` (RFC 7517 section 5)",
        )  # fmt: skip
        return
    try:
        notes = parse_jwk_set(jwks, is_inline=True).notes
    except KeySourceError as exc:
        rule.error(
            "bad-jwks", f"`{rule.at('jwks')}` cannot be used: {exc}", "jwks",
            "give the issuer's own set, or its `jwksUri`",
        )  # fmt: skip
        return
    if any(_PRIVATE_MEMBERS & key.keys() for key in keys):
        rule.warning(
            "private-jwks", f"`{rule.at('jwks')}` holds private or shared key material", "jwks",
            "publish public keys only",
        )  # fmt: skip
    elif notes:
        rule.warning(
            "unusable-key", f"`{rule.at('jwks')}`: {shown(notes[0])}", "jwks",
            "no token that it signed is accepted",
        )  # fmt: skip


def _read_headers(rule: Fields) -> Iterator[TokenHeader]:
    for entry in rule.children("fromHeaders", ("name", "prefix")):
        name = entry.text("name")
        if entry.misses("name"):
            entry.error("empty-value", f"`{entry.at('name')}` is empty", "name", "name the header")
        # "`host` is an alias of `:authority`" in Envoy's header map: the filter finds it there.
        name = ":authority" if name.lower() == "host" else name
        yield TokenHeader(name, entry.text("prefix"))


def _read_payload_header(rule: Fields) -> str:
    header = rule.text("outputPayloadToHeader")
    if header and not _HEADER_NAME.fullmatch(header):
        rule.error(
            "bad-header", f"`{shown(header)}` is not a header name", "outputPayloadToHeader",
            "letters, digits, `-` and `_`",
        )  # fmt: skip
    return header


def _read_claim_headers(rule: Fields) -> Iterator[ClaimHeader]:
    for entry in rule.children("outputClaimToHeaders", ("header", "claim")):
        header, claim = entry.text("header"), entry.text("claim")
        for key in ("claim", "header"):
            if entry.misses(key):
                entry.error(
                    "bad-claim-header", f"`{entry.at(key)}` is missing", key,
                    "an entry has a `claim` and the `header` that it goes to",
                )  # fmt: skip
        if header and not _HEADER_NAME.fullmatch(header):
            entry.error(
                "bad-claim-header",
                f"`{entry.at('header')}` cannot be `{shown(header)}`: not a header name", "header",
                "letters, digits, `-` and `_`",
            )  # fmt: skip
        yield ClaimHeader(header, claim)


def _read_split_claims(rule: Fields) -> tuple[str, ...]:
    claims = rule.texts("spaceDelimitedClaims")
    if len(claims) > _CLAIMS_MAX:
        rule.error(
            "too-many", f"more than {_CLAIMS_MAX} claims", "spaceDelimitedClaims",
            "split the rule",
        )  # fmt: skip
    return claims


def _read_timeout(rule: Fields) -> float:
    if not rule.has("timeout"):
        return _DEFAULT_TIMEOUT
    text = rule.text("timeout", "-")
    millis = 0.0
    if _DURATION.fullmatch(text):
        millis = sum(float(number) * _UNITS[unit] for number, unit in re.findall(_PART, text))
    # "must be a valid duration greater than 1ms" and whole milliseconds.
    if millis < 1 or abs(millis - round(millis)) > 1e-9 * millis:
        if text != "-":
            rule.error(
                "bad-duration", f"`{shown(text)}` is not a duration of whole milliseconds",
                "timeout", "write it like `5s` or `250ms`, at least `1ms`",
            )  # fmt: skip
        return _DEFAULT_TIMEOUT
    return millis / 1000
