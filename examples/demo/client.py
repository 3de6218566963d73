"""One HTTP request, sent exactly as written."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from examples.demo.loopback import LOOPBACK

_SECONDS: Final = 10.0
_HOST: Final = "orders.shop.test"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back; header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: str
    milliseconds: float


def send(port: int, method: str, target: str, headers: Mapping[str, str] | None = None) -> Answer:
    """Send a request to a port of loopback and return the answer.

    Most clients tidy a path up; this one sends `/public/../admin` as it stands.
    """
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=_SECONDS)
    started = time.perf_counter()
    try:
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in {"host": _HOST, **(headers or {})}.items():
            connection.putheader(name, value)
        if method != "GET":
            connection.putheader("content-length", "0")
        connection.endheaders()
        response = connection.getresponse()
        body = response.read().decode("utf-8", "replace")
        spent = time.perf_counter() - started
    finally:
        connection.close()
    answered = {name.lower(): value for name, value in response.getheaders()}
    return Answer(status=response.status, headers=answered, body=body, milliseconds=spent * 1000)


def fetch_json(port: int, target: str) -> Any:
    """Return the JSON document at a path of loopback, None while nobody answers with one."""
    try:
        answer = send(port, "GET", target)
        return json.loads(answer.body) if answer.status == http.HTTPStatus.OK else None
    except (OSError, http.client.HTTPException, ValueError):
        return None
