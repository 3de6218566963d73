"""A probe in the making, and the choices of which every part of the generator makes use."""

from __future__ import annotations

import base64
import random
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Value

from tests.differential import vocabulary as words
from tests.differential.identities import CLIENTS, is_ipv6
from tests.differential.model import NO_CERTIFICATE, PLAINTEXT

Plain = dict[str, Any]

_FILLERS = ("", "x", "/y", "a", "b.c", "-", "*")


@dataclass(slots=True)
class Draft:
    """A probe in the making."""

    rng: random.Random
    method: str = "GET"
    path: str = "/"
    query: str = ""
    host: str | None = "shop.example"
    headers: list[tuple[str, str]] = field(default_factory=list)
    peer: str = PLAINTEXT
    sni: str = ""
    source: str = "127.0.0.1"
    destination: str = ""
    client: str = ""
    scheme: str = ""
    claims: Plain = field(default_factory=dict)
    fault: str = ""
    has_token: bool = False

    def set_header(self, name: str, value: str) -> None:
        """Give a header this value, be it a pseudo-header's."""
        lower = name.lower()
        if lower in (":authority", "host"):
            self.host = value
        elif lower == ":path":
            self.path, _, self.query = value.partition("?")
        elif lower == ":method":
            self.method = value or "GET"
        elif not lower.startswith(":") and lower != "content-length":
            self.headers.append((name, value))


def encoded_value(plain: Any) -> str:
    """Return a value as the header that Envoy makes metadata of any type from."""
    return base64.b64encode(ParseDict(plain, Value()).SerializeToString()).decode()


def connection(rng: random.Random) -> tuple[str, str, str, str]:
    """Return peer, SNI, source and destination of a connection."""
    peer = rng.choices((PLAINTEXT, NO_CERTIFICATE, rng.choice(tuple(CLIENTS))), (25, 8, 67))[0]
    sni = rng.choice(("", "a.example", "A.example", "b.example", "x.y.example"))
    source = rng.choice(words.SOURCES)
    return peer, "" if peer == PLAINTEXT else sni, source, _destination_for(rng, source)


def _destination_for(rng: random.Random, source: str) -> str:
    fitting = [each for each in words.DESTINATIONS if not each or fits(source, each)]
    return rng.choice(fitting)


def fits(source: str, destination: str) -> bool:
    """Whether both addresses are of one family, as the PROXY protocol wants them."""
    return is_ipv6(source) == destination.startswith("[")


def concrete(rng: random.Random, value: str) -> str:
    """Return a text that the policy value should match: its outer star filled in."""
    if value == "*":
        return rng.choice(("x", "admin", "/x"))
    if "{" in value:
        value = value.replace("{**}", rng.choice(("", "a", "a/b", "a//b", "x.txt")))
        return value.replace("{*}", rng.choice(("a", "b%2fc", "a;b", "", "%C3%BC")))
    if value.startswith("*"):
        return rng.choice(_FILLERS) + value[1:]
    if value.endswith("*"):
        return value[:-1] + rng.choice(_FILLERS)
    return value
