"""Istio's text matchers: exact, prefix, suffix and presence.

Only the first and the last character of a policy value are looked at; a `*`
anywhere else is an ordinary character, and `*foo*` is the suffix `foo*`.
"""

from __future__ import annotations

from collections.abc import Callable
from sys import intern

import re2

TextTest = Callable[[str], bool]
"""A predicate over one attribute text that is present."""

_SPIFFE = "spiffe://"
# A pattern this short cannot reach the limit: no character makes as many as 20 instructions.
_SHORT_PATTERN = 1000
_PROGRAM_MAX = 32768
_TOO_LARGE = "too long: Envoy takes no pattern of this size"
_ASCII_FOLD = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}


def text_matcher(value: str) -> TextTest:
    """Return the test for paths, SNI, claims and metadata, where `*` means not empty.

    >>> text_matcher("/a/*")("/a/b"), text_matcher("*")("")
    (True, False)
    """
    if value == "*":
        return is_text
    return edge_matcher(value)


def is_text(text: str) -> bool:
    """Whether Envoy's regex for presence, `.+`, fits: not empty, and no line end."""
    return bool(text) and "\n" not in text


def header_matcher(value: str) -> TextTest:
    """Return the test for headers and methods, where `*` means present, even if empty."""
    if value == "*":
        return lambda text: True
    return edge_matcher(value)


def host_matcher(value: str) -> TextTest:
    """Return the test for hosts: as for headers, but blind to ASCII case."""
    test = header_matcher(ascii_lower(value))
    return lambda text: test(ascii_lower(text))


def principal_matcher(value: str) -> TextTest:
    """Return the test for a peer's identity, which carries `spiffe://` while policies do not."""
    if value == "*":
        return is_text
    if value.startswith("*"):
        # Envoy gets the full-match regex `spiffe://.*<rest>`.
        tail = value[1:]
        return lambda text: (
            text.startswith(_SPIFFE) and text[len(_SPIFFE) :].endswith(tail) and "\n" not in text
        )
    return edge_matcher(principal_name(value))


# WHY interned: predicate, index and the set before have the same thousands of them.


def principal_name(value: str) -> str:
    """Return the identity that a principal without `*` stands for."""
    return intern(_SPIFFE + value)


def head_of(value: str) -> str:
    """Return the prefix that a value with a `*` at its end asks for."""
    return intern(value[:-1])


def namespace_matcher(value: str) -> TextTest:
    """Return the test for namespaces: a regex over the whole identity, quirks included.

    A `*` may stand anywhere and crosses `/`; something must follow the namespace.
    """
    return _full_match(namespace_pattern(value))


def namespace_pattern(value: str) -> str:
    """Return Istio's regex for a namespace."""
    inner = ".*".join(re2.escape(piece) for piece in value.split("*"))
    return f".*/ns/{inner}/.*"


def service_account_matcher(value: str, policy_namespace: str) -> TextTest:
    """Return the test for `<account>` (of the policy's namespace) or `<namespace>/<account>`."""
    namespace, slash, account = value.partition("/")
    if not slash:
        namespace, account = policy_namespace, value
    return _full_match(
        f"{_SPIFFE}.+/ns/{re2.escape(namespace)}/(.+/|)sa/{re2.escape(account)}(/.+)?"
    )


def trust_domain_matcher(value: str) -> TextTest:
    """Return the test for a trust domain; its one `*` does not cross `/`."""
    if value == "*":
        return lambda text: text.startswith(_SPIFFE)
    if "*" not in value:
        head = f"{_SPIFFE}{value}/"
        return lambda text: text.startswith(head)
    return _full_match(trust_domain_pattern(value))


def trust_domain_pattern(value: str) -> str:
    """Return Istio's regex for a trust domain with a `*` in it."""
    left, _, right = value.partition("*")
    return f"{_SPIFFE}{re2.escape(left)}[^/]*{re2.escape(right)}/.*"


def edge_matcher(value: str) -> TextTest:
    """Return the test of the exact, prefix and suffix forms; a lone `*` is the empty suffix."""
    if value.startswith("*"):
        tail = value[1:]
        return lambda text: text.endswith(tail)
    if value.endswith("*"):
        head = head_of(value)
        return lambda text: text.startswith(head)
    return lambda text: text == value


def pattern_problem(pattern: str) -> str:
    """Return why Envoy would not take a pattern made of a policy's value, or an empty text."""
    if len(pattern) < _SHORT_PATTERN:
        return ""
    # Istio's bootstrap: "re2.max_program_size.error_level" is 32768.
    return "" if _program_size(pattern) <= _PROGRAM_MAX else _TOO_LARGE


def _program_size(pattern: str) -> int:
    """Return how many instructions RE2 makes of a pattern, or more than Envoy allows."""
    # WHY by length first: a character is an instruction, and RE2 itself, where it gives up, does
    # so with a line on stderr for each piece of the pattern.
    if len(pattern) > 2 * _PROGRAM_MAX:
        return _PROGRAM_MAX + 1
    options = re2.Options()
    options.log_errors = False
    try:
        size: int = re2.compile(pattern, options).programsize
    except re2.error:
        return _PROGRAM_MAX + 1
    return size


def _full_match(pattern: str) -> TextTest:
    compiled = re2.compile(pattern)
    return lambda text: compiled.fullmatch(text) is not None


def ascii_lower(text: str) -> str:
    """Return the text with A-Z folded and nothing else: Envoy's comparison knows no Unicode."""
    return text.lower() if text.isascii() else text.translate(_ASCII_FOLD)
