"""The `mesh:` section. A file with these keys is read by `policies.mesh_config`; a test holds
that both read the same.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from authz.section import Section
from policies.mesh import ExtensionProvider, Mesh, MeshMode, PathNormalization, ProviderKind
from policies.mesh_config import parse_envoy_version
from policies.mesh_providers import is_known_status, parse_duration


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _check_version(value: str) -> str:
    if parse_envoy_version(value) is None:
        raise ValueError('must be a version like `"1.40"`')
    return value


def _check_duration(value: str) -> str:
    if parse_duration(value) is None:
        raise ValueError("must be a duration like `5s` or `250ms`")
    return value


def _check_status(value: str) -> str:
    if value and not is_known_status(value):
        raise ValueError("must be an HTTP status that Envoy knows")
    return value


def _check_headers(value: tuple[str, ...]) -> tuple[str, ...]:
    if "*" in value:
        raise ValueError("holds a lone `*`")
    return value


_Duration = Annotated[str, AfterValidator(_check_duration)]
_Status = Annotated[str, AfterValidator(_check_status)]
_Headers = Annotated[tuple[str, ...], AfterValidator(_check_headers)]


class RequestBodySettings(Section):
    """How much of the body goes into a check, as in MeshConfig."""

    max_request_bytes: int = Field(default=0, ge=0, lt=2**32, description="Most bytes sent.")
    allow_partial_message: bool = Field(
        default=False, description="Send a longer body's beginning instead of refusing it."
    )
    pack_as_bytes: bool = Field(default=False, description="Send it as bytes, not as UTF-8 text.")


class RegoAuthorizerSettings(Section):
    """An authorizer that is Meshwarden's own; its address is for `policy compile` alone."""

    service: str = Field(default="", description="`<host>` or `<namespace>/<host>`.")
    port: int = Field(default=0, ge=0, le=65535, description="Its port.")
    timeout: _Duration | None = Field(default=None, description="How long Envoy waits.")
    fail_open: bool = Field(default=False, description="Let pass when it cannot be asked.")
    clear_route_cache: bool = Field(
        default=False, description="Choose the route anew after its answer."
    )
    status_on_error: _Status = Field(
        default="", description="HTTP status when it cannot be asked; empty: 403."
    )
    include_request_body_in_check: RequestBodySettings | None = Field(
        default=None, description="Send the body as well."
    )


class GrpcAuthorizerSettings(RegoAuthorizerSettings):
    """MeshConfig's envoyExtAuthzGrpc."""

    service: str = Field(min_length=1, description="`<host>` or `<namespace>/<host>`.")
    port: int = Field(ge=1, le=65535, description="Its port.")


class HttpAuthorizerSettings(GrpcAuthorizerSettings):
    """MeshConfig's envoyExtAuthzHttp."""

    path_prefix: str = Field(
        default="", pattern="^(/.*)?$", description="Put before the path of the check."
    )
    include_headers_in_check: _Headers = Field(
        default=(), description="The older name of `includeRequestHeadersInCheck`."
    )
    include_request_headers_in_check: _Headers = Field(
        default=(), description="Headers of the request that go into the check."
    )
    include_additional_headers_in_check: dict[str, str] = Field(
        default_factory=dict, description="Fixed headers put into the check."
    )
    headers_to_upstream_on_allow: _Headers = Field(
        default=(), description="Headers of an allowing answer that go to the workload."
    )
    headers_to_downstream_on_deny: _Headers = Field(
        default=(), description="Headers of a denying answer that go to the client."
    )
    headers_to_downstream_on_allow: _Headers = Field(
        default=(), description="Headers of an allowing answer that go to the client."
    )


class ExtensionProviderSettings(Section):
    """An external authorizer, as in MeshConfig; exactly one kind is written."""

    name: str = Field(
        pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$",
        description="The name in `spec.provider.name`.",
    )
    envoy_ext_authz_grpc: GrpcAuthorizerSettings | None = Field(
        default=None, description="One that speaks ext_authz over gRPC."
    )
    envoy_ext_authz_http: HttpAuthorizerSettings | None = Field(
        default=None, description="One that speaks ext_authz over HTTP."
    )
    rego: RegoAuthorizerSettings | None = Field(
        default=None, description="Meshwarden itself, with a Rego policy of `providers:`."
    )

    @model_validator(mode="after")
    def _has_one_kind(self) -> ExtensionProviderSettings:
        if len(self._written()) != 1:
            raise ValueError(f"must be of one kind, not {len(self._written())}")
        return self

    def _written(self) -> list[tuple[ProviderKind, RegoAuthorizerSettings]]:
        kinds: tuple[tuple[ProviderKind, RegoAuthorizerSettings | None], ...] = (
            ("envoyExtAuthzGrpc", self.envoy_ext_authz_grpc),
            ("envoyExtAuthzHttp", self.envoy_ext_authz_http),
            ("rego", self.rego),
        )
        return [(kind, body) for kind, body in kinds if body is not None]

    def to_provider(self) -> ExtensionProvider:
        """Return the value policies are compiled with."""
        [(kind, body)] = self._written()
        given = body.include_request_body_in_check
        return ExtensionProvider(
            name=self.name,
            kind=kind,
            service=body.service,
            port=body.port,
            timeout_seconds=parse_duration(body.timeout) if body.timeout else None,
            fail_open=body.fail_open,
            clear_route_cache=body.clear_route_cache,
            status_on_error=body.status_on_error,
            include_request_body=given.model_dump(by_alias=True, exclude_unset=True)
            if given
            else None,
            **(_http_fields(body) if isinstance(body, HttpAuthorizerSettings) else {}),
        )


