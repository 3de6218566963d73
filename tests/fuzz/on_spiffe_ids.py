"""SPIFFE IDs: what is read is the text itself, and stays within the standard's letters."""

from __future__ import annotations

import re

from identity.errors import SpiffeIdError
from identity.spiffe_id import SpiffeId
from tests.fuzz.target import Target

# SPIFFE-ID sections 2.1 and 2.2: the letters of a trust domain, and of a path's segments.
_LETTERS = re.compile(r"spiffe://[a-z0-9._-]{1,255}(/[a-zA-Z0-9._-]+)*", re.ASCII)


def _run(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    try:
        found = SpiffeId.parse(text)
    except SpiffeIdError:
        return
    assert str(found) == text
    assert _LETTERS.fullmatch(text)
    assert not {".", ".."} & set(text.split("/")[3:])
    assert len(text.encode()) <= 2048


def _seeds() -> list[bytes]:
    texts = ("spiffe://a.b/ns/x/sa/y", "spiffe://a", "spiffe://a/", "SPIFFE://a/b", "spiffe://a/..")
    return [text.encode() for text in texts]


TARGET = Target(run=_run, seeds=_seeds, words=("spiffe://", "/ns/", "..", "%2f"), share=0.5)
