"""X.509-SVIDs: chains that hold, chains that must not, and bytes that are no chain."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from certificate_making import AUTHORITY, DAY, LEAF, NOW, Made, Mint, Recipe, make
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from identity.bundle_document import bundle_from_pem
from identity.spiffe_id import SpiffeId, TrustDomain
from identity.svid_fault import SvidFault, SvidRefusal
from identity.trust_bundle import BundleSet, TrustBundle
from identity.x509_svid import X509Svid, verify_svid

CORPUS = yaml.safe_load(Path(__file__).with_name("svid_attacks.yaml").read_text("utf-8"))
EXAMPLE, OTHER = TrustDomain("example.org"), TrustDomain("other.org")
IN_THE_MINT = pytest.mark.filterwarnings(
    # Signing with DSA and odd curves, and numbers below one, are what these tests are about.
    "ignore::cryptography.utils.CryptographyDeprecationWarning"
)


@cache
def mint() -> Mint:
    """The authorities of the corpus, made once for this run."""
    return Mint(CORPUS["authorities"])


def bundle_of(domain: TrustDomain, *names: str) -> TrustBundle:
    """The bundle of a trust domain with these authorities."""
    certificates = tuple(mint().authority(name).certificate for name in names)
    return TrustBundle(trust_domain=domain, x509_authorities=certificates)


def bundles_for(case: Mapping[str, Any]) -> BundleSet:
    """The corpus's bundles, with the case's own in place of example.org's."""
    table = CORPUS["bundles"] | ({"example.org": case["bundle"]} if "bundle" in case else {})
    return BundleSet.of(*(bundle_of(TrustDomain(name), *table[name]) for name in table))


def chain_of(case: Mapping[str, Any]) -> list[bytes]:
    """The chain that a case presents."""
    if "raw" in case:
        return [bytes.fromhex(each) for each in case["raw"]]
    if "present" in case:
        return [mint().authority(name).der for name in case["present"]]
    chain = [_leaf_of(case).der, *(mint().authority(name).der for name in case.get("send", ()))]
    if case.get("below_leaf"):
        above = mint().leaf({"subject": "a leaf"}, "root")
        chain = [make(LEAF, above).der, above.der]
    if "repeat" in case:
        chain = [chain[0], *[mint().authority("inter").der] * (case["repeat"] - 1)]
    if "suffix_chain" in case:
        chain.append(bytes.fromhex(case["suffix_chain"]))
    return [chain[0] + bytes.fromhex(case.get("suffix", "")), *chain[1:]]


def _leaf_of(case: Mapping[str, Any]) -> Made:
    """The leaf that a case presents."""
    row = dict(case.get("leaf", {}))
    if "long_id" in case:
        start = "spiffe://example.org/"
        row["uris"] = [start + "a" * (case["long_id"] - len(start))]
    if case.get("self_signed"):
        return make(Recipe.of({"subject": "root", **row}, LEAF))
    return mint().leaf(row, case.get("issuer", "root"))


@IN_THE_MINT
@pytest.mark.parametrize("case", CORPUS["cases"], ids=lambda case: case["name"].replace(" ", "-"))
def test_corpus(case: Mapping[str, Any]) -> None:
    """Each chain is somebody's or is refused for its own reason."""
    at = NOW + case.get("at", 0) * DAY

    verdict = verify_svid(chain_of(case), bundles_for(case), at)

    if "want" not in case:
        assert isinstance(verdict, X509Svid), str(verdict)
        assert verdict.spiffe_id.trust_domain == EXAMPLE
    else:
        assert isinstance(verdict, SvidRefusal)
        assert SvidFault(case["want"]) == verdict.fault, str(verdict)
        assert verdict.detail.isascii()
        assert verdict.detail.isprintable()


def test_every_fault_of_a_certificate_has_a_case() -> None:
    """No reason to refuse a chain goes untried."""
    of_tokens = {
        SvidFault.TOKEN_FORMAT,
        SvidFault.TOKEN_HEADER,
        SvidFault.AUDIENCE,
        SvidFault.NO_EXPIRY,
        SvidFault.KEY_UNKNOWN,
        SvidFault.SIGNATURE,
    }

    assert set(SvidFault) - of_tokens == {
        SvidFault(case["want"]) for case in CORPUS["cases"] if "want" in case
    }


