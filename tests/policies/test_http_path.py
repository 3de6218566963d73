"""Path normalization: the levels as data, and what holds for every path."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.http_path import normalize_path
from policies.mesh import PathNormalization

BASE, DECODE = PathNormalization.BASE, PathNormalization.DECODE_AND_MERGE_SLASHES

CASES = [
    ("/a/../b//c%2f#f?q", [None, "/a/../b//c%2f", "/b//c%2f", "/b/c%2f", "/b/c/"]),
    ("/app//../admin", [None, None, "/app/admin", "/app/admin", "/app/admin"]),
    ("/a%2f..%2fb", [None, None, "/a%2f..%2fb", "/a%2f..%2fb", "/b"]),
    ("/a\\..\\b", [None, None, "/b", "/b", "/b"]),
    ("/%61%7E%2A?%61", [None, None, "/a~%2A?%61", "/a~%2A?%61", "/a~%2A?%61"]),
    ("/%252e%252e/a", [None, None, "/%252e%252e/a", "/%252e%252e/a", "/%252e%252e/a"]),
    ("/%c0%ae%c0%ae/a", [None, None, "/%c0%ae%c0%ae/a", "/%c0%ae%c0%ae/a", "/%c0%ae%c0%ae/a"]),
    ("/..;x=1/a/b;c", [None, None, "/a/b;c", "/a/b;c", "/a/b;c"]),
    ("//", [None, None, "//", "//", "//"]),
    ("/../../a", [None, None, "/a", "/a", "/a"]),
    ("/%%32F", [None, None, "/%252F", "/%252F", "/%252F"]),
]  # fmt: skip


@pytest.mark.parametrize(("path", "wanted"), CASES, ids=lambda value: str(value)[:30])
def test_level(path: str, wanted: list[str | None]) -> None:
    """A path comes out as each level says; None stands for the path as it is."""
    assert [path if each is None else each for each in wanted] == [
        normalize_path(path, level) for level in PathNormalization
    ]


@pytest.mark.parametrize("path", ["/a%00b", "/a\x00b", "/%00?x", "/..;/%00"])
def test_nul_is_refused(path: str) -> None:
    """A NUL in the path is Envoy's 400 wherever it canonicalizes, and nothing where it does not."""
    assert [path, path, None, None, None] == [
        normalize_path(path, level) for level in PathNormalization
    ]


@given(st.text(alphabet="/\\.%2eEfF5cC0;a?#", max_size=40).map("/".__add__))
def test_normal_paths_climb_nowhere(path: str) -> None:
    """After BASE no segment is a dot segment, and the path still starts at the root."""
    normal = normalize_path(path, BASE)
    if normal is None:
        return
    segments = normal.partition("?")[0].split("/")

    assert segments[0] == ""
    assert not {".", ".."} & set(segments)


@given(st.binary(max_size=60))
def test_any_bytes_are_answered(raw: bytes) -> None:
    """Every path, of whatever bytes, is normalized to plain ASCII or refused."""
    path = "/" + raw.decode("utf-8", "surrogateescape")
    normal = normalize_path(path, DECODE)

    assert normal is None or normal.partition("?")[0].isascii()
