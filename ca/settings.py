"""The settings of `meshwarden ca serve`: strict, camelCase on the page, each one described."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from ca.delivery_settings import (
    BundleEndpointSettings,
    DnsName,
    ListenText,
    SigningSettings,
    WorkloadApiSettings,
)
from ca.errors import KeyRefusedError
from ca.federation_settings import FederationSettings
from ca.key_kinds import KeyKind, parse_key_kind
from ca.log_settings import CaLogSettings
from ca.record_settings import CaCluster, CaLimitSettings, CaRecordSettings
from identity.errors import SpiffeIdError
from identity.spiffe_id import SpiffeId, TrustDomain

_SECONDS_PER_DAY = 86_400
# BUDGET: six leaf lifetimes in an intermediate's and three intermediates' in a root's leave
# room to renew the issuer long before anything it signed could outlive it.
_LEAVES_PER_INTERMEDIATE = 6
_INTERMEDIATES_PER_ROOT = 3


def _checked_trust_domain(text: str) -> str:
    """Return `text`, a trust domain name; the error is ValueError, which pydantic expects."""
    try:
        TrustDomain(text)
    except SpiffeIdError as exc:
        raise ValueError(str(exc)) from exc
    return text


def _checked_workload_id(text: str) -> str:
    """Return `text`, a SPIFFE ID that a leaf may hold."""
    try:
        spiffe_id = SpiffeId.parse(text)
    except SpiffeIdError as exc:
        raise ValueError(str(exc)) from exc
    # X509-SVID §2: a leaf certificate's SPIFFE ID has a non-root path.
    if not spiffe_id.path:
        raise ValueError(f"`{text}` names a trust domain, not a workload")
    return text


class _Settings(BaseModel):
    """What every settings block has in common: unknown keys refused, values frozen."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True
    )


def _checked_key_kind(text: str) -> str:
    """Return `text`, a kind of key that this house makes."""
    try:
        return parse_key_kind(text).value
    except KeyRefusedError as exc:
        raise ValueError(f"{exc}; {exc.help}" if exc.help else str(exc)) from exc


_KeyKindText = Annotated[str, AfterValidator(_checked_key_kind)]


class CaWorkload(_Settings):
    """One workload: who it is, and the Unix socket on which only it can ask."""

    spiffe_id: Annotated[str, AfterValidator(_checked_workload_id)] = Field(
        description="The SPIFFE ID issued to this workload, `spiffe://<trust domain>/<path>`."
    )
    socket: Path = Field(
        description=(
            "Path of the Unix socket on which this workload fetches its secrets. It is created "
            "with mode 0600: who can open it holds the identity."
        )
    )
    dns_names: tuple[DnsName, ...] = Field(
        default=(), description="DNS names put into the certificate beside the SPIFFE ID."
    )

    @property
    def identity(self) -> SpiffeId:
        """The SPIFFE ID, parsed."""
        return SpiffeId.parse(self.spiffe_id)


