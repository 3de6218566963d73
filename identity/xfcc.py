"""X-Forwarded-Client-Cert: what a proxy says about the certificate of its own client.

A header is a list of elements, one for each proxy that added one, the nearest last. What
stands in it is a claim of whoever sent it; nothing here believes it.

Spec: Envoy, "x-forwarded-client-cert". An element is `Key=value;Key=value`; keys are
blind to case, values are not; a value that holds `,`, `;` or `=` is put in double quotes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from identity.errors import XfccError

HEADER: Final = "x-forwarded-client-cert"

# BUDGET: Envoy takes 60 KiB of headers unless told otherwise, 96 KiB at most.
MAX_HEADER_CHARACTERS: Final = 96 * 1024
# BUDGET: one element for each proxy on the way; nobody has this many.
MAX_ELEMENTS: Final = 32
# BUDGET: a certificate has a handful of names.
MAX_PAIRS: Final = 256

_ONCE: Final = ("hash", "cert", "chain", "subject")
_VISIBLE: Final = re.compile(r"[\t -~]*")
_KEY: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]*", re.ASCII)
# WHY `"` is not among the plain characters: a quote in the middle of a value is how a client
# tries to move the border between what it wrote and what a proxy wrote behind it.
_PLAIN: Final = re.compile(r'[^,;"]*')
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPE: Final = re.compile(r"\\(.)")
_PERCENT: Final = re.compile(r"%([0-9A-Fa-f]{2})?")
_HASH: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_SPACE: Final = " \t"


@dataclass(frozen=True, slots=True, kw_only=True)
class XfccElement:
    """What one proxy wrote about its client.

    `by` are the URI names of the proxy's own certificate, `hash` is the SHA-256 of
    the client's certificate (lower-case hex, empty when absent), `cert` and `chain`
    are PEM texts. `subject` is None when absent and is as Envoy prints it (RFC 2253).
    `others` are the pairs with keys that mean nothing here. `behind_names` are the keys that
    stand where Envoy writes none for a client of one URI: behind `URI` and `DNS` only `DNS`.
    """

    by: tuple[str, ...] = ()
    hash: str = ""
    cert: str = ""
    chain: str = ""
    subject: str | None = None
    uris: tuple[str, ...] = ()
    dns_names: tuple[str, ...] = ()
    others: tuple[tuple[str, str], ...] = ()
    behind_names: tuple[str, ...] = field(default=(), compare=False)

    @property
    def names(self) -> tuple[str, ...]:
        """The client's names in the order in which policies try them: URI, DNS, subject."""
        return (*self.uris, *self.dns_names, *((self.subject,) if self.subject else ()))


def parse_xfcc(text: str) -> tuple[XfccElement, ...]:
    """Return the elements of a header value, the nearest proxy's last; an empty text has none.

    Raises:
        XfccError: the text departs from the grammar anywhere, or is beyond measure.
    """
    if len(text) > MAX_HEADER_CHARACTERS:
        raise XfccError(f"the header is longer than {MAX_HEADER_CHARACTERS} characters")
    if not _VISIBLE.fullmatch(text):
        raise XfccError("the header holds control characters or such as are not ASCII")
    if not text.strip(_SPACE):
        return ()
    elements: list[XfccElement] = []
    for pairs in _elements(text):
        if len(elements) == MAX_ELEMENTS:
            raise XfccError(f"the header has more than {MAX_ELEMENTS} elements")
        elements.append(_element(pairs))
    return tuple(elements)


def _elements(text: str) -> Iterator[list[tuple[str, str]]]:
    """Yield the pairs of each element; the whole text is taken or none of it."""
    pairs: list[tuple[str, str]] = []
    at = 0
    while True:
        at = _skip_space(text, at) if not pairs else at
        key, value, at = _pair(text, at)
        pairs.append((key, value))
        if len(pairs) > MAX_PAIRS:
            raise XfccError(f"an element has more than {MAX_PAIRS} pairs")
        at = _skip_space(text, at)
        if at == len(text):
            yield pairs
            return
        if text[at] == ",":
            yield pairs
            pairs = []
        at += 1


