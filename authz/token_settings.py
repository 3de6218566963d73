"""`identity.jwks`, `identity.introspection`, `identity.tokenMemory`: how tokens are believed."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from authz.section import Section
from identity.address_guard import AddressRules
from identity.key_source import RefreshTimes
from identity.token_memory import TokenMemory


class JwksSettings(Section):
    """Where the keys of token issuers may be fetched from, and how often they are."""

    allow_loopback: bool = Field(
        default=False,
        description="Whether issuers may stand on loopback addresses. Link-local addresses and the "
        "metadata services of clouds are refused whatever is set here.",
    )
    allow_private: bool = Field(
        default=True,
        description="Whether issuers may stand on private addresses (RFC 1918, 4193, 6598).",
    )
    refused_networks: tuple[IPv4Network | IPv6Network, ...] = Field(
        default=(), description="More networks that nothing is fetched from, in CIDR notation."
    )
    refresh_seconds: float = Field(
        default=1200,
        ge=1,
        description="Longest pause after a good fetch. A shorter `max-age` of the issuer counts, "
        "but not below `floorSeconds`.",
    )
    floor_seconds: float = Field(
        default=30,
        ge=1,
        description="Shortest time between two fetches that tokens with unknown keys begin.",
    )
    wait_seconds: float = Field(
        default=0.1,
        ge=0,
        le=5,
        description="How long a request may wait for the fetch that its unknown key began; "
        "0: it is refused at once, and the next one profits.",
    )
    retry_seconds: float = Field(
        default=1, ge=0.1, description="Pause after a failed fetch; it doubles with each failure."
    )
    last_retry_seconds: float = Field(
        default=60, ge=0.1, description="Where that pause ends doubling."
    )
    max_age_seconds: float = Field(
        default=604800,
        ge=1,
        description="How old the last good keys may grow while no fetch succeeds; after that every "
        "token of their issuer is refused.",
    )

    def to_address_rules(self) -> AddressRules:
        """Return where documents may be fetched from."""
        return AddressRules(
            allow_loopback=self.allow_loopback,
            allow_private=self.allow_private,
            refused=self.refused_networks,
        )

    def to_refresh_times(self) -> RefreshTimes:
        """Return how often keys are fetched."""
        return RefreshTimes(
            refresh_seconds=self.refresh_seconds,
            first_retry_seconds=self.retry_seconds,
            last_retry_seconds=max(self.retry_seconds, self.last_retry_seconds),
            early_floor_seconds=self.floor_seconds,
            max_age_seconds=self.max_age_seconds,
            wait_seconds=self.wait_seconds,
        )


class IntrospectionSettings(Section):
    """An issuer of opaque tokens, which is asked about each (RFC 7662)."""

    issuer: str = Field(
        min_length=1,
        description="The `issuer` of the RequestAuthentication rules whose opaque tokens it knows.",
    )
    endpoint: str = Field(
        description="URL of the introspection endpoint. Plain `http` only on loopback."
    )
    client_id: str = Field(min_length=1, description="Who we are to the endpoint.")
    client_secret_file: Path | None = Field(
        default=None, description="File with the client secret; a line break at its end is cut."
    )
    client_secret_env: str = Field(
        default="", description="Environment variable with the client secret, instead of a file."
    )
    auth_method: Literal["client_secret_basic", "client_secret_post"] = Field(
        default="client_secret_basic", description="How the secret is sent (RFC 6749 §2.3.1)."
    )
    timeout_seconds: float = Field(
        default=1, gt=0, le=30, description="How long a request may wait for an answer."
    )
    cache_seconds: float = Field(
        default=60,
        ge=0,
        le=3600,
        description="How long an `active` answer is believed, never past the token's `exp`. A "
        "revocation counts after this time.",
    )
    refusal_cache_seconds: float = Field(
        default=5, ge=0, le=60, description="How long an answer that is not `active` is believed."
    )

    @field_validator("endpoint")
    @classmethod
    def _check_endpoint(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be an `https` URL")
        # RFC 7662 §4: "the protected resource MUST use TLS".
        if parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "::1", "localhost"):
            raise ValueError("must be an `https` URL: tokens and the secret are sent to it")
        return value

    @model_validator(mode="after")
    def _check_secret(self) -> IntrospectionSettings:
        if (self.client_secret_file is None) == (not self.client_secret_env):
            raise ValueError("takes one of `clientSecretFile` and `clientSecretEnv`")
        return self


class TokenMemorySettings(Section):
    """Verified tokens are remembered by their digest, so that a signature is checked once."""

    max_tokens: int = Field(
        default=10_000, ge=0, description="How many are remembered at most; 0: none."
    )
    max_bytes: int = Field(
        default=16 * 1024 * 1024, ge=0, description="How long all of them may be together."
    )
    max_age_seconds: float = Field(
        default=3600,
        ge=0,
        description="When a remembered token is verified anew, though it has not expired. Changed "
        "keys and the token's own times count at once.",
    )

    def to_memory(self) -> TokenMemory:
        """Return an empty memory of this size."""
        return TokenMemory(
            max_tokens=self.max_tokens,
            max_bytes=self.max_bytes,
            max_age_seconds=self.max_age_seconds,
        )
