"""The path and query of a request as values, by the rules of Go's net/url."""

from __future__ import annotations

import re
from urllib.parse import unquote, unquote_plus

from opa_bridge.errors import InputError

_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


def parse_path(path: str) -> list[str]:
    """Return the decoded segments; an encoded slash separates, as in opa-envoy-plugin."""
    raw = path.partition("?")[0]
    if _BAD_ESCAPE.search(raw):
        raise InputError("the path holds a bad percent escape")
    return unquote(raw, errors="replace").lstrip("/").split("/")


def parse_query(path: str) -> dict[str, list[str]]:
    """Return the query's values by name, by the rules of Go's url.ParseQuery."""
    values: dict[str, list[str]] = {}
    for pair in path.partition("?")[2].split("&"):
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