def _pair(text: str, at: int) -> tuple[str, str, int]:
    """Return key, value and the place behind them, which is `,`, `;`, space or the end."""
    key = _KEY.match(text, at)
    if key is None:
        raise XfccError(f"expected a key at character {at}")
    at = key.end()
    if not text.startswith("=", at):
        raise XfccError(f"expected `=` at character {at}")
    at += 1
    name = key.group().lower()
    if not text.startswith('"', at):
        plain = _PLAIN.match(text, at)
        assert plain is not None, "the pattern fits the empty text"
        value, end = plain.group(), plain.end()
        if text.startswith('"', end):
            raise XfccError(f"a quote stands inside a plain value at character {end}")
        return name, value.rstrip(_SPACE), end
    quoted = _QUOTED.match(text, at)
    if quoted is None:
        raise XfccError(f"the quote at character {at} is not closed")
    end = quoted.end()
    if _skip_space(text, end) < len(text) and text[_skip_space(text, end)] not in ",;":
        raise XfccError(f"expected `,` or `;` behind the closed quote at character {end}")
    return name, _unquoted(name, quoted.group(1)), end


def _unquoted(name: str, inner: str) -> str:
    """Return the value of a quoted text.

    WHY the subject stays: RFC 2253 escapes with the same backslash, Envoy adds none of
    its own, and its policies compare the subject with its escapes.
    """
    if name == "subject":
        return inner
    if any(each not in '"\\' for each in _ESCAPE.findall(inner)):
        raise XfccError(f"a backslash in `{name}` stands before neither a quote nor a backslash")
    return _ESCAPE.sub(r"\1", inner)


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at


def _element(pairs: list[tuple[str, str]]) -> XfccElement:
    """Return the element of its pairs; what may stand once and stands twice is refused."""
    found: dict[str, list[str]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    for key in _ONCE:
        if len(found.get(key, ())) > 1:
            raise XfccError(f"`{key}` stands twice in an element")
    known = {*_ONCE, "by", "uri", "dns"}
    return XfccElement(
        by=_present(found, "by"),
        hash=_hash(found.get("hash", [""])[0]),
        cert=_percent_decoded("cert", found.get("cert", [""])[0]),
        chain=_percent_decoded("chain", found.get("chain", [""])[0]),
        subject=found["subject"][0] if "subject" in found else None,
        # "The `URI` key still exists even if the URI is empty": it then names nobody.
        uris=_present(found, "uri"),
        dns_names=_present(found, "dns"),
        others=tuple((key, value) for key, value in pairs if key not in known),
        behind_names=_behind_names([key for key, _ in pairs]),
    )


def _behind_names(keys: list[str]) -> tuple[str, ...]:
    """Return the keys out of Envoy's order: By, Hash, Cert, Chain, Subject, URI, DNS."""
    found: list[str] = []
    has_names = False
    for key in keys:
        if has_names and key != "dns":
            found.append(key)
        has_names = has_names or key in ("uri", "dns")
    return tuple(found)


def _present(found: dict[str, list[str]], key: str) -> tuple[str, ...]:
    return tuple(value for value in found.get(key, ()) if value)


def _hash(value: str) -> str:
    digest = value.lower()
    if digest and not _HASH.fullmatch(digest):
        raise XfccError("`hash` is not a SHA-256 in hex")
    return digest


def _percent_decoded(key: str, value: str) -> str:
    """Return the text behind Envoy's URL encoding, in which `+` is a plus."""
    if any(not digits for digits in _PERCENT.findall(value)):
        raise XfccError(f"`{key}` holds a `%` without two hex digits behind it")
    decoded = _PERCENT.sub(lambda found: chr(int(found.group(1), 16)), value)
    if not decoded.isascii() or "\0" in decoded:
        raise XfccError(f"`{key}` is not the text of a certificate")
    return decoded
