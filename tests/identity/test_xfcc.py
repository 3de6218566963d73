"""The grammar of X-Forwarded-Client-Cert: what it says, or a named error, whatever arrives."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from identity.errors import XfccError
from identity.xfcc import (
    MAX_ELEMENTS,
    MAX_HEADER_CHARACTERS,
    MAX_PAIRS,
    XfccElement,
    parse_xfcc,
)

CASES = yaml.safe_load(Path(__file__).with_name("xfcc_cases.yaml").read_text("utf-8"))
DIGEST = "0123456789abcdef" * 4


def with_digest(text: str) -> str:
    """Return the text with a digest for its mark."""
    return text.replace("ash=h", f"ash={DIGEST}").replace('ash="h', f'ash="{DIGEST}')


def plain(element: XfccElement) -> dict[str, Any]:
    """Return the fields of an element that are set."""
    empty = XfccElement()
    return {
        each.name: value
        for each in fields(element)
        if (value := getattr(element, each.name)) != getattr(empty, each.name)
    }


def frozen(value: Any) -> Any:
    """Return YAML's lists as the tuples of elements."""
    return tuple(map(frozen, value)) if isinstance(value, list) else value


@pytest.mark.parametrize("case", CASES["good"], ids=lambda case: case["text"][:40])
def test_reads(case: dict[str, Any]) -> None:
    """Every form of the grammar is read to the letter."""
    wanted = [
        {name: DIGEST if value == "h" else frozen(value) for name, value in each.items()}
        for each in case["want"]
    ]

    assert wanted == list(map(plain, parse_xfcc(with_digest(case["text"]))))


@pytest.mark.parametrize("case", CASES["wrong"], ids=lambda case: case["text"][:40])
def test_refuses(case: dict[str, Any]) -> None:
    """What departs from the grammar anywhere is refused as a whole, by name."""
    with pytest.raises(XfccError) as caught:
        parse_xfcc(with_digest(case["text"]))

    assert case["wrong"] in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "URI=" + "a" * MAX_HEADER_CHARACTERS,
        ",".join(["URI=a"] * (MAX_ELEMENTS + 1)),
        ";".join(["URI=a"] * (MAX_PAIRS + 1)),
    ],
)
def test_beyond_measure(text: str) -> None:
    """Length, elements and pairs have a bound."""
    with pytest.raises(XfccError, match="more than|longer than"):
        parse_xfcc(text)


@pytest.mark.parametrize("piece", ['"', "\\", '\\"', "%", "=", ";", "a=\\", 'a="\\'])
def test_long_and_odd(piece: str) -> None:
    """A header full of one odd piece is refused as soon as any other."""
    with pytest.raises(XfccError):
        parse_xfcc('X="' + piece * (90_000 // len(piece)))


@given(st.text() | st.text(alphabet='aByURI=;,"\\ \t%0', max_size=60))
def test_any_text(text: str) -> None:
    """Any text gives elements or the named error."""
    try:
        elements = parse_xfcc(text)
    except XfccError:
        return
    assert all(isinstance(each, XfccElement) for each in elements)


VALUES = st.text(alphabet=st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20)


def quoted(value: str) -> str:
    """Return a value as the grammar quotes it."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


@given(st.lists(st.lists(VALUES, min_size=1, max_size=4), min_size=1, max_size=4))
def test_what_is_quoted_comes_back(elements: list[list[str]]) -> None:
    """Quoted values of any characters are read as they were, each in its element."""
    text = ",".join(";".join(f"URI={quoted(value)}" for value in each) for each in elements)

    assert [tuple(filter(None, each)) for each in elements] == [
        each.uris for each in parse_xfcc(text)
    ]


@given(VALUES | st.text(alphabet='a=;,"\\', max_size=30))
def test_a_prefix_moves_no_border(prefix: str) -> None:
    """Whatever a client wrote, the element that a proxy appends is the last, or all is refused."""
    own = f'By=spiffe://gw;Hash={DIGEST};Subject="CN=x,O=y\\"z";URI=spiffe://td/a;DNS=b'
    try:
        elements = parse_xfcc(f"{prefix},{own}")
    except XfccError:
        return
    assert parse_xfcc(own)[0] == elements[-1]
