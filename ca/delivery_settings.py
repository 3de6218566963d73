"""The blocks of the CA's configuration that open ways to reach it beside SDS."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final, Self, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

_SECONDS_PER_HOUR: Final = 3600
_LAST_PORT: Final = 65_535
_MAX_DNS_NAME: Final = 253
_DNS_NAME: Final = re.compile(
    r"(?!-)[a-z0-9-]{1,63}(?<!-)(\.(?!-)[a-z0-9-]{1,63}(?<!-))*", re.ASCII
)
_HOST_AND_PORT: Final = re.compile(r"(?:\[[0-9a-fA-F:.]+\]|[^:\s]+):([0-9]{1,5})", re.ASCII)


def _checked_host_and_port(text: str) -> str:
    """Return `text`, an address and a port to listen on."""
    match = _HOST_AND_PORT.fullmatch(text)
    if match is None or int(match[1]) > _LAST_PORT:
        raise ValueError("must be `host:port`, IPv6 in brackets")
    return text


def checked_dns_name(text: str) -> str:
    """Return `text`, a lower-case host name without wildcard; the error is ValueError."""
    if len(text) > _MAX_DNS_NAME or not _DNS_NAME.fullmatch(text):
        raise ValueError(f"`{text}` is not a lower-case DNS name")
    return text


DnsName: TypeAlias = Annotated[str, AfterValidator(checked_dns_name)]
"""A lower-case host name without wildcard."""

ListenText: TypeAlias = Annotated[str, AfterValidator(_checked_host_and_port)]
"""An address and a port to listen on, `host:port`."""


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


class BundleEndpointSettings(_Settings):
    """The SPIFFE bundle endpoint, profile `https_web`, for other trust domains."""

    listen: ListenText = Field(
        description="Address of the endpoint, `host:port`; the bundle is at `/` and `/bundle.json`."
    )
    certificate_file: Path = Field(
        description=(
            "Certificate chain (PEM) that the endpoint shows, of a CA that the public trusts; read "
            "anew when it changes."
        )
    )
    key_file: Path = Field(description="Its private key (PEM), not encrypted.")
    refresh_hint_seconds: int = Field(
        default=300,
        ge=1,
        le=24 * _SECONDS_PER_HOUR,
        description="How often clients are asked to fetch the bundle (`spiffe_refresh_hint`).",
    )

    def resolved(self, folder: Path) -> BundleEndpointSettings:
        """Return the same settings with relative paths taken from `folder`."""
        files = {name: folder / getattr(self, name) for name in ("certificate_file", "key_file")}
        return self.model_copy(update=files)


class SigningSettings(_Settings):
    """Where CSRs are signed over the network, under TLS with a certificate of this CA.

    Callers show a Kubernetes service-account token (see `clusters`), a join token, or a
    certificate of this CA that they renew; registration entries say what they get.
    """

    istio_listen: ListenText | None = Field(
        default=None,
        description=(
            "Address of `istio.v1.auth.IstioCertificateService`, `host:port`: istio-agent's and "
            "ztunnel's `CA_ADDRESS`. Unset: none."
        ),
    )
    workers: int = Field(
        default=1,
        ge=1,
        le=256,
        description=(
            "Processes that sign for `istioListen`, all on its port: as many as there are cores "
            "to use. One more writes the records for all of them. A caller's limit and the memory "
            "of repeated requests are each worker's own."
        ),
    )
    rest_listen: ListenText | None = Field(
        default=None,
        description="Address of `POST /v1/sign` over HTTPS, `host:port`. Unset: none.",
    )
    dns_names: tuple[DnsName, ...] = Field(
        default=("localhost",),
        min_length=1,
        description="The names by which clients know the endpoints; they are in its certificate.",
    )
    spiffe_path: str = Field(
        default="/meshwarden/ca",
        pattern=r"^(/[A-Za-z0-9._-]+)+$",
        description="Path of the SPIFFE ID in the endpoints' certificate.",
    )

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        """Refuse a block that opens nothing."""
        if self.istio_listen is None and self.rest_listen is None:
            raise ValueError("give istioListen, restListen or both")
        return self
