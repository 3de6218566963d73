"""The configuration of `meshwarden serve`: one model, from which the schema and docs are made."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from audit.settings import AuditSettings
from authz.decision_memory_settings import DecisionMemorySettings
from authz.dryrun_settings import DryRunSettings
from authz.identity_settings import IdentitySettings
from authz.listen_tls_settings import ListenTlsSettings
from authz.mesh_settings import MeshSettings
from authz.policy_bundle_settings import PolicyBundleSettings, check_policy_bundles
from authz.provider_settings import (
    ProviderSettings,
    check_bundle_names,
    check_providers,
    check_somebody_decides,
)
from authz.section import Section
from authz.tracing_settings import TracingSettings

_UNIX_ADDRESS = re.compile(r"unix:///.+", re.ASCII)
_HOST_AND_PORT = re.compile(r"(?:\[[0-9a-fA-F:.]+\]|[^:\s]+):([0-9]{1,5})", re.ASCII)
_LAST_PORT = 65535


def _check_host_and_port(value: str) -> str:
    match = _HOST_AND_PORT.fullmatch(value)
    if match is None:
        raise ValueError("must be `host:port`")
    # gRPC would take the number modulo 65536, and listen where nobody looks.
    if int(match[1]) > _LAST_PORT:
        raise ValueError(f"a port ends at {_LAST_PORT}")
    return value


def _check_address(value: str) -> str:
    if _UNIX_ADDRESS.fullmatch(value):
        return value
    if not _HOST_AND_PORT.fullmatch(value):
        raise ValueError("must be `host:port` or `unix:///path`")
    return _check_host_and_port(value)


Address = Annotated[str, AfterValidator(_check_address)]
"""`host:port` or `unix:///path`."""

HostAndPort = Annotated[str, AfterValidator(_check_host_and_port)]
"""`host:port`, IPv6 in brackets."""


class ListenSettings(Section):
    """Where the authorizer listens."""

    grpc: Address = Field(
        default="127.0.0.1:9191",
        description="Address of the ext_authz gRPC service: `host:port` or `unix:///path`.",
    )
    http: HostAndPort = Field(
        default="127.0.0.1:9192",
        description="Address of `/healthz`, `/readyz` and `/metrics`: `host:port`.",
    )
    server: Literal["grpcio", "envoy"] = Field(
        default="grpcio",
        description="What speaks gRPC: the library `grpcio`, or an Envoy of its own that runs the "
        "authorizer in its process (`meshwarden[envoy]`), which takes a fraction of the time for "
        "a call.",
    )
    workers: int = Field(
        default=1,
        ge=1,
        le=256,
        description="Processes that answer checks, all on the port of `grpc`: as many as there "
        "are cores to use. Each loads the policies and keeps keys, tokens and a log for itself.",
    )
    threads: int = Field(
        default=16,
        ge=1,
        le=256,
        description="Threads that answer checks; one that waits for Rego, keys or introspection "
        "answers nobody else.",
    )
    overload_milliseconds: int = Field(
        default=20,
        ge=0,
        le=10_000,
        description="How long a check may wait for a thread once the queue stands (every check of "
        "the last 100 ms waited longer): one that waited longer is refused unread, with 503 as an "
        "`error_response`. Zero refuses none.",
    )
    drain_seconds: float = Field(
        default=5.0, ge=0, description="How long open checks may finish after SIGTERM."
    )
    tls: ListenTlsSettings | None = Field(
        default=None,
        description="TLS of `grpc`, and which clients may ask. Unset: plain, which is for loopback "
        "and Unix sockets.",
    )

    @model_validator(mode="after")
    def _tls_is_for_addresses(self) -> Self:
        if self.tls is not None and self.grpc.startswith("unix://"):
            raise ValueError(
                "`tls` is for `host:port`; who may use a Unix socket says its file's mode"
            )
        return self


class PolicySettings(Section):
    """Where the Istio policies are, and how soon an edit counts."""

    paths: tuple[Path, ...] = Field(
        default=(Path("policies"),),
        description="Files and folders of Istio YAML (AuthorizationPolicy, "
        "RequestAuthentication, PeerAuthentication). None at all (`[]`) only beside a default "
        "provider, which then decides alone.",
    )
    reload_seconds: float = Field(
        default=0.5,
        gt=0,
        le=60,
        description="How often the files are looked at. An edit counts once two looks in a row "
        "saw the same content, so that a half-written file is never loaded.",
    )


class WorkloadSettings(Section):
    """The workload that is asked about, when the operator knows better than the certificate."""

    namespace: str = Field(default="", description="Its namespace; empty: as Envoy says.")
    service_account: str = Field(default="", description="Its service account.")
    labels: dict[str, str] = Field(
        default_factory=dict,
        description="Its labels; they win over those Envoy sends. Where neither tells any, and "
        "policies that decide select by labels, requests are denied (`workload_unknown`).",
    )


class IdentityHeaderSettings(Section):
    """Headers that tell the upstream who was verified; what a client sends there is overwritten."""

    peer: str = Field(
        default="x-meshwarden-peer",
        pattern=r"^[-a-z0-9]*$",
        description="Request header with the peer's principal; empty: none is set.",
    )
    subject: str = Field(
        default="x-meshwarden-subject",
        pattern=r"^[-a-z0-9]*$",
        description="Request header with the request principal `<iss>/<sub>`; empty: none is set.",
    )
    decision_id: str = Field(
        default="x-meshwarden-decision-id",
        pattern=r"^[-a-z0-9]*$",
        description="Response header with the id of the audit record; empty: none is set.",
    )


class LogSettings(Section):
    """The log of the process (decisions are in the audit record, not here)."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe level that is written."
    )
    format: Literal["console", "json"] = Field(
        default="console", description="Lines for people or for machines, on standard error."
    )


