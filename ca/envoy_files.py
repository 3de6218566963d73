"""SDS secrets as files: what Envoy reads by `path_config_source`, with a `watched_directory`.

Each file is one discovery response in JSON with the content inline, so a reader of one file has a
certificate and its own key, whenever it reads. It holds one secret: Envoy takes no second one from
a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cryptography import x509
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryResponse
from google.protobuf.json_format import MessageToJson

from ca.board import ALL_NAME, DEFAULT_NAME
from ca.secrets import SDS_TYPE_URL, VersionedSecret, encode_svid, encode_trust
from ca.svid import X509Svid
from identity.spiffe_id import TrustDomain

ENVOY_SVID_FILE: Final = "envoy_svid.json"
"""The secret `default`: certificate chain and private key."""

ENVOY_ROOTS_FILE: Final = "envoy_roots.json"
"""The secret `ALL`: the roots of every trust domain, for Envoy's SPIFFE validator."""


def encode_envoy_svid(svid: X509Svid) -> bytes:
    """Return the content of `ENVOY_SVID_FILE`; a secret."""
    return _response(encode_svid(DEFAULT_NAME, svid))


def encode_envoy_roots(bundles: Mapping[TrustDomain, tuple[x509.Certificate, ...]]) -> bytes:
    """Return the content of `ENVOY_ROOTS_FILE`.

    A trust domain without roots is left out: Envoy then trusts nothing of it.
    """
    known = {domain: roots for domain, roots in bundles.items() if roots}
    return _response(encode_trust(ALL_NAME, known))


def _response(secret: VersionedSecret) -> bytes:
    """Return a discovery response with `secret` in JSON."""
    response = DiscoveryResponse(
        version_info=secret.version, type_url=SDS_TYPE_URL, resources=[secret.resource]
    )
    text: str = MessageToJson(response, preserving_proto_field_name=True)
    return text.encode()
