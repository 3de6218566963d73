"""The `records` and `clusters` blocks of the CA's configuration: ledger, audit chain, limits."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

_SECONDS_PER_DAY = 86_400


class _Settings(BaseModel):
    """What every settings block has in common: unknown keys refused, values frozen."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True
    )


class CaRecordSettings(_Settings):
    """Where the CA keeps its records, and what it publishes of them."""

    ledger_url: str = Field(
        default="",
        description=(
            "Database of the ledger: `sqlite:////absolute/path` or `postgresql://host/database`, "
            "which several replicas may share; empty: `ledger.db` in the state folder. Keep a "
            "password in PostgreSQL's own password file, not here."
        ),
    )
    audit_folder: Path | None = Field(
        default=None,
        description=(
            "Folder of the CA's audit chain, `audit` in the state folder where it is not given. "
            "Each replica has one of its own."
        ),
    )
    node_name: str = Field(
        default="ca", max_length=128, description="Name of this replica in every record."
    )
    max_svid_lifetime_seconds: int = Field(
        default=_SECONDS_PER_DAY,
        ge=2,
        le=90 * _SECONDS_PER_DAY,
        description="The longest lifetime that a caller may ask for; more is refused, not cut.",
    )
    keep_expired_days: int = Field(
        default=0,
        ge=0,
        le=36_500,
        description=(
            "How long the ledger keeps rows of certificates and tokens that have ended; older ones "
            "are removed, their lines stay on the audit chain. 0: for ever."
        ),
    )
    deny_list_file: Path | None = Field(
        default=None,
        description=(
            "Where the deny list for authorizers is published, `published/deny-list.json` in the "
            "state folder where it is not given."
        ),
    )
    crl_file: Path | None = Field(
        default=None,
        description=(
            "Where the revocation list (CRL, PEM) of each authority is published, "
            "`published/crl.pem` in the state folder where it is not given."
        ),
    )

    def kept_since(self, now: datetime) -> datetime | None:
        """Return since when what ended is still kept, None for ever."""
        days = self.keep_expired_days
        return now - timedelta(days=days) if days else None

    def ledger_url_in(self, state_folder: Path) -> str:
        """Return the URL of the ledger of a state folder."""
        return self.ledger_url or f"sqlite:///{state_folder / 'ledger.db'}"

    def audit_folder_in(self, state_folder: Path) -> Path:
        """Return the folder of the audit chain of a state folder."""
        return self.audit_folder or state_folder / "audit"

    def deny_list_in(self, state_folder: Path) -> Path:
        """Return where the deny list of a state folder is published."""
        return self.deny_list_file or state_folder / "published" / "deny-list.json"

    def crl_in(self, state_folder: Path) -> Path:
        """Return where the revocation lists of a state folder are published."""
        return self.crl_file or state_folder / "published" / "crl.pem"

    def resolved(self, folder: Path) -> CaRecordSettings:
        """Return the same settings with relative paths taken from `folder`."""
        paths = {
            name: None if (path := getattr(self, name)) is None else folder / path
            for name in ("audit_folder", "deny_list_file", "crl_file")
        }
        return self.model_copy(update=paths)


class CaLimitSettings(_Settings):
    """What one caller may ask for, so that no other has to wait for it."""

    requests_per_second: float = Field(
        default=100,
        ge=0,
        description=(
            "Certificates and tokens that one caller (pod, SPIFFE ID, local user) may ask "
            "for, for ever; more is refused as `rate_limited`. 0: no limit."
        ),
    )
    burst: int = Field(
        default=500, ge=1, description="How many of them may come at once, after a pause."
    )
    refusals_recorded_per_minute: int = Field(
        default=60,
        ge=0,
        description=(
            "Refusals of one caller that get a line each on the audit chain; of more, one line a "
            "minute says how many. 0: every one gets its line."
        ),
    )
    repeat_seconds: float = Field(
        default=10,
        ge=0,
        le=60,
        description=(
            "How long the same request with the same credentials gets the same certificate, for "
            "callers whose answer was lost. 0: never."
        ),
    )


class CaCluster(_Settings):
    """A Kubernetes cluster whose service-account tokens are believed."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9._-]{1,253}$", description="Name in selectors: `k8s:cluster:<name>`."
    )
    issuer: str = Field(
        min_length=1, description="The cluster's `--service-account-issuer`, to the letter."
    )
    audiences: tuple[str, ...] = Field(
        min_length=1,
        description="Audiences that mean this CA; a token for nobody or others is refused.",
    )
    jwks_uri: str = Field(
        default="", description="Where the issuer's keys are; empty: OpenID discovery at `issuer`."
    )
    jwks_file: Path | None = Field(
        default=None, description="A file with the issuer's keys (a JWK set), instead of fetching."
    )

    @model_validator(mode="after")
    def _check_one_source(self) -> Self:
        """Refuse two places for the keys."""
        if self.jwks_uri and self.jwks_file is not None:
            raise ValueError("jwksUri and jwksFile exclude each other")
        return self

    def resolved(self, folder: Path) -> CaCluster:
        """Return the same settings with relative paths taken from `folder`."""
        path = None if self.jwks_file is None else folder / self.jwks_file
        return self.model_copy(update={"jwks_file": path})
