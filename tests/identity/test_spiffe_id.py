"""SPIFFE IDs: what the standard allows, and nothing beside it."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from identity.errors import SpiffeIdError
from identity.spiffe_id import SpiffeId, TrustDomain

TRUST_DOMAIN_CHARS = set(string.ascii_lowercase + string.digits + ".-_")
PATH_CHARS = set(string.ascii_letters + string.digits + ".-_")
CORPUS = yaml.safe_load(Path(__file__).with_name("spiffe_ids.yaml").read_text("utf-8"))


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


@pytest.mark.parametrize("row", CORPUS, ids=lambda row: ascii(row["text"]))
def test_corpus(row: dict[str, str]) -> None:
    """Each spelling is an ID or refused for its own reason, and never folded into an ID."""
    if "why" not in row:
        assert row["text"] == str(SpiffeId.parse(row["text"]))
        return
    with pytest.raises(SpiffeIdError) as caught:
        SpiffeId.parse(row["text"])
    assert row["why"] in caught.value.why


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("spiffe://" + "a" * 256 + "/x", "255 bytes"),
        ("spiffe://td/" + "a" * (2048 - 11), "2048 bytes"),
        ("spiffe://td/" + "a/" * 5000, "2048 bytes"),
        ("spiffe://td/" + "\u00e4" * 1500, "path segment"),
        ("spiffe://td/\ud800", "path segment"),
    ],
)
def test_limits(text: str, why: str) -> None:
    """A trust domain ends at 255 bytes and an ID at 2048, and half a character is none."""
    with pytest.raises(SpiffeIdError) as caught:
        SpiffeId.parse(text)
    assert why in caught.value.why


@pytest.mark.parametrize("path", ["a", "/", "//", "/a/", "/..", "/a b", "/%61", "/" + "a" * 2048])
def test_no_value_holds_another_path(path: str) -> None:
    """An ID put together from parts is held to the same rules as one that is read."""
    with pytest.raises(SpiffeIdError):
        SpiffeId(TrustDomain("td"), path)


@pytest.mark.parametrize("text", ["spiffe://td/a\nforged log line", "\x1b[2J", "spiffe://\u202e"])
def test_a_refusal_is_one_printable_line(text: str) -> None:
    """What an attacker writes does not reach a log as more than plain characters."""
    with pytest.raises(SpiffeIdError) as caught:
        SpiffeId.parse(text)
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()


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
