"""`glob.match` and `regex.match` for patterns that RE2 reads as Go does.

Go's regular expressions and RE2 are one family; what the two are known to read alike, and what
a test holds against OPA, is taken here, and any other pattern is the library's. Matching takes
time in proportion to the text, whatever the pattern.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final

import re2

from opa_bridge.direct.values import UNDEFINED, Inexact

# BUDGET: a pattern may come from a request; these bound what remembered ones hold in memory.
_PATTERN_MOST: Final = 256
_REMEMBERED: Final = 64
_BYTES_MOST: Final = 1024 * 1024
# Printable ASCII; groups `(`, `(?:` and `(?i)`; escapes that mean one thing; two short repeats.
_ESCAPE: Final = r"\\[dDwWsSbBAzntr.,:;/@!#$%&*+?(){}|^\[\]\\_-]"
_READ_ALIKE: Final = re.compile(rf"(?:{_ESCAPE}|\(\?(?:i\)|:)|\((?!\?)|[ -'*-\[\]-~)])*")
_REPEAT: Final = re.compile(r"\{\d{1,2}(?:,\d{0,2})?\}")
_REPEATS_MOST: Final = 2
_PLAIN_GLOB: Final = re.compile(r"(?:[A-Za-z0-9/._:@ -]|\*(?!\*\*))*")
_STARS: Final = re.compile(r"(\*\*?)")


def matches_regex(pattern: Any, text: Any) -> Any:
    """Return whether a text holds what a pattern describes."""
    if type(pattern) is not str or type(text) is not str:
        return UNDEFINED
    return _compiled(pattern).search(text) is not None


def matches_glob(pattern: Any, delimiters: Any, text: Any) -> Any:
    """Return whether a whole text is of a form, in which `*` stops at a delimiter.

    Spec: OPA: "delimiters [...] defaults to `["."]` if empty"; null is none at all.
    """
    if type(pattern) is not str or type(text) is not str:
        return UNDEFINED
    if delimiters is None:
        signs = ""
    elif isinstance(delimiters, list) and all(
        type(each) is str and len(each) == 1 for each in delimiters
    ):
        signs = "".join(delimiters) or "."
    else:
        raise Inexact("delimiters that are no characters")
    return _compiled_glob(pattern, signs).fullmatch(text) is not None


@lru_cache(maxsize=_REMEMBERED)
def _compiled(pattern: str) -> Any:
    is_small = len(pattern) <= _PATTERN_MOST and pattern.count("{") <= _REPEATS_MOST
    rest = _REPEAT.sub("", pattern)
    if not is_small or "{" in rest.replace(r"\{", "") or not _READ_ALIKE.fullmatch(pattern):
        raise Inexact("a pattern of another form")
    return _new(pattern)


@lru_cache(maxsize=_REMEMBERED)
def _compiled_glob(pattern: str, delimiters: str) -> Any:
    if len(pattern) > _PATTERN_MOST or not _PLAIN_GLOB.fullmatch(pattern):
        raise Inexact("a glob of another form")
    one = f"[^{re2.escape(delimiters)}]*" if delimiters else ".*"
    parts = {"*": one, "**": ".*"}
    return _new(
        "(?s)" + "".join(parts.get(part) or re2.escape(part) for part in _STARS.split(pattern))
    )


def _new(pattern: str) -> Any:
    options = re2.Options()
    options.max_mem = _BYTES_MOST
    options.log_errors = False
    try:
        return re2.compile(pattern, options=options)
    except re2.error as exc:
        raise Inexact("a pattern that does not compile") from exc