class Settings(Section):
    """The whole configuration. Relative paths count from the configuration file's folder."""

    listen: ListenSettings = Field(default_factory=ListenSettings, description="Listeners.")
    mesh: MeshSettings = Field(default_factory=MeshSettings, description="Mesh-wide settings.")
    policies: PolicySettings = Field(
        default_factory=PolicySettings, description="The Istio policies."
    )
    workload: WorkloadSettings = Field(
        default_factory=WorkloadSettings, description="Static override of the workload."
    )
    providers: Annotated[tuple[ProviderSettings, ...], AfterValidator(check_providers)] = Field(
        default=(), description="The Rego that CUSTOM policies ask."
    )
    bundles: Annotated[tuple[PolicyBundleSettings, ...], AfterValidator(check_policy_bundles)] = (
        Field(default=(), description="OPA bundles of policy and data that providers name.")
    )
    identity: IdentitySettings = Field(
        default_factory=IdentitySettings, description="Who is asking."
    )
    identity_headers: IdentityHeaderSettings = Field(
        default_factory=IdentityHeaderSettings, description="Headers that carry identity."
    )
    audit: AuditSettings = Field(default_factory=AuditSettings, description="The audit record.")
    decision_memory: DecisionMemorySettings = Field(
        default_factory=DecisionMemorySettings, description="Decisions that are remembered."
    )
    dryrun: DryRunSettings = Field(
        default_factory=DryRunSettings, description="What is tried and not enforced."
    )
    log: LogSettings = Field(default_factory=LogSettings, description="The process log.")
    tracing: TracingSettings | None = Field(
        default=None, description="Spans of decisions, by OpenTelemetry. Unset: none are made."
    )

    @model_validator(mode="after")
    def _somebody_decides(self) -> Settings:
        check_somebody_decides(self.policies.paths, self.providers, "policies", "paths")
        check_bundle_names(self.providers, [each.name for each in self.bundles])
        return self

    @model_validator(mode="after")
    def _key_is_no_other(self) -> Settings:
        if self.listen.server == "envoy" and "_" in self.identity.waypoint.peer_metadata_key:
            raise ValueError(
                "`identity.waypoint.peerMetadataKey` must have no `_` with `listen.server: envoy`: "
                "it would pass for `-`"
            )
        return self