def test_what_a_verified_chain_tells() -> None:
    """The proof holds the ID, the names, the path to the authority, and for how long it holds."""
    leaf = mint().leaf({"dns": ["cart.shop"], "begins": -3, "ends": 40}, "inter")

    svid = verify_svid([leaf.der, mint().authority("inter").der], bundles_for({}), NOW)

    assert isinstance(svid, X509Svid)
    assert SpiffeId(EXAMPLE, "/ns/shop/sa/cart") == svid.spiffe_id
    assert svid.dns_names == ("cart.shop",)
    assert [each.subject.rfc4514_string() for each in svid.path] == ["", "CN=inter", "CN=root"]
    assert (NOW - 3 * DAY, NOW + 30 * DAY) == (svid.valid_from_at, svid.valid_until_at)


def test_one_bundle_speaks_for_its_trust_domain_only() -> None:
    """A bundle alone verifies its own trust domain's chains, and no other's."""
    chain = [mint().leaf({}, "root").der]
    astray = TrustBundle(
        trust_domain=OTHER, x509_authorities=(mint().authority("root").certificate,)
    )

    assert isinstance(verify_svid(chain, bundle_of(EXAMPLE, "root"), NOW), X509Svid)
    refused = verify_svid(chain, astray, NOW)
    assert isinstance(refused, SvidRefusal)
    assert SvidFault.NO_BUNDLE == refused.fault


def test_a_set_refuses_a_bundle_under_a_foreign_name() -> None:
    """No mapping can make one trust domain's authorities speak for another."""
    with pytest.raises(ValueError, match="another trust domain"):
        BundleSet({OTHER: bundle_of(EXAMPLE, "root")})


def test_sets_are_values() -> None:
    """A changed set is a new set; the old one keeps deciding as before."""
    first = BundleSet.of(bundle_of(EXAMPLE, "root"))
    second = first.with_bundle(bundle_of(OTHER, "other-root")).without([EXAMPLE])

    assert [EXAMPLE] == [each.trust_domain for each in first]
    assert [OTHER] == [each.trust_domain for each in second]
    with pytest.raises(TypeError):
        first.by_domain[OTHER] = bundle_of(OTHER, "other-root")  # type: ignore[index]


def test_the_time_may_come_in_any_zone() -> None:
    """A moment is the same moment however its zone writes it."""
    chain, east = [mint().leaf({}, "root").der], timezone(timedelta(hours=9))

    for at in (NOW, NOW.astimezone(east)):
        assert isinstance(verify_svid(chain, bundles_for({}), at), X509Svid)


@cache
def _sound() -> tuple[tuple[bytes, ...], BundleSet]:
    """A chain of two that holds, and the bundles it holds under."""
    chain = (mint().leaf({}, "inter").der, mint().authority("inter").der)
    return chain, BundleSet.of(bundle_of(EXAMPLE, "root"))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=4), st.booleans())
def test_any_bytes_are_refused_by_name(chain: list[bytes], begins_well: bool) -> None:
    """Whatever bytes arrive as a chain, the outcome is a named refusal, never an exception."""
    sound, bundles = _sound()
    presented = [sound[0], *chain] if begins_well else chain

    assert isinstance(verify_svid(presented, bundles, NOW), SvidRefusal)


@IN_THE_MINT
@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_one_changed_byte_is_never_verified(data: st.DataObject) -> None:
    """A chain with bytes changed, cut out or put in is refused; only the unread tail may differ."""
    sound, bundles = _sound()
    which = data.draw(st.integers(0, 1))
    original = sound[which]
    place = data.draw(st.integers(0, len(original) - 1))
    length = data.draw(st.integers(0, 4))
    changed = original[:place] + data.draw(st.binary(max_size=6)) + original[place + length :]
    chain = list(sound)
    chain[which] = changed

    verdict = verify_svid(chain, bundles, NOW)

    if changed == original:
        assert isinstance(verdict, X509Svid)
    else:
        assert isinstance(verdict, SvidRefusal), changed.hex()


