"""Peers: everyone whose certificate Envoy verified, SPIFFE or not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.peer import KubernetesIdentity, Peer
from identity.spiffe_id import SpiffeId


def test_no_certificate_is_no_peer() -> None:
    """An empty principal means plaintext or no client certificate."""
    assert Peer.from_principal("") is None


@pytest.mark.parametrize("text", ["client.example", "CN=x,O=y", "spiffe://td/a/", "*"])
def test_other_names_are_peers_without_spiffe_id(text: str) -> None:
    """A peer without a canonical SPIFFE ID is still a peer, under the name Envoy gave."""
    assert Peer.from_principal(text) == Peer(text, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("spiffe://td/ns/shop/sa/cart", KubernetesIdentity("td", "shop", "cart")),
        ("spiffe://td/ns/ns/sa/sa", KubernetesIdentity("td", "ns", "sa")),
        ("spiffe://td/ns/shop/sa/cart/x", None),
        ("spiffe://td/ns/shop", None),
        ("spiffe://td/sa/shop/ns/cart", None),
        ("spiffe://td/NS/shop/sa/cart", None),
        ("spiffe://td", None),
        ("client.example", None),
    ],
)
def test_kubernetes_reading(text: str, expected: KubernetesIdentity | None) -> None:
    """Only the exact shape `/ns/<namespace>/sa/<account>` is read as Kubernetes'."""
    peer = Peer.from_principal(text)
    assert peer is not None
    assert KubernetesIdentity.of(peer.spiffe_id) == expected


@given(st.text(min_size=1))
def test_any_principal(text: str) -> None:
    """Any text makes a peer that keeps it, with an ID only if that is the very same text."""
    peer = Peer.from_principal(text)
    assert peer is not None
    assert peer.principal == text
    assert peer.spiffe_id is None or str(peer.spiffe_id) == text


def test_no_id_has_no_reading() -> None:
    """A peer without SPIFFE ID has no Kubernetes reading."""
    assert KubernetesIdentity.of(None) is None
    assert KubernetesIdentity.of(SpiffeId.parse("spiffe://td/a")) is None