class CaSettings(_Settings):
    """Everything `meshwarden ca serve` can be told.

    `CaSettings.model_validate(mapping)` checks a parsed YAML file (camelCase keys);
    `settings.resolved(folder)` makes its relative paths absolute.
    """

    state_folder: Path = Field(
        description="Folder of the authority's keys and certificates; made with mode 0700."
    )
    trust_domain: Annotated[str, AfterValidator(_checked_trust_domain)] = Field(
        description="The trust domain whose authority this is, without `spiffe://`."
    )
    workloads: tuple[CaWorkload, ...] = Field(
        default=(),
        description=(
            "The workloads that get certificates over SDS, each on its own socket; at least one, "
            "unless there is `workloadApi` or `signing`."
        ),
    )
    workload_api: WorkloadApiSettings | None = Field(
        default=None,
        description="The SPIFFE Workload API for the processes of this machine. Unset: none.",
    )
    bundle_endpoint: BundleEndpointSettings | None = Field(
        default=None,
        description="The SPIFFE bundle endpoint (`https_web`), for federation. Unset: none.",
    )
    signing: SigningSettings | None = Field(
        default=None, description="Where CSRs are signed over the network. Unset: nowhere."
    )
    federation: FederationSettings = Field(
        default_factory=FederationSettings,
        description="Other trust domains, whose roots workloads get beside our own.",
    )
    svid_lifetime_seconds: int = Field(
        default=3600,
        ge=2,
        le=7 * _SECONDS_PER_DAY,
        description="Lifetime of a workload's certificate; it is renewed about half-way.",
    )
    intermediate_lifetime_days: int = Field(
        default=90,
        ge=1,
        le=3650,
        description="Lifetime of the intermediate that signs leaves; renewed at two thirds.",
    )
    root_lifetime_days: int = Field(
        default=3650, ge=3, le=9125, description="Lifetime of the root that workloads trust."
    )

    authority_key: _KeyKindText = Field(
        default=KeyKind.EC_P256.value,
        description=(
            "Kind of key of new roots and intermediates: `ec-p256`, `ec-p384`, `rsa-2048`, "
            "`rsa-3072` or `rsa-4096`."
        ),
    )
    svid_key: _KeyKindText = Field(
        default=KeyKind.EC_P256.value,
        description=(
            "Kind of key made for workloads over SDS, as `authorityKey`. Ed25519 is refused: "
            "Envoy and gRPC refuse such peers."
        ),
    )
    key_passphrase_file: Path | None = Field(
        default=None,
        description=(
            "Private file with the passphrase that encrypts the authorities' keys on disk, 22 "
            "characters or more. Keys that are plain are encrypted when next read."
        ),
    )
    plugged_ca: Path | None = Field(
        default=None,
        description=(
            "Folder of an existing CA to sign with instead of a root of our own, in Istio's layout "
            "(`ca-cert.pem`, `ca-key.pem`, `cert-chain.pem`, `root-cert.pem`) or Kubernetes' "
            "(`tls.crt`, `tls.key`, `ca.crt`). It is copied at the first start; a later one comes "
            "with `ca rotate prepare --plugged`."
        ),
    )
    shared_authorities: bool = Field(
        default=False,
        description=(
            "Keep authorities, keys included, in the database of the ledger, so that several "
            "replicas sign as one and rotate together. Needs `keyPassphraseFile` (the same "
            "everywhere), a PostgreSQL `records.ledgerUrl`, and a `records.nodeName` of each "
            "replica's own."
        ),
    )
    rotation_wait_seconds: int = Field(
        default=300,
        ge=0,
        le=30 * _SECONDS_PER_DAY,
        description=(
            "How long a prepared root is published before it may sign, where not every open "
            "stream has acknowledged it: the time that clients without a stream need to learn it."
        ),
    )

    http_listen: ListenText | None = Field(
        default=None,
        description=(
            "Address of `/healthz`, `/readyz` (503 while no certificate can be issued) and "
            "`/metrics`: `host:port`. Unset: none."
        ),
    )

    records: CaRecordSettings = Field(
        default_factory=CaRecordSettings,
        description="Ledger, audit chain, and what is published of them.",
    )
    limits: CaLimitSettings = Field(
        default_factory=CaLimitSettings, description="What one caller may ask for."
    )
    clusters: tuple[CaCluster, ...] = Field(
        default=(), description="Kubernetes clusters whose service-account tokens are believed."
    )
    log: CaLogSettings = Field(
        default_factory=CaLogSettings,
        description="The process log, of `ca serve` and of what the other commands do by it.",
    )

    @property
    def domain(self) -> TrustDomain:
        """The trust domain, parsed."""
        return TrustDomain(self.trust_domain)

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        """Refuse settings that are right alone and wrong together."""
        if not self.workloads and self.workload_api is None and self.signing is None:
            raise ValueError("nobody can ask: give workloads, workloadApi or signing")
        for workload in self.workloads:
            if workload.identity.trust_domain != self.domain:
                raise ValueError(
                    f"`{workload.spiffe_id}` is not in the trust domain `{self.trust_domain}`"
                )
        if any(each.trust_domain == self.trust_domain for each in self.federation.trust_domains):
            raise ValueError("federation names our own trust domain")
        sockets = [str(workload.socket) for workload in self.workloads]
        if self.workload_api is not None and str(self.workload_api.socket) in sockets:
            raise ValueError("the socket of the workloadApi is given to a workload")
        for socket in sockets:
            if sockets.count(socket) > 1:
                raise ValueError(f"socket `{socket}` is given to two workloads")
        if self.shared_authorities and self.key_passphrase_file is None:
            raise ValueError("sharedAuthorities needs keyPassphraseFile")
        if self.shared_authorities and not self.records.ledger_url.startswith("postgresql"):
            raise ValueError("sharedAuthorities needs a PostgreSQL records.ledgerUrl")
        intermediate_seconds = self.intermediate_lifetime_days * _SECONDS_PER_DAY
        if intermediate_seconds < _LEAVES_PER_INTERMEDIATE * self.svid_lifetime_seconds:
            raise ValueError("intermediateLifetimeDays is less than six svidLifetimeSeconds")
        if self.root_lifetime_days < _INTERMEDIATES_PER_ROOT * self.intermediate_lifetime_days:
            raise ValueError("rootLifetimeDays is less than three intermediateLifetimeDays")
        return self

    def without_istio(self) -> CaSettings:
        """Return the same settings for a process whose workers serve `signing.istioListen`."""
        signing = self.signing
        if signing is not None:
            no_istio = signing.model_copy(update={"istio_listen": None})
            signing = None if signing.rest_listen is None else no_istio
        return self.model_copy(update={"signing": signing})

    def resolved(self, folder: Path) -> CaSettings:
        """Return the same settings with relative paths taken from `folder`."""
        workloads = tuple(
            workload.model_copy(update={"socket": folder / workload.socket})
            for workload in self.workloads
        )
        update: dict[str, object] = {
            "state_folder": folder / self.state_folder,
            "workloads": workloads,
            "workload_api": self.workload_api and self.workload_api.resolved(folder),
            "bundle_endpoint": self.bundle_endpoint and self.bundle_endpoint.resolved(folder),
            "key_passphrase_file": _below(folder, self.key_passphrase_file),
            "plugged_ca": _below(folder, self.plugged_ca),
            "federation": self.federation.resolved(folder),
            "records": self.records.resolved(folder),
            "clusters": tuple(cluster.resolved(folder) for cluster in self.clusters),
        }
        return self.model_copy(update=update)


def _below(folder: Path, path: Path | None) -> Path | None:
    """Return `path` taken from `folder`, where there is one."""
    return None if path is None else folder / path
