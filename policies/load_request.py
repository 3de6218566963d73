"""Reads RequestAuthentication into the rules that `identity` verifies tokens by."""

from __future__ import annotations

import json
import re
from urllib.parse import urlsplit

from identity.jwt_rule import ClaimHeader, JwtRule, RuleOrigin, TokenHeader
from policies.dry_run_annotation import refuse_dry_run
from policies.fields import Fields, Findings
from policies.load_metadata import read_attachment
from policies.model import Metadata, RequestAuthentication

_RULE_FIELDS = (
    "issuer", "audiences", "jwksUri", "jwks_uri", "jwks", "fromHeaders", "fromParams",
    "fromCookies", "outputPayloadToHeader", "outputClaimToHeaders", "forwardOriginalToken",
    "spaceDelimitedClaims", "timeout",
)  # fmt: skip
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?(?:(\d+)ms)?", re.ASCII)
_HEADER_NAME = re.compile(r"[-_A-Za-z0-9]+", re.ASCII)
_DEFAULT_TIMEOUT = 5.0


def read_request_authentication(
    fields: Fields, metadata: Metadata, findings: Findings
) -> RequestAuthentication:
    """Return the resource; what is wrong with it is in `findings`."""
    refuse_dry_run(metadata, "RequestAuthentication", findings)
    spec = fields.child("spec", ("selector", "targetRef", "targetRefs", "jwtRules"))
    rules = spec.children("jwtRules", _RULE_FIELDS) if spec else ()
    return RequestAuthentication(
        metadata=metadata,
        attachment=read_attachment(spec, findings),
        jwt_rules=tuple(_read_rule(rule, metadata, findings) for rule in rules),
    )


def _read_rule(rule: Fields, metadata: Metadata, findings: Findings) -> JwtRule:
    jwks_uri = rule.text("jwksUri") or rule.text("jwks_uri")
    issuer, jwks = rule.text("issuer"), rule.text("jwks")
    if not issuer and not jwks_uri:
        findings.error(
            "no-issuer", f"`{rule.path}` has neither `issuer` nor `jwksUri`", rule.node.location
        )
    if jwks and jwks_uri:
        findings.error(
            "two-key-sources", f"`{rule.path}` has both `jwks` and `jwksUri`", rule.place("jwks")
        )
    _check_uri(rule, jwks_uri, findings)
    _check_jwks(rule, jwks, findings)
    return JwtRule(
        issuer=issuer,
        audiences=rule.texts("audiences"),
        jwks_uri=jwks_uri,
        jwks=jwks,
        from_headers=_read_headers(rule, findings),
        from_params=rule.texts("fromParams"),
        from_cookies=rule.texts("fromCookies"),
        forward_original_token=rule.boolean("forwardOriginalToken"),
        output_payload_to_header=_read_payload_header(rule, findings),
        output_claim_to_headers=_read_claim_headers(rule, findings),
        space_delimited_claims=rule.texts("spaceDelimitedClaims"),
        timeout_seconds=_read_timeout(rule, findings),
        origin=RuleOrigin(
            namespace=metadata.namespace,
            name=metadata.name,
            file=rule.node.location.file,
            line=rule.node.location.line,
        ),
    )


def _check_uri(rule: Fields, uri: str, findings: Findings) -> None:
    if not uri:
        return
    try:
        parts = urlsplit(uri)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
        _ = parts.port
    except ValueError:
        usable = False
    if not usable:
        findings.error("bad-uri", f"`{uri}` is not an http(s) URL", rule.place("jwksUri"))


def _check_jwks(rule: Fields, jwks: str, findings: Findings) -> None:
    if not jwks:
        return
    try:
        keys = json.loads(jwks).get("keys")
    except (ValueError, AttributeError, RecursionError):
        keys = None
    if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
        findings.error(
            "bad-jwks", f"`{rule.at('jwks')}` is not a JWK set", rule.place("jwks"),
            'a JSON object with a list `keys` (RFC 7517 section 5)',
        )  # fmt: skip
    elif any("d" in key or "k" in key for key in keys):
        findings.warning(
            "private-jwks", f"`{rule.at('jwks')}` holds private or shared key material",
            rule.place("jwks"), "publish public keys only",
        )  # fmt: skip


def _read_headers(rule: Fields, findings: Findings) -> tuple[TokenHeader, ...]:
    found = []
    for entry in rule.children("fromHeaders", ("name", "prefix")):
        name = entry.text("name")
        if not name:
            findings.error("empty-value", f"`{entry.at('name')}` is empty", entry.node.location)
        found.append(TokenHeader(name, entry.text("prefix")))
    return tuple(found)


def _read_payload_header(rule: Fields, findings: Findings) -> str:
    header = rule.text("outputPayloadToHeader")
    if header and not _HEADER_NAME.fullmatch(header):
        findings.error(
            "bad-header", f"`{header}` is not a header name", rule.place("outputPayloadToHeader")
        )
    return header


def _read_claim_headers(rule: Fields, findings: Findings) -> tuple[ClaimHeader, ...]:
    found = []
    for entry in rule.children("outputClaimToHeaders", ("header", "claim")):
        header, claim = entry.text("header"), entry.text("claim")
        if not claim or not _HEADER_NAME.fullmatch(header):
            findings.error(
                "bad-claim-header", f"`{entry.path}` needs a `claim` and a valid `header` name",
                entry.node.location,
            )  # fmt: skip
        found.append(ClaimHeader(header, claim))
    return tuple(found)


def _read_timeout(rule: Fields, findings: Findings) -> float:
    text = rule.text("timeout")
    if not text:
        return _DEFAULT_TIMEOUT
    match = _DURATION.fullmatch(text)
    hours, minutes, seconds, millis = match.groups(default="0") if match else ("0",) * 4
    total = int(hours) * 3600 + int(minutes) * 60 + float(seconds) + int(millis) / 1000
    if total < 0.001:
        findings.error(
            "bad-duration", f"`{text}` is not a duration of at least 1ms", rule.place("timeout"),
            "write it like `5s` or `250ms`",
        )  # fmt: skip
        return _DEFAULT_TIMEOUT
    return total
