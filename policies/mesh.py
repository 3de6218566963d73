"""The settings of the mesh that change what a policy means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal


class MeshMode(StrEnum):
    """Which data plane asks: it decides what attaches and which column of the tables counts.

    Spec: the modes read a resource as Istio does for a sidecar, for a Gateway API
    gateway, for a waypoint proxy, and for the node proxy of ambient (L4 only).
    """

    SIDECAR = "sidecar"
    GATEWAY = "gateway"
    WAYPOINT = "waypoint"
    ZTUNNEL = "ztunnel"


class PathNormalization(StrEnum):
    """What is done to `:path` before it is matched.

    AS_IS takes the path as the caller sends it, which is right behind Envoy: it
    has normalized already. The others are the levels of Istio's MeshConfig, for a
    caller that has not.
    """

    AS_IS = "as_is"
    NONE = "none"
    BASE = "base"
    MERGE_SLASHES = "merge_slashes"
    DECODE_AND_MERGE_SLASHES = "decode_and_merge_slashes"


ProviderKind = Literal["envoyExtAuthzGrpc", "envoyExtAuthzHttp", "rego"]
"""What stands behind an extension provider; the first two as MeshConfig spells them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtensionProvider:
    """A back end that CUSTOM policies name.

    `service` is the host name, with or without `<namespace>/` before it; `port`
    is 0 where there is none (rego). `timeout_seconds` None means Istio's 600 s.
    `status_on_error` is the HTTP status as text, empty for 403.
    `include_request_body` holds MeshConfig's own keys (`maxRequestBytes`,
    `allowPartialMessage`, `packAsBytes`). The rest is of envoyExtAuthzHttp only.

    Spec: MeshConfig.ExtensionProvider.EnvoyExternalAuthorization{Grpc,Http}Provider.
    """

    name: str
    kind: ProviderKind
    service: str = ""
    port: int = 0
    timeout_seconds: float | None = None
    fail_open: bool = False
    status_on_error: str = ""
    clear_route_cache: bool = False
    include_request_body: Mapping[str, Any] | None = None
    path_prefix: str = ""
    include_request_headers_in_check: tuple[str, ...] = ()
    include_additional_headers_in_check: tuple[tuple[str, str], ...] = ()
    headers_to_upstream_on_allow: tuple[str, ...] = ()
    headers_to_downstream_on_deny: tuple[str, ...] = ()
    headers_to_downstream_on_allow: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Mesh:
    """Mesh-wide settings.

    `trusted_proxy_hops` counts the proxies in front whose `x-forwarded-for`
    entries are believed; None means that `remote.ip` cannot be told, and then a
    condition on it never lets a request in and never lets one past a DENY.
    `multiple_providers` says whether every CUSTOM provider of a workload is asked; else
    policies of more than one deny what they match. None leaves it to who reads it: the
    authorizer asks them all, istiod by default does not.
    `envoy_version` is the (major, minor) version of the Envoy that asks: matching
    follows it where versions differ.
    """

    trust_domain: str = "cluster.local"
    trust_domain_aliases: tuple[str, ...] = ()
    root_namespace: str = "istio-system"
    trusted_proxy_hops: int | None = None
    mode: MeshMode = MeshMode.SIDECAR
    envoy_version: tuple[int, int] = (1, 40)
    path_normalization: PathNormalization = PathNormalization.AS_IS
    extension_providers: tuple[ExtensionProvider, ...] = ()
    multiple_providers: bool | None = None

    @property
    def trust_domains(self) -> tuple[str, ...]:
        """The trust domain and then its aliases, in order."""
        return (self.trust_domain, *self.trust_domain_aliases)
