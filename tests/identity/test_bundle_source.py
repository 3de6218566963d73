"""Bundle endpoints: whom a client believes to be one, and where it follows it."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bundle_server import (
    ENDPOINT_ID,
    EXAMPLE,
    LONG,
    Published,
    authority,
    bundle,
    endpoint_leaf,
    names_in,
    serving,
    spiffe,
    web,
)
from certificate_making import AUTHORITY, LEAF, Recipe, make

from identity.bundle_document import encode_bundle
from identity.bundle_source import check_endpoint_url
from identity.spiffe_id import SpiffeId
from identity.trust_bundle import BundleError, BundleSet, TrustBundle


def test_https_spiffe_follows_a_rotation(tmp_path: Path) -> None:
    """The given bundle verifies the first connection, the fetched one every later one."""
    published = Published(encode_bundle(bundle("root", "next", sequence=1)))
    with serving(tmp_path / "a", [endpoint_leaf()], published) as port:
        first = spiffe(port).load(BundleSet.of(bundle("root")))
    assert names_in(first) == ["root", "next"]

    published.body = encode_bundle(bundle("next", sequence=2))
    with serving(tmp_path / "b", [endpoint_leaf(by="next")], published) as port:
        assert names_in(spiffe(port).load(BundleSet.of(first))) == ["next"]
        with pytest.raises(BundleError, match="could not be reached"):
            spiffe(port).load(BundleSet.of(bundle("root")))


def test_https_spiffe_through_an_intermediate(tmp_path: Path) -> None:
    """An endpoint may send what lies between its leaf and the bundle's authority."""
    between = make(Recipe.of({"subject": "between", **LONG}, AUTHORITY), authority("root"))
    leaf = make(Recipe.of({"uris": [str(ENDPOINT_ID)], **LONG}, LEAF), between)
    published = Published(encode_bundle(bundle("root")))
    with serving(tmp_path, [leaf, between], published) as port:
        assert names_in(spiffe(port).load(BundleSet.of(bundle("root")))) == ["root"]
        # An authority of a bundle need not be self-signed.
        held = TrustBundle(trust_domain=EXAMPLE, x509_authorities=(between.certificate,))
        assert names_in(spiffe(port).load(BundleSet.of(held))) == ["root"]


@pytest.mark.parametrize(
    ("leaf", "why"),
    [
        ({"uri": "spiffe://example.org/other"}, "expected"),
        ({"uri": "spiffe://other.org/bundle-endpoint"}, "expected"),
        ({"uri": "https://anything.example"}, "no X.509-SVID"),
        ({"by": "stranger"}, "certificate is refused"),
        ({"extended": ("server",)}, "no X.509-SVID"),
        ({"usage": None}, "no X.509-SVID"),
        ({"ends": -1}, "certificate is refused"),
    ],
)
def test_https_spiffe_with_another_server(tmp_path: Path, leaf: dict[str, Any], why: str) -> None:
    """A server that does not show the one SVID is asked for nothing."""
    published = Published(encode_bundle(bundle("stranger")))
    with (
        serving(tmp_path, [endpoint_leaf(**leaf)], published) as port,
        pytest.raises(BundleError, match=why),
    ):
        spiffe(port).load(BundleSet.of(bundle("root")))
    assert published.asked == 0


def test_https_spiffe_needs_a_bundle_of_the_endpoints_trust_domain() -> None:
    """Without a bundle of that very trust domain nothing is connected to."""
    foreign = spiffe(1, endpoint_id=SpiffeId.parse("spiffe://other.org/endpoint"))

    with pytest.raises(BundleError, match=r"no X.509 authority of `other.org` is known"):
        foreign.load(BundleSet.of(bundle("root")))
    with pytest.raises(BundleError, match="is known yet"):
        spiffe(1).load(BundleSet.of(TrustBundle(trust_domain=EXAMPLE)))


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("http://anything.example/bundle", "https to something else"),
        ("https://user:pw@anything.example/bundle", "credentials"),
        ("/again", "redirects more than"),
    ],
)
def test_redirects_that_are_not_followed(tmp_path: Path, target: str, why: str) -> None:
    """A redirect leads to a bundle endpoint's URL or nowhere, and not in circles."""
    published = Published(status=302, headers={"Location": target})
    with (
        serving(tmp_path, [endpoint_leaf()], published) as port,
        pytest.raises(BundleError, match=why),
    ):
        spiffe(port).load(BundleSet.of(bundle("root")))


def test_a_redirect_has_to_show_the_same_svid(tmp_path: Path) -> None:
    """Where a redirect leads, the server is the same SPIFFE ID again, or is not asked."""
    there = Published(encode_bundle(bundle("next")))
    for uri, count in ((str(ENDPOINT_ID), 1), ("spiffe://example.org/elsewhere", 0)):
        there.asked = 0
        with serving(tmp_path / "there", [endpoint_leaf(uri)], there) as target:
            location = {"Location": f"https://moved.example:{target}/"}
            here = Published(status=307, headers=location)
            with (
                serving(tmp_path / "here", [endpoint_leaf()], here) as port,
                contextlib.suppress(BundleError),
            ):
                spiffe(port).load(BundleSet.of(bundle("root")))
        assert there.asked == count


@pytest.mark.parametrize("url", ["http://a.example/b", "ftp://a", "", "HTTPS:", "spiffe://a/b"])
def test_only_https_is_an_endpoint(url: str) -> None:
    """A bundle that travels in the open is nobody's."""
    with pytest.raises(BundleError, match="https"):
        check_endpoint_url(url)
    with pytest.raises(BundleError):
        replace(web(1), url=url).load(BundleSet())
