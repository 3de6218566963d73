"""The path as Envoy leaves it: the normalization levels of MeshConfig, for callers without Envoy.

Theory of operation. Envoy works in one pass and in this order: cut the fragment,
unescape slashes, canonicalize, merge slashes. Each step is a function here; what
stands behind the first `?` is never touched. A path is the text of its bytes,
where a byte that is not UTF-8 is a surrogate escape.

Spec: Envoy HttpConnectionManager `normalize_path`, `merge_slashes`,
`path_with_escaped_slashes_action`; Istio MeshConfig.ProxyPathNormalization.
"""

from __future__ import annotations

import re

from policies.mesh import PathNormalization

_ESCAPED_SLASH = re.compile(r"%(2F|2f|5C|5c)")
_DOTS_WITH_PARAMETERS = re.compile(r"(?<=/)(\.\.?);[^/]*")
_LETTERS_AND_DIGITS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
# The bytes whose escape is undone, and those that need none.
_UNRESERVED = frozenset(b"-._~" + _LETTERS_AND_DIGITS)
_PLAIN = _UNRESERVED | frozenset(b"!$&'()*+,/:;=@[]")
# Nothing in such a path is anything but itself, unless a segment begins with a dot.
_CANONICAL = re.compile(r"/[-._~A-Za-z0-9!$&'()*+,/:;=@\[\]]*+", re.ASCII)
_DOT, _SLASH, _BACKSLASH, _PERCENT = b"./\\%"
_DOTS = (b".", b"%2e", b"%2E")
_HEX = frozenset(b"0123456789abcdefABCDEF")

_NORMALIZING = frozenset(
    {
        PathNormalization.BASE,
        PathNormalization.MERGE_SLASHES,
        PathNormalization.DECODE_AND_MERGE_SLASHES,
    }
)
_MERGING = _NORMALIZING - {PathNormalization.BASE}


def normalize_path(path: str, level: PathNormalization) -> str | None:
    """Return the path (with its query) after normalization, or None where Envoy answers 400.

    >>> normalize_path("/a/%2e%2e/b?c=/../", PathNormalization.BASE)
    '/b?c=/../'
    """
    if level is PathNormalization.AS_IS or not path:
        return path
    # "Throw away fragment from URI path."
    path = path.partition("#")[0]
    path, mark, query = path.partition("?")
    if level is PathNormalization.DECODE_AND_MERGE_SLASHES:
        path = _unescape_slashes(path)
    # WHY asked first: most paths are, and the steps below go byte by byte.
    is_canonical = _CANONICAL.fullmatch(path) is not None and "/." not in path
    if level in _NORMALIZING and not is_canonical:
        # "Strip URL path parameters from dot and dotdot segments" (CVE-2026-73551).
        path = _DOTS_WITH_PARAMETERS.sub(r"\1", path)
        canonical = _canonicalize(path.encode("utf-8", "surrogateescape"))
        if canonical is None:
            return None
        path = canonical
    if level in _MERGING:
        # "Merge slashes after path normalization to catch potential edge cases."
        path = _merge_slashes(path)
    return path + mark + query


def is_canonical(target: str) -> bool:
    """Whether a path without its query is surely what it is after every level's normalization."""
    return _CANONICAL.fullmatch(target) is not None and "/." not in target and "//" not in target


def _unescape_slashes(path: str) -> str:
    return _ESCAPED_SLASH.sub(lambda found: "/" if found[1] in ("2F", "2f") else "\\", path)


def _merge_slashes(path: str) -> str:
    if "//" not in path:
        return path
    head = "/" if path.startswith("/") else ""
    tail = "/" if path.endswith("/") else ""
    # A path of slashes alone keeps two: its first is the head and its last the tail.
    return head + "/".join(part for part in path.split("/") if part) + tail


def _canonicalize(path: bytes) -> str | None:
    """Return the canonical path, or None for one that holds a NUL."""
    out = bytearray() if path[:1] in (b"/", b"\\") else bytearray(b"/")
    at, bare_percent = 0, -3
    while at < len(path):
        byte = path[at]
        dot = _dot_length(path, at)
        if dot:
            at = _after_dot(path, at, dot, out)
        elif byte == _PERCENT and _is_escape(path, at):
            value = int(path[at + 1 : at + 3], 16)
            if value == 0:
                return None
            # What needs no escape loses it; any other keeps the case of its digits.
            out += bytes((value,)) if value in _UNRESERVED else path[at : at + 3]
            at += 3
            if value in _UNRESERVED:
                _keep_single_escape(out, bare_percent, path[at : at + 1])
        elif byte == 0:
            return None
        else:
            if byte == _PERCENT:
                bare_percent = len(out)
            out += _written(byte)
            at += 1
    return out.decode("ascii")


def _written(byte: int) -> bytes:
    if byte == _BACKSLASH:
        return b"/"
    return bytes((byte,)) if byte in _PLAIN or byte == _PERCENT else b"%%%02X" % byte


def _keep_single_escape(out: bytearray, percent: int, following: bytes) -> None:
    """Escape a bare `%` that would start an escape with the letter just written after it."""
    if len(out) - 3 > percent or out[percent : percent + 1] != b"%":
        return
    if _is_escape(bytes(out[percent:]) + following, 0):
        out[percent + 1 : percent + 1] = b"25"


def _after_dot(path: bytes, at: int, dot: int, out: bytearray) -> int:
    """Write what a dot at `at` (of `dot` bytes) means; return where reading goes on."""
    after = at + dot
    if not out.endswith(b"/"):
        out.append(_DOT)
        return after
    if _ends_segment(path, after):
        return after + 1
    second = _dot_length(path, after)
    if second and _ends_segment(path, after + second):
        _back_up(out)
        return after + second + 1
    out.append(_DOT)
    return after


def _back_up(out: bytearray) -> None:
    """Drop the last segment; the root has none above it."""
    if len(out) > 1:
        del out[out.rindex(b"/", 0, len(out) - 1) + 1 :]


def _dot_length(path: bytes, at: int) -> int:
    return next((len(dot) for dot in _DOTS if path.startswith(dot, at)), 0)


def _ends_segment(path: bytes, at: int) -> bool:
    return at >= len(path) or path[at] in (_SLASH, _BACKSLASH)


def _is_escape(path: bytes, at: int) -> bool:
    return len(path) >= at + 3 and path[at + 1] in _HEX and path[at + 2] in _HEX