def _http_fields(body: HttpAuthorizerSettings) -> dict[str, Any]:
    included = body.include_request_headers_in_check or body.include_headers_in_check
    return {
        "path_prefix": body.path_prefix,
        "include_request_headers_in_check": included,
        "include_additional_headers_in_check": tuple(
            sorted(body.include_additional_headers_in_check.items())
        ),
        "headers_to_upstream_on_allow": body.headers_to_upstream_on_allow,
        "headers_to_downstream_on_deny": body.headers_to_downstream_on_deny,
        "headers_to_downstream_on_allow": body.headers_to_downstream_on_allow,
    }


class MeshSettings(Section):
    """Mesh-wide settings, as in Istio's MeshConfig."""

    trust_domain: str = Field(
        default="cluster.local", min_length=1, description="The mesh's own trust domain."
    )
    trust_domain_aliases: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        default=(), description="Other names of the trust domain that policies may use."
    )
    root_namespace: str = Field(
        default="istio-system",
        min_length=1,
        description="Namespace whose policies apply to the whole mesh.",
    )
    trusted_proxy_hops: int | None = Field(
        default=None,
        ge=0,
        le=2**31,
        description="Proxies in front whose `x-forwarded-for` entries are believed. Unset: "
        "`remote.ip` cannot be told; such a condition never lets a request in, and never lets "
        "one past a DENY.",
    )
    mode: Annotated[MeshMode, BeforeValidator(_lower)] = Field(
        default=MeshMode.SIDECAR,
        description="Which data plane asks: it decides what attaches and how it is read.",
    )
    envoy_version: Annotated[str, AfterValidator(_check_version)] = Field(
        default="1.40",
        description="Version of the Envoy that asks, quoted; matching follows it where Envoys "
        "differ (each value of a repeated header counts from 1.38 on).",
    )
    path_normalization: Annotated[PathNormalization, BeforeValidator(_lower)] = Field(
        default=PathNormalization.AS_IS,
        description="What is done to the path before it is matched. `as_is` is right behind "
        "Envoy, which has normalized already; the others are MeshConfig's levels.",
    )
    extension_providers: tuple[ExtensionProviderSettings, ...] = Field(
        default=(),
        description="External authorizers of CUSTOM policies, as in MeshConfig. They are for "
        "`policy compile` and `policy validate`; what answers here stands under `providers:`.",
    )

    multiple_providers: bool | None = Field(
        default=None,
        description="Whether every CUSTOM provider of a workload is asked, and all have to allow; "
        "`false`: policies of more than one deny what they match, as with istiod unless its "
        "PILOT_ENABLE_MULTIPLE_CUSTOM_AUTHZ_PROVIDERS is set. Unset: they are asked here, and "
        "`policy compile` writes what istiod does by default.",
    )

    @field_validator("extension_providers")
    @classmethod
    def _names_differ(
        cls, value: tuple[ExtensionProviderSettings, ...]
    ) -> tuple[ExtensionProviderSettings, ...]:
        names = [each.name for each in value]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"provider `{name}` is defined twice")
        return value

    def to_mesh(self) -> Mesh:
        """Return the value policies are compiled with."""
        version = parse_envoy_version(self.envoy_version)
        assert version is not None
        return Mesh(
            trust_domain=self.trust_domain,
            trust_domain_aliases=self.trust_domain_aliases,
            root_namespace=self.root_namespace,
            trusted_proxy_hops=self.trusted_proxy_hops,
            mode=self.mode,
            envoy_version=version,
            path_normalization=self.path_normalization,
            extension_providers=tuple(each.to_provider() for each in self.extension_providers),
            multiple_providers=self.multiple_providers,
        )
