"""`identity`: how it is found out who is asking."""

from __future__ import annotations

from pydantic import Field, field_validator

from authz.section import Section
from authz.token_settings import IntrospectionSettings, JwksSettings, TokenMemorySettings


class IdentitySettings(Section):
    """How tokens are believed."""

    jwks: JwksSettings = Field(
        default_factory=JwksSettings, description="The verification keys of token issuers."
    )
    introspection: tuple[IntrospectionSettings, ...] = Field(
        default=(), description="Issuers of opaque tokens, each asked by OAuth 2.0 introspection."
    )
    token_memory: TokenMemorySettings = Field(
        default_factory=TokenMemorySettings, description="What is remembered of verified tokens."
    )

    @field_validator("introspection")
    @classmethod
    def _check_issuers(
        cls, value: tuple[IntrospectionSettings, ...]
    ) -> tuple[IntrospectionSettings, ...]:
        issuers = [each.issuer for each in value]
        twin = next((issuer for issuer in issuers if issuers.count(issuer) > 1), None)
        if twin is not None:
            raise ValueError(f"the issuer `{twin}` stands there twice")
        return value
