"""One rule of a RequestAuthentication: which tokens are looked for and believed.

Values only. The YAML is read in `policies`, the verdict is given in
`identity.request_authentication`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TokenHeader:
    """A header that may carry a token; `prefix` is looked for anywhere in it."""

    name: str
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class ClaimHeader:
    """A claim (dotted path) that is passed upstream as a header."""

    header: str
    claim: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleOrigin:
    """Where a rule stands: the RequestAuthentication that holds it, file, line and column."""

    namespace: str
    name: str
    file: str = ""
    line: int = 0
    column: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtRule:
    """A `jwtRules` entry of `security.istio.io` RequestAuthentication.

    `jwks` is the inline key set's JSON text and wins over `jwks_uri`; with
    neither, the keys come from OpenID discovery at the issuer.
    `origin` is None for a rule that no file holds.
    """

    issuer: str = ""
    audiences: tuple[str, ...] = ()
    jwks_uri: str = ""
    jwks: str = ""
    from_headers: tuple[TokenHeader, ...] = ()
    from_params: tuple[str, ...] = ()
    from_cookies: tuple[str, ...] = ()
    forward_original_token: bool = False
    output_payload_to_header: str = ""
    output_claim_to_headers: tuple[ClaimHeader, ...] = ()
    space_delimited_claims: tuple[str, ...] = ()
    timeout_seconds: float = 5.0
    origin: RuleOrigin | None = None
