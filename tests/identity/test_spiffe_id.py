"""SPIFFE IDs: what the standard allows, and nothing beside it."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.errors import SpiffeIdError
from identity.spiffe_id import SpiffeId, TrustDomain

TRUST_DOMAIN_CHARS = set(string.ascii_lowercase + string.digits + ".-_")
PATH_CHARS = set(string.ascii_letters + string.digits + ".-_")


@pytest.mark.parametrize("byte", range(256))
def test_trust_domain_alphabet(byte: int) -> None:
    """Every byte is allowed in a trust domain exactly where SPIFFE-ID §2.1 lists it."""
    text = f"spiffe://a{chr(byte)}b/x"
    if chr(byte) in TRUST_DOMAIN_CHARS:
        assert str(SpiffeId.parse(text)) == text
    elif chr(byte) == "/":
        assert SpiffeId.parse(text).trust_domain == TrustDomain("a")
    else:
        with pytest.raises(SpiffeIdError):
            SpiffeId.parse(text)


@pytest.mark.parametrize("byte", range(256))
def test_path_alphabet(byte: int) -> None:
    """Every byte is allowed in a path exactly where SPIFFE-ID §2.2 lists it."""
    text = f"spiffe://td/a{chr(byte)}b"
    if chr(byte) in PATH_CHARS | {"/"}:
        assert str(SpiffeId.parse(text)) == text
    else:
        with pytest.raises(SpiffeIdError):
            SpiffeId.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "spiffe:",
        "spiffe://",
        "spiffe:///ns/a",
        "SPIFFE://td/a",
        "Spiffe://td/a",
        "http://td/a",
        " spiffe://td/a",
        "spiffe://td/",
        "spiffe://td//a",
        "spiffe://td/a/",
        "spiffe://td/.",
        "spiffe://td/../a",
        "spiffe://td/a/./b",
        "spiffe://td/a\n",
        "spiffe://td\n",
        "spiffe://td/a\r\n",
        "spiffe://td/a\x00b",
        "spiffe://td/%61",
        "spiffe://td/a%2fb",
        "spiffe://user@td/a",
        "spiffe://td:8443/a",
        "spiffe://td/a?x=1",
        "spiffe://td/a#x",
        "spiffe://TD/a",
        "spiffe://tÄ/a",
        "spiffe://td/ｎｓ",
        "spiffe://td/\ud800",
        "spiffe://" + "a" * 256 + "/x",
        "spiffe://td/" + "a" * 2048,
    ],
)
def test_other_spellings_are_refused(text: str) -> None:
    """What is not canonical is refused and never folded into something that is."""
    with pytest.raises(SpiffeIdError):
        SpiffeId.parse(text)


@pytest.mark.parametrize(
    ("text", "segments"),
    [
        ("spiffe://td", ()),
        ("spiffe://td/a", ("a",)),
        ("spiffe://td/ns/a/sa/b", ("ns", "a", "sa", "b")),
        ("spiffe://td/.../..a", ("...", "..a")),
        ("spiffe://" + "a" * 255 + "/x", ("x",)),
        ("spiffe://td/" + "a" * (2048 - 12), ("a" * (2048 - 12),)),
    ],
)
def test_canonical_ids(text: str, segments: tuple[str, ...]) -> None:
    """A canonical ID is read into its segments and written back the same, up to the limits."""
    parsed = SpiffeId.parse(text)
    assert parsed.segments == segments
    assert str(parsed) == text


@given(st.text())
def test_any_text(text: str) -> None:
    """Any text is an ID that is written back the same, or a named error."""
    for candidate in (text, "spiffe://" + text, "spiffe://td/" + text):
        try:
            assert str(SpiffeId.parse(candidate)) == candidate
        except SpiffeIdError as exc:
            assert exc.why
