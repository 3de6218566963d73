"""`identity.xfcc`, `identity.waypoint` and `identity.mappings`: who the peer of a request is."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from authz.section import Section
from identity.errors import MappingError, SpiffeIdError
from identity.mapping import (
    IdentityMapping,
    MappingSet,
    RuleTexts,
    first_overlap,
    make_mapping,
)
from identity.mapping_presets import Preset, preset_rules, unknown_fixed
from identity.spiffe_id import TrustDomain
from identity.xfcc_trust import ForwardMode, TrustedForwarder, XfccTrust, parse_forwarder


def _check_forwarder(value: str) -> str:
    try:
        parse_forwarder(value)
    except SpiffeIdError as exc:
        raise ValueError(f"not a SPIFFE ID: {exc.why}") from exc
    except ValueError as exc:
        raise ValueError("must be a SPIFFE ID or an address range such as `10.0.0.0/8`") from exc
    return value


def _check_trust_domain(value: str) -> str:
    try:
        return TrustDomain(value).name
    except SpiffeIdError as exc:
        raise ValueError(f"not a trust domain: {exc.why}") from exc


class TrustedPeerSettings(Section):
    """A proxy whose word about its own client counts."""

    peer: Annotated[str, AfterValidator(_check_forwarder)] = Field(
        description="Its SPIFFE ID, or the address range it calls from. An address proves "
        "little: name one only where nobody else can have it."
    )
    mode: Literal["SANITIZE_SET", "APPEND_FORWARD"] = Field(
        default="SANITIZE_SET",
        description="Its own `forward_client_cert_details`: with SANITIZE_SET it sends one "
        "element and more are refused, with APPEND_FORWARD the last is its own.",
    )
    by: tuple[str, ...] = Field(
        default=(),
        description="URI names of the certificate it shows to its clients, where that is not "
        "the one it calls with; an element's `By` must be among them.",
    )

    def to_forwarder(self) -> TrustedForwarder:
        """Return the entry as `identity` takes it."""
        return parse_forwarder(self.peer, mode=ForwardMode(self.mode), by=self.by)


class XfccSettings(Section):
    """X-Forwarded-Client-Cert: believed of the proxies that are named here, and of no others."""

    trusted_peers: tuple[TrustedPeerSettings, ...] = Field(
        default=(), description="Who may forward; without any, the header is never believed."
    )
    own_mode: ForwardMode = Field(
        default=ForwardMode.APPEND_FORWARD,
        description="`forward_client_cert_details` of the Envoy that asks; Istio's sidecars "
        "have APPEND_FORWARD.",
    )
    max_hops: int = Field(
        default=1, ge=1, le=16, description="How many trusted proxies may stand in a row."
    )

    def to_trust(self) -> XfccTrust:
        """Return the settings as `identity` takes them."""
        return XfccTrust(
            forwarders=tuple(each.to_forwarder() for each in self.trusted_peers),
            own_mode=self.own_mode,
            max_hops=self.max_hops,
        )


class WaypointSettings(Section):
    """Where a waypoint's Envoy names the peer, whose TLS ended before its filters."""

    peer_metadata_key: str = Field(
        default="",
        pattern=r"^([a-z0-9][-_.a-z0-9]*)?$",
        description="Key of the gRPC metadata of each check under which Envoy sends "
        "`%FILTER_STATE(io.istio.peer_principal:PLAIN)%`; empty: none is looked at.",
    )


class MappingSettings(Section):
    """How names that are not of Kubernetes' form give namespace, service account and labels."""

    name: str = Field(default="", description="For messages and records; empty: the preset's.")
    trust_domains: tuple[Annotated[str, AfterValidator(_check_trust_domain)], ...] = Field(
        min_length=1,
        description="Where it holds. Names of these trust domains that no mapping fits have "
        "no namespace that could let them in, also those of Kubernetes' form.",
    )
    preset: Preset | None = Field(default=None, description="A shipped mapping.")
    path: str = Field(
        default="",
        description="Or a template of SPIFFE paths: `/team/{team}/app/{app}`; `{x:label}` "
        "holds no `.`.",
    )
    dns: str = Field(
        default="",
        description="Or a template of DNS SANs: `{app}.{team}.{trustDomain}`; a variable is "
        "one label in lower case.",
    )
    namespace: str = Field(
        default="", description="Template of the namespace; empty: `{namespace}`, or the preset's."
    )
    service_account: str = Field(
        default="",
        description="Template of the service account; empty: `{serviceAccount}`, or the preset's.",
    )
    labels: dict[str, str] = Field(
        default_factory=dict,
        description="Labels and their templates; Rego and the record see them.",
    )
    fixed: dict[str, str] = Field(
        default_factory=dict,
        description="Variables with the one value they may have; each other variable must go "
        "into namespace or service account, so that no two names become one.",
    )

    @model_validator(mode="after")
    def _check(self) -> MappingSettings:
        if sum(map(bool, (self.preset, self.path, self.dns))) != 1:
            raise ValueError("exactly one of `preset`, `path` and `dns` must be set")
        if self.preset is not None:
            unknown = unknown_fixed(self.preset, self.fixed)
            if unknown:
                raise ValueError(f"the preset `{self.preset}` has no `{{{unknown[0]}}}`")
        try:
            self.to_mapping()
        except MappingError as exc:
            raise ValueError(str(exc)) from exc
        return self

    def to_mapping(self) -> IdentityMapping:
        """Return the mapping that these settings spell.

        Raises:
            MappingError: a template is wrong, or two names could be given the same words.
        """
        domains = [TrustDomain(name) for name in self.trust_domains]
        name = self.name or (self.preset.value if self.preset else self.path or self.dns)
        return make_mapping(name, domains, self._rules())

    def _rules(self) -> tuple[RuleTexts, ...]:
        if self.preset is not None:
            return preset_rules(
                self.preset,
                namespace=self.namespace,
                service_account=self.service_account,
                labels=self.labels,
                fixed=self.fixed,
            )
        rule = RuleTexts(
            pattern=self.path or self.dns,
            namespace=self.namespace or "{namespace}",
            service_account=self.service_account or "{serviceAccount}",
            labels=self.labels,
            fixed=self.fixed,
            is_dns=bool(self.dns),
        )
        return (rule,)


def check_mappings(value: tuple[MappingSettings, ...]) -> tuple[MappingSettings, ...]:
    """Refuse mappings that could give two names of one trust domain the same words."""
    overlap = first_overlap([each.to_mapping() for each in value])
    if overlap is not None:
        place, why = overlap
        # The place leads the message to the line of the mapping, see `authz.config_file`.
        raise PydanticCustomError("mapping_overlap", "{why}", {"why": why, "spot": (place,)})
    return value


Mappings = Annotated[tuple[MappingSettings, ...], AfterValidator(check_mappings)]
"""Mappings that were checked against each other."""


def mapping_set(value: tuple[MappingSettings, ...]) -> MappingSet:
    """Return the mappings as `identity` takes them."""
    return MappingSet(tuple(each.to_mapping() for each in value))
