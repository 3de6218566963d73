"""SVIDs and trust bundles as Envoy `Secret` messages, each with the digest of its content.

Spec: envoy.extensions.transport_sockets.tls.v3.Secret; SPIFFECertValidatorConfig.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from cryptography import x509
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.extensions.transport_sockets.tls.v3.tls_spiffe_validator_config_pb2 import (
    SPIFFECertValidatorConfig,
)
from google.protobuf.any_pb2 import Any as AnyMessage

from ca.errors import SvidInvalidError
from ca.svid import X509Svid, to_pem
from identity.spiffe_id import TrustDomain

SDS_TYPE_URL = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
"""The resource type of secret discovery."""

_SPIFFE_VALIDATOR = "envoy.tls.cert_validator.spiffe"
_VERSION_DIGITS = 32


@dataclass(frozen=True, slots=True)
class VersionedSecret:
    """One secret ready for the wire: `version` changes exactly when `resource` does.

    `sequence` is that of the trust bundle in it; 0 in a certificate.
    """

    name: str
    version: str
    resource: AnyMessage = field(repr=False)
    sequence: int = 0


def encode_svid(name: str, svid: X509Svid) -> VersionedSecret:
    """Return the TLS certificate secret `name` with the chain and key of `svid`."""
    secret = Secret(name=name)
    secret.tls_certificate.certificate_chain.inline_bytes = svid.chain_pem()
    secret.tls_certificate.private_key.inline_bytes = svid.key_pem()
    return _versioned(secret)


def encode_trust(
    name: str, bundles: Mapping[TrustDomain, Sequence[x509.Certificate]], *, sequence: int = 1
) -> VersionedSecret:
    """Return the validation context secret `name`: peers of each trust domain under its own roots.

    It is for Envoy's SPIFFE validator, which picks the roots by the peer's trust domain: a plain
    `trusted_ca` would accept any name that one of our roots has signed.

    Raises:
        SvidInvalidError: a bundle has no roots; Envoy would refuse that and keep the old ones.
    """
    config = SPIFFECertValidatorConfig()
    for trust_domain, roots in bundles.items():
        if not roots:
            raise SvidInvalidError("a trust bundle without roots is not sent")
        domain = config.trust_domains.add(name=trust_domain.name)
        domain.trust_bundle.inline_bytes = to_pem(tuple(roots))
    packed = AnyMessage()
    packed.Pack(config, deterministic=True)
    secret = Secret(name=name)
    secret.validation_context.custom_validator_config.CopyFrom(
        TypedExtensionConfig(name=_SPIFFE_VALIDATOR, typed_config=packed)
    )
    return replace(_versioned(secret), sequence=sequence)


def _versioned(secret: Secret) -> VersionedSecret:
    """Return `secret` packed, with the digest of its bytes as version."""
    packed = AnyMessage()
    packed.Pack(secret, deterministic=True)
    digest = hashlib.sha256(packed.value).hexdigest()[:_VERSION_DIGITS]
    return VersionedSecret(secret.name, digest, packed)
