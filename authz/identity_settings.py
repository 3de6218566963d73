"""`identity`: how it is found out who is asking."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator

from authz.bundle_settings import TrustBundleSettings, check_trust_bundles
from authz.peer_settings import Mappings, WaypointSettings, XfccSettings, mapping_set
from authz.section import Section
from authz.token_settings import IntrospectionSettings, JwksSettings, TokenMemorySettings
from identity.bundle_settings import BundleRefreshSettings
from identity.deny_list import FindDenied, nobody_denied
from identity.peer_finding import PeerRules


class IdentitySettings(Section):
    """How peers and tokens are believed."""

    xfcc: XfccSettings = Field(
        default_factory=XfccSettings, description="Peers that a trusted proxy forwards."
    )
    waypoint: WaypointSettings = Field(
        default_factory=WaypointSettings, description="Peers of a waypoint."
    )
    mappings: Mappings = Field(
        default=(), description="Names of other meshes, in the words of policies."
    )
    trust_bundles: Annotated[
        tuple[TrustBundleSettings, ...], AfterValidator(check_trust_bundles)
    ] = Field(
        default=(),
        description="The authorities of each trust domain whose SVIDs we verify ourselves. One "
        "trust domain's authorities never speak for another.",
    )
    deny_list: Path | None = Field(
        default=None,
        description="The deny list that a companion CA publishes (`records.denyListFile`): peers "
        "on it are refused at once. It is looked at every second.",
    )
    verify_peers: Literal["configured", "all"] = Field(
        default="configured",
        description="Whose certificates are verified again: those that name a trust domain of "
        "`trustBundles`, or all. Envoy must send them (`include_peer_certificate`): a peer that "
        "must verify and whose certificate does not come is refused.",
    )
    bundle_refresh: BundleRefreshSettings = Field(
        default_factory=BundleRefreshSettings,
        description="How often files and endpoints of trust bundles are looked at.",
    )
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

    def to_peer_rules(self, denied: FindDenied = nobody_denied) -> PeerRules:
        """Return what counts as a proof of the peer; `denied` is the deny list's watch."""
        return PeerRules(
            xfcc=self.xfcc.to_trust(),
            mappings=mapping_set(self.mappings),
            verified_domains=frozenset(each.trust_domain for each in self.trust_bundles),
            verify_all=self.verify_peers == "all",
            forwarded_key=self.waypoint.peer_metadata_key,
            denied=denied,
        )