RECIPES = st.fixed_dictionaries(
    {},
    optional={
        "subject": st.sampled_from(["", "cart"]),
        "uris": st.lists(st.text(st.characters(max_codepoint=127), max_size=40), max_size=3),
        "dns": st.lists(st.text(st.characters(max_codepoint=127), max_size=20), max_size=2),
        "ca": st.sampled_from([True, False, None]),
        "usage": st.none() | st.lists(st.sampled_from(["digital_signature", "crl_sign"])),
        "extended": st.none() | st.lists(st.sampled_from(["server", "client"]), min_size=1),
        "begins": st.sampled_from([-2, -1 / 24, 0, 1 / 24]),
        "ends": st.sampled_from([1 / 12, 2]),
        "san_critical": st.booleans(),
    },
)


@settings(max_examples=150, deadline=None)
@given(RECIPES)
def test_any_well_signed_leaf(recipe: dict[str, Any]) -> None:
    """A leaf that our root did sign is the SVID of exactly its one ID, or refused by name."""
    leaf = mint().leaf(recipe, "root")

    verdict = verify_svid([leaf.der], bundles_for({}), NOW)

    if isinstance(verdict, X509Svid):
        made = Recipe.of(recipe, LEAF)
        assert [str(verdict.spiffe_id)] == list(made.uris)
        assert not made.ca
        assert made.begins <= 0


def test_a_pem_bundle_verifies() -> None:
    """Authorities read from PEM are those of the trust domain they are read for."""
    root, other = mint().authority("root"), mint().authority("plain-root")

    bundle = bundle_from_pem(EXAMPLE, b"comment\n" + root.pem + other.pem + root.pem)

    assert (root.certificate, other.certificate) == bundle.x509_authorities
    assert isinstance(verify_svid([mint().leaf({}, "root").der], bundle, NOW), X509Svid)


def test_intermediates_beside_the_bundle() -> None:
    """What lies between leaf and authority may be known to us; it is trusted for nothing."""
    leaf, root, inter = (
        mint().leaf({}, "inter").der,
        mint().authority("root").certificate,
        mint().authority("inter").certificate,
    )
    helped = TrustBundle(trust_domain=EXAMPLE, x509_authorities=(root,), intermediates=(inter,))
    alone = TrustBundle(trust_domain=EXAMPLE, intermediates=(inter,))
    elsewhere = TrustBundle(
        trust_domain=EXAMPLE,
        x509_authorities=(mint().authority("other-root").certificate,),
        intermediates=(inter, root),
    )

    assert isinstance(verify_svid([leaf], helped, NOW), X509Svid)
    for bundle, want in ((alone, SvidFault.NO_AUTHORITY), (elsewhere, SvidFault.UNTRUSTED)):
        refused = verify_svid([leaf], bundle, NOW)
        assert isinstance(refused, SvidRefusal)
        assert want == refused.fault


def test_a_leaf_vouches_for_nobody() -> None:
    """Not even where it stands among the authorities is a leaf one, of itself or of others."""
    own = make(LEAF)
    below = make(LEAF, own)
    bundle = TrustBundle(trust_domain=EXAMPLE, x509_authorities=(own.certificate,))

    for chain in ([own.der], [below.der], [below.der, own.der]):
        refused = verify_svid(chain, bundle, NOW)
        assert isinstance(refused, SvidRefusal)
        assert refused.fault in (SvidFault.UNTRUSTED, SvidFault.SIGNING_CERTIFICATE)


def test_a_path_of_nine_intermediates_is_too_long() -> None:
    """Eight intermediates are followed, nine are not, however valid each of them is."""
    above, chain = mint().authority("root"), []
    for number in range(9):
        above = make(Recipe.of({"subject": f"tier {number}"}, AUTHORITY), above)
        chain.insert(0, above.der)
        verdict = verify_svid([make(LEAF, above).der, *chain], bundles_for({}), NOW)
        assert (number < 8) == isinstance(verdict, X509Svid)


def test_moments_far_away_are_refused_not_raised() -> None:
    """The first and the last moment a clock can show are times like any other."""
    chain = [mint().leaf({}, "root").der]

    for at in (datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)):
        assert isinstance(verify_svid(chain, bundles_for({}), at), SvidRefusal)
