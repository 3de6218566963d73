"""The path and query of a request as values, by the rules of Go's net/url."""

from __future__ import annotations

import re
from urllib.parse import unquote, unquote_plus

from opa_bridge.errors import InputError

_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
# BUDGET: each pair costs microseconds, and a body of one megabyte may hold half a million.
_MOST_PAIRS = 10_000
_ENCODED_SLASH = re.compile(r"%2f", re.IGNORECASE)


def parse_path(path: str, *, is_encoded_slash_taken: bool = False) -> list[str]:
    """Return the decoded segments.

    With `is_encoded_slash_taken` an encoded slash separates, as in opa-envoy-plugin.

    Raises:
        InputError: a bad escape, or an encoded slash, which upstreams read either way.
    """
    raw = path.partition("?")[0]
    if _BAD_ESCAPE.search(raw):
        raise InputError("the path holds a bad percent escape")
    if not is_encoded_slash_taken and _ENCODED_SLASH.search(raw):
        raise InputError("the path holds an encoded slash")
    return unquote(raw, errors="replace").lstrip("/").split("/")


def parse_query(path: str) -> dict[str, list[str]]:
    """Return the query's values by name, by the rules of Go's url.ParseQuery.

    Raises:
        InputError: a bad escape, a `;`, or too many pairs.
    """
    values: dict[str, list[str]] = {}
    query = path.partition("?")[2]
    if query.count("&") >= _MOST_PAIRS:
        raise InputError(f"the query holds more than {_MOST_PAIRS} pairs")
    for pair in query.split("&"):
        if not pair:
            continue
        # Go: "a setting containing a non-URL-encoded semicolon is considered invalid".
        if ";" in pair:
            raise InputError("the query holds a `;`")
        if _BAD_ESCAPE.search(pair):
            raise InputError("the query holds a bad percent escape")
        name, _, value = pair.partition("=")
        decoded = unquote_plus(name, errors="replace")
        values.setdefault(decoded, []).append(unquote_plus(value, errors="replace"))
    return values
