"""Where a rule looks for tokens, and what it finds there.

Spec: Istio RequestAuthentication, `jwtRules[].fromHeaders`, `fromParams`,
`fromCookies` and their default; the details are Envoy's, measured on 1.40.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from urllib.parse import unquote_to_bytes

from identity.jose import has_jws_shape
from identity.jwt_rule import JwtRule, TokenHeader

_DEFAULT_HEADER: Final = TokenHeader("Authorization", "Bearer ")
_DEFAULT_PARAM: Final = "access_token"
_TOKEN_CHAR: Final = re.compile(r"[A-Za-z0-9_.-]", re.ASCII)
_TOKEN: Final = re.compile(r"[A-Za-z0-9_.-]++", re.ASCII)
_NO_TOKEN_CHAR: Final = re.compile(r"[^A-Za-z0-9_.-]", re.ASCII)
# RFC 6750 §2.1, b64token, with one of the letters that no JWT has.
_OPAQUE: Final = re.compile(r"(?=.*[~+/=])[A-Za-z0-9._~+/-]+=*", re.ASCII)
_QUOTED: Final = 2

Headers = Mapping[str, tuple[str, ...]]
"""Request headers: lower-case name to every value in order."""


class TokenPlace(StrEnum):
    """The kind of place a token was found in."""

    HEADER = "header"
    PARAM = "param"
    COOKIE = "cookie"


@dataclass(frozen=True, slots=True)
class FoundToken:
    """A text found where a token may stand; `name` is lower case for headers only."""

    text: str
    place: TokenPlace
    name: str

    def __repr__(self) -> str:
        """Return where the token stood; its text is a secret."""
        return f"FoundToken({self.place} {self.name})"


def find_tokens(rule: JwtRule, headers: Headers, path: str) -> tuple[FoundToken, ...]:
    """Return what stands at the rule's locations: headers, then parameters, then cookies.

    `path` includes the query.
    """
    wanted_headers = rule.from_headers if _names_places(rule) else (_DEFAULT_HEADER,)
    found = _in_headers(wanted_headers, headers)
    wanted_params = _params_of(rule)
    if wanted_params and "?" in path:
        params = _query_params(path.partition("?")[2])
        found += _in_values(TokenPlace.PARAM, wanted_params, params)
    if rule.from_cookies and "cookie" in headers:
        found += _in_values(TokenPlace.COOKIE, rule.from_cookies, _cookies(headers["cookie"]))
    return tuple(found)


def token_params(rules: Iterable[JwtRule]) -> frozenset[str]:
    """Return the query parameters in which any of these rules looks for a token."""
    return frozenset(name for rule in rules for name in _params_of(rule))


def holds_param(query: str, names: Collection[str]) -> bool:
    """Whether a query has a parameter of one of these names, for `find_tokens`."""
    may_hold = "%" in query
    for name in names:  # one that is not encoded stands there as it is
        may_hold = may_hold or name in query
    return may_hold and not _query_params(query).keys().isdisjoint(names)


def _names_places(rule: JwtRule) -> bool:
    return bool(rule.from_headers or rule.from_params or rule.from_cookies)


def _params_of(rule: JwtRule) -> tuple[str, ...]:
    # "If no location is given: `Authorization: Bearer`, then the parameter `access_token`."
    return rule.from_params if _names_places(rule) else (_DEFAULT_PARAM,)


def _in_headers(wanted: tuple[TokenHeader, ...], headers: Headers) -> list[FoundToken]:
    """Return the tokens in headers, by name and prefix as Envoy orders them."""
    by_key = {each.name.lower() + each.prefix: each for each in wanted}
    found: list[FoundToken] = []
    for _, each in sorted(by_key.items()):
        name = each.name.lower()
        values = headers.get(name)
        if values is None:
            continue
        # WHY joined: Envoy keeps repeated headers of this name as one, those of others apart.
        if each.prefix and name == _DEFAULT_HEADER.name.lower():
            values = (",".join(values),)
        texts = [_after_prefix(value, each.prefix) for value in values] if each.prefix else values
        found += [FoundToken(text, TokenPlace.HEADER, name) for text in texts if text is not None]
    return found


def _after_prefix(value: str, prefix: str) -> str | None:
    """Return the token behind the prefix, which may stand anywhere, or None without it.

    WHY `start + end`: Envoy cuts at the first other character, but takes its
    place for a length, so text behind the token stays in and spoils the
    signature. Cut properly, we would admit what Envoy refuses.
    """
    at = value.find(prefix)
    if at < 0:
        return None
    rest = value[at + len(prefix) :]
    # All rules below say the same of a text that holds nothing else.
    if _TOKEN.fullmatch(rest) is not None:
        return rest
    rest = rest.strip(" ")
    # RFC 6750 §2.1: an opaque token may hold `~`, `+`, `/` and `=`, which end Envoy's run. No
    # text with one of them is a JWT, so that taking it whole admits nothing Envoy refuses.
    if _OPAQUE.fullmatch(rest) is not None and not has_jws_shape(rest):
        return rest
    first = _TOKEN_CHAR.search(value, at + len(prefix))
    if first is None:
        return value
    start = first.start()
    end = _NO_TOKEN_CHAR.search(value, start)
    return value[start:] if end is None else value[start : start + end.start()]


def _in_values(
    place: TokenPlace, wanted: tuple[str, ...], values: Mapping[str, str]
) -> list[FoundToken]:
    """Return the tokens among parameters or cookies, sorted by name."""
    return [FoundToken(values[name], place, name) for name in sorted(set(wanted)) if name in values]


def _query_params(query: str) -> dict[str, str]:
    """Return the first value of each query parameter; `+` and `;` mean themselves."""
    params: dict[str, str] = {}
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        params.setdefault(_percent_decode(name), _percent_decode(value))
    return params


def _percent_decode(text: str) -> str:
    """Return the text with `%XX` decoded; bytes that are not UTF-8 become one odd character."""
    return unquote_to_bytes(text).decode("utf-8", "replace") if "%" in text else text


def _cookies(values: tuple[str, ...]) -> dict[str, str]:
    """Return the first value of each cookie, without the quotes around it (RFC 6265 §4.1.1)."""
    cookies: dict[str, str] = {}
    for piece in ";".join(values).split(";"):
        name, equals, value = piece.partition("=")
        if not equals:
            continue
        if len(value) >= _QUOTED and value[0] == value[-1] == '"':
            value = value[1:-1]
        cookies.setdefault(name.lstrip(" "), value)
    return cookies
