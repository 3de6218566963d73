"""The blocks of the CA's configuration that open ways to reach it beside SDS."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

_SECONDS_PER_HOUR: Final = 3600


class _Settings(BaseModel):
    """What every settings block has in common: unknown keys refused, values frozen."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True
    )


class WorkloadApiSettings(_Settings):
    """The SPIFFE Workload API: one socket for every process of this machine."""

    socket: Path = Field(
        description=(
            "Path of the Unix socket, mode 0666: the kernel says who calls, registration entries "
            "with `unix:` selectors say what they get. Workloads find it by "
            "`SPIFFE_ENDPOINT_SOCKET=unix://<path>`."
        )
    )
    jwt_svid_lifetime_seconds: int = Field(
        default=300,
        ge=30,
        le=24 * _SECONDS_PER_HOUR,
        description=(
            "Lifetime of a JWT-SVID; that of its registration entry, of a certificate or of the "
            "authority bounds it where it is shorter."
        ),
    )

    def resolved(self, folder: Path) -> WorkloadApiSettings:
        """Return the same settings with relative paths taken from `folder`."""
        return self.model_copy(update={"socket": folder / self.socket})
