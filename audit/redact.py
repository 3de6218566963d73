"""What must never be in the record, taken out before a line is made.

Theory of operation. Three nets, each of which holds alone:
  1. headers are an allow list; a secret one is shown as present, its value masked;
  2. a secret parameter in a query, fragment or path segment loses its value by name;
  3. every free text is searched for what looks like a token, wherever it came from.
Masking too much costs a reader a glance, masking too little costs a credential:
when in doubt, mask. Every search is linear in the text, which strangers choose.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import lru_cache, partial
from string import digits
from typing import Any, Final, Protocol
from urllib.parse import unquote_plus

from audit.secret_text import MASK, MEMORABLE_TEXT, masked_text

DEFAULT_HEADERS: Final = (
    ":authority",
    ":method",
    ":path",
    ":scheme",
    "accept",
    "content-length",
    "content-type",
    "host",
    "origin",
    "referer",
    "traceparent",
    "user-agent",
    "x-envoy-external-address",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-request-id",
)
DEFAULT_CLAIMS: Final = (
    "aud",
    "azp",
    "client_id",
    "exp",
    "iat",
    "scope",
    "groups",
    "roles",
)
SECRET_HEADERS: Final = frozenset(
    {
        "authorization",
        "proxy-authorization",
        "cookie",
        "set-cookie",
        "x-api-key",
        "x-auth-token",
        "x-csrf-token",
        "x-amz-security-token",
        "x-goog-iap-jwt-assertion",
    }
)
_SECRET_NAMES: Final = frozenset({"code", "sig", "auth", "authorization", "pwd", "pass", "sid"})
_SECRET_ENDINGS: Final = (
    "token",
    "secret",
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "apikey",
    "accesskey",
    "secretkey",
    "privatekey",
    "subscriptionkey",
    "authcode",
    "devicecode",
    "codeverifier",
    "signature",
    "credential",
    "credentials",
    "assertion",
    "samlresponse",
    "sessionid",
    "sessid",
    "jwt",
)
_URL_HEADERS: Final = frozenset({":path", "referer", "origin", "location", "x-envoy-original-path"})
_MAX_DEPTH: Final = 24
_MEMORABLE: Final = 64  # BUDGET: a longer name is read each time
_SETS_MAX: Final = 1024  # BUDGET: distinct sets of token carriers remembered
# What no search for secrets can find anything in: hex digits, dashes, decimal numbers.
PLAIN: Final = re.compile(r"[0-9a-f-]{1,128}", re.ASCII)
_PARAMETER = re.compile(r"[^?&#]+")
# Everything that `_mask_pieces` takes for a name, and more.
_NAME = re.compile(r"(?<![^?&#;=])([^?&#;=]*+)=")
# A URL within a parameter is encoded, once or more often: `%3D`, `%253D`, ...
_NESTED_EQUALS = re.compile(r"%(?:25)*+3[dD]")
_NESTED_NAME = re.compile(r"(?<![A-Za-z0-9_.~-])[A-Za-z0-9_.~-]++\Z", re.ASCII)
_NESTED_END = re.compile(r"%(?:25)*+(?:26|23)|[&#\s]")
_ESCAPE_REST = re.compile(r"^(?:25)*[0-9A-Fa-f]{2}")
# The secret names of parameters, those of headers, and the headers shown like any text.
_Sets = tuple[frozenset[str], frozenset[str], frozenset[str]]


def normal_name(name: str) -> str:
    """Return a name as it is compared: decoded twice, lower case, letters and digits only."""
    return _known_name(name) if len(name) <= _MEMORABLE else _normal_name(name)


@lru_cache(maxsize=4096)  # BUDGET: the names of parameters and headers are few, and asked often
def _known_name(name: str) -> str:
    return _normal_name(name)


def _normal_name(name: str) -> str:
    decoded = unquote_plus(unquote_plus(name))
    return "".join(letter for letter in decoded.lower() if letter.isalnum())


class Hashing(Protocol):
    """What hides values by their hash; names of headers are in lower case."""

    @property
    def headers(self) -> frozenset[str]:
        """The headers whose values it hides."""
        ...

    @property
    def claims(self) -> frozenset[str]:
        """The claims whose values it hides."""
        ...

    def text(self, text: str) -> str:
        """Return the hash of a text."""
        ...

    def value(self, value: Any) -> str:
        """Return the hash of any value of JSON."""
        ...


class Redactor:
    """Takes secrets out of texts, paths, headers and claims. Safe to share."""

    def __init__(
        self,
        *,
        headers: Iterable[str] = DEFAULT_HEADERS,
        claims: Iterable[str] = DEFAULT_CLAIMS,
        secret_headers: Iterable[str] = (),
        secret_parameters: Iterable[str] = (),
        hashing: Hashing | None = None,
    ) -> None:
        """Keep what is shown (`headers`, `claims`) and what is secret beyond the built-in names.

        `hashing` names headers and claims that are shown by a keyed hash.
        """
        self._hashing = hashing
        self._hashed_headers = hashing.headers if hashing else frozenset[str]()
        self._hashed_claims = hashing.claims if hashing else frozenset[str]()
        self._headers = frozenset(name.lower() for name in headers)
        self._claims = frozenset(claims)
        self._secret_headers = SECRET_HEADERS | {name.lower() for name in secret_headers}
        self._sets: dict[frozenset[str], _Sets] = {}
        self._secret_names = _SECRET_NAMES | {normal_name(name) for name in secret_parameters}

    def text(self, text: str) -> str:
        """Return the text with everything that looks like a credential masked."""
        return masked_text(text)

    def path(self, path: str, carriers: frozenset[str] = frozenset()) -> str:
        """Return a path or URL with secret parameters and token-like texts masked."""
        if "=" not in path and "%" not in path:  # nothing has a value
            return self.text(path)
        secret = self._secret_with(carriers)
        if len(path) > MEMORABLE_TEXT:
            return self.text(_masked_path(path, secret))
        return self.text(_known_path(path, secret))

    def headers(
        self, headers: Mapping[str, tuple[str, ...]], carriers: frozenset[str] = frozenset()
    ) -> dict[str, list[str]]:
        """Return the headers that are shown: allowed ones, and secret ones with masked values."""
        found = dict[str, list[str]]()
        for name in sorted(headers):
            shown = self.shown_header(name, headers[name], carriers)
            if shown is not None:
                found[name] = shown
        return found

    def shown_header(
        self, name: str, values: tuple[str, ...], carriers: frozenset[str] = frozenset()
    ) -> list[str] | None:
        """Return the values of one header as they are shown; None where it is not."""
        _, hidden, plain = self._sets_of(carriers)
        if name in plain:
            text = self.text
            return [text(value) for value in values]
        if name in hidden or name in self._headers or name in self._hashed_headers:
            return self._header_values(name, values, hidden, carriers)
        return None

    def hides_header(self, name: str, carriers: frozenset[str] = frozenset()) -> bool:
        """Whether nothing of a header's values is written, not even their hash."""
        if name in self._hashed_headers:
            return False
        return name in self._hidden_with(carriers) or name not in self._headers

    def mask_of(
        self, name: str, carriers: frozenset[str] = frozenset()
    ) -> Callable[[str], str] | None:
        """Return what masks each value of a header that is shown; None where its values are not."""
        if self.hides_header(name, carriers) or name in self._hashed_headers:
            return None
        return partial(self.path, carriers=carriers) if name in _URL_HEADERS else self.text

    def header(
        self, name: str, values: tuple[str, ...], carriers: frozenset[str] = frozenset()
    ) -> list[str]:
        """Return the values of one header masked, whether it is one that is shown or not."""
        hidden = self._hidden_with(carriers)
        return self._header_values(name, values, hidden, carriers)

    def _secret_with(self, carriers: frozenset[str]) -> frozenset[str]:
        """Return the normal names whose values are secret, of parameters."""
        return self._sets_of(carriers)[0]

    def _hidden_with(self, carriers: frozenset[str]) -> frozenset[str]:
        """Return the names whose values are secret, of headers."""
        return self._sets_of(carriers)[1]

    def _sets_of(self, carriers: frozenset[str]) -> _Sets:
        """Return the sets; the carriers are those of a few policies, and asked for each record."""
        known = self._sets.get(carriers)
        if known is None:
            hidden = self._secret_headers | {name.lower() for name in carriers}
            known = (
                self._secret_names | {normal_name(name) for name in carriers},
                hidden,
                self._headers - hidden - self._hashed_headers - _URL_HEADERS,
            )
            if len(self._sets) < _SETS_MAX:
                self._sets[carriers] = known
        return known

    def _header_values(
        self, name: str, values: tuple[str, ...], hidden: Collection[str], carriers: frozenset[str]
    ) -> list[str]:
        if self._hashing is not None and name in self._hashed_headers:
            return [self._hashing.text(value) for value in values]
        if name in hidden:
            return [MASK] * len(values)
        if name in _URL_HEADERS:
            return [self.path(value, carriers) for value in values]
        return [self.text(value) for value in values]

    def claims(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Return the selected claims as plain JSON, token-like texts masked, some by their hash."""
        # `iss` and `sub` stand beside the claims.
        hashed = self._hashed_claims - {"iss", "sub"}
        shown = (self._claims | hashed) & payload.keys()
        return {name: self.claim(name, payload[name]) for name in sorted(shown)}

    def claim(self, name: str, value: Any) -> Any:
        """Return a claim's value masked, or its hash where that is wanted."""
        if self._hashing is not None and name in self._hashed_claims:
            return self._hashing.value(value)
        return self.value(value)

    def hashes_claim(self, name: str) -> bool:
        """Whether a claim's value may stand on record by its hash only."""
        return name in self._hashed_claims

    def value(self, value: Any, depth: int = 0) -> Any:
        """Return any value as plain JSON with its texts masked. Total: never raises."""
        if depth > _MAX_DEPTH:
            return "(nested too deep)"
        match value:
            case str():
                return self.text(value)
            case None | bool() | int():
                return value
            case float():
                return value if math.isfinite(value) else str(value)
            case Mapping():
                return {
                    self.text(str(key)): self._member(key, inner, depth)
                    for key, inner in value.items()
                }
            case list() | tuple() | set() | frozenset():
                return [self.value(inner, depth + 1) for inner in value]
            case _:
                return f"({type(value).__name__})"

    def _member(self, key: object, value: Any, depth: int) -> Any:
        """Return an object member's value; one whose name is secret is masked whole."""
        # Whether there is one, and whether it counts, is no secret.
        if isinstance(value, bool | None) or not _is_secret(
            normal_name(str(key)), self._secret_names
        ):
            return self.value(value, depth + 1)
        return MASK


# BUDGET: a record holds its path twice, and the next one often the same.
@lru_cache(maxsize=512)
def _known_path(path: str, secret: frozenset[str]) -> str:
    return _masked_path(path, secret)


def _masked_path(path: str, secret: frozenset[str]) -> str:
    """Return a path without the values of secret parameters."""
    if "%3D" in path or "%3d" in path or "%25" in path:
        path = _without_nested(path, secret)
    ends = [at for at in (path.find("?"), path.find("#")) if at >= 0]
    cut = min(ends) if ends else len(path)
    head, tail = path[:cut], path[cut:]
    if "=" not in head:
        for name in _NAME.findall(tail):
            if _may_be_secret(name, secret):
                break
        else:
            return path
    if "=" in head:
        head = "/".join([_mask_pieces(segment, secret) for segment in head.split("/")])
    if "=" in tail:
        tail = _PARAMETER.sub(lambda found: _mask_pieces(found[0], secret), tail)
    return head + tail


def _without_nested(path: str, secret: frozenset[str]) -> str:
    """Return a path without the values of secret parameters of URLs that stand in it encoded."""
    shown, done = "", 0
    for found in _NESTED_EQUALS.finditer(path):
        if found.start() < done:
            continue  # within a value that is masked
        # BUDGET: as much is looked at as a name is long.
        before = _NESTED_NAME.search(path, max(done, found.start() - _MEMORABLE), found.start())
        name = "" if before is None else before[0]
        if before is not None and path[before.start() - 1 : before.start()] == "%":
            name = _ESCAPE_REST.sub("", name, count=1)
        if name and _is_secret(normal_name(name), secret):
            end = _NESTED_END.search(path, found.end())
            shown += path[done : found.end()] + MASK
            done = len(path) if end is None else end.start()
    return shown + path[done:]


def _is_secret(name: str, secret: frozenset[str]) -> bool:
    # WHY without its number: `password2` and `token[0]` hold what `password` and `token` do.
    bare = name.rstrip(digits)
    return name in secret or bare in secret or bare.endswith(_SECRET_ENDINGS)


def _may_be_secret(name: str, secret: frozenset[str]) -> bool:
    return len(name) > _MEMORABLE or _known_secret(name, secret)


@lru_cache(maxsize=4096)  # BUDGET: the names of parameters are few, and asked often
def _known_secret(name: str, secret: frozenset[str]) -> bool:
    return _is_secret(normal_name(name), secret)


def _mask_pieces(piece: str, secret: frozenset[str]) -> str:
    """Mask from the first secret `name=` on; `;` starts a name but does not end a value.

    WHY: servers disagree on whether `;` separates, and either reading must hide the value.
    """
    if "=" not in piece:
        return piece
    parts = piece.split(";")
    for index, part in enumerate(parts):
        name, equals, value = part.partition("=")
        if equals and (value or index + 1 < len(parts)) and _is_secret(normal_name(name), secret):
            return ";".join([*parts[:index], f"{name}={MASK}"])
    return piece
