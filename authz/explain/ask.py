"""A request told by flags, as the very message that Envoy would have sent."""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from policies.diagnostic import shown

PLAINTEXT = "plaintext"
"""What `--from` says of a caller without a client certificate."""
_WORKLOAD = re.compile(r"[A-Za-z0-9._-]+/[A-Za-z0-9._-]+")


class UnclearQuestionError(Exception):
    """The flags tell no request; the message says why in one clause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Who asks what. `caller` is a principal, empty for plaintext; `token` is a compact JWT."""

    caller: str = ""
    method: str = "GET"
    path: str = "/"
    host: str = "test.local"
    headers: tuple[tuple[str, str], ...] = ()
    token: str = ""
    source_ip: str = "10.0.0.1"
    port: int = 8080


def caller_of(text: str, trust_domain: str) -> str:
    """Return the principal of `spiffe://...`, `<namespace>/<account>` or `plaintext`.

    >>> caller_of("shop/web", "cluster.local")
    'spiffe://cluster.local/ns/shop/sa/web'

    Raises:
        UnclearQuestionError: the text is none of these.
    """
    if text in ("", PLAINTEXT):
        return ""
    if "://" in text:
        return text
    if _WORKLOAD.fullmatch(text):
        namespace, _, account = text.partition("/")
        return f"spiffe://{trust_domain}/ns/{namespace}/sa/{account}"
    raise UnclearQuestionError(
        f"`{shown(text)}` is neither a SPIFFE ID, nor `<namespace>/<account>`, nor `{PLAINTEXT}`"
    )


def address_of(text: str) -> str:
    """Return the IP address of a caller as it was written.

    Raises:
        UnclearQuestionError: the text is no address.
    """
    try:
        ipaddress.ip_address(text)
    except ValueError as exc:
        raise UnclearQuestionError(f"`{shown(text)}` is no IP address") from exc
    return text


def headers_of(texts: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Return the headers of `name: value` texts, names in lower case.

    Raises:
        UnclearQuestionError: a text has no name and colon.
    """
    found = []
    for text in texts:
        name, colon, value = text.partition(":")
        if not (colon and name.strip()):
            # The text may hold a secret, so it is not quoted.
            raise UnclearQuestionError("a header is not of the form `name: value`")
        found.append((name.strip().lower(), value.strip()))
    return tuple(found)


def to_document(question: Question) -> dict[str, Any]:
    """Return the protobuf JSON of the CheckRequest for a question."""
    pairs = [
        (":method", question.method),
        (":path", question.path),
        (":authority", question.host),
        *question.headers,
    ]
    if question.token:
        pairs.append(("authorization", f"Bearer {question.token}"))
    headers = [
        {"key": name, "rawValue": base64.b64encode(value.encode()).decode()}
        for name, value in pairs
    ]
    http = {
        "method": question.method,
        "path": question.path,
        "host": question.host,
        "scheme": "https",
        "protocol": "HTTP/1.1",
        "headerMap": {"headers": headers},
    }
    return {
        "attributes": {
            "source": {
                "principal": question.caller,
                "address": {"socketAddress": {"address": question.source_ip}},
            },
            "destination": {
                "address": {"socketAddress": {"address": "10.0.0.2", "portValue": question.port}},
            },
            "request": {"http": http},
        }
    }
