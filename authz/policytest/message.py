"""A case as the very message that Envoy would have sent for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TypeVar

from envoy.service.auth.v3.external_auth_pb2 import CheckRequest

from authz.policytest.model import Case, PolicyTestFile, RequestFixture
from authz.policytest.tokens import FixtureError
from authz.workload import (
    NAMESPACE_EXTENSION,
    SERVICE_ACCOUNT_EXTENSION,
    SERVICE_ENTRY_EXTENSION,
    SERVICE_EXTENSION,
)
from policies.diagnostic import Diagnostic, LoadError, Location

Fixture = TypeVar("Fixture")


class Messages:
    """Makes the messages of a test file; `mint` returns the token of a fixture."""

    def __init__(self, suite: PolicyTestFile, mint: Callable[[str], str]) -> None:
        """Begin with no message made."""
        self._suite = suite
        self._mint = mint
        # What all requests of a peer to a workload have in common is made once.
        self._begun: dict[tuple[str | None, str | None], CheckRequest] = {}

    def of(self, case: Case, place: Location) -> bytes:
        """Return the serialized CheckRequest of a case.

        Raises:
            LoadError: the case names a fixture that there is none of.
        """
        ends = (case.from_, case.to)
        if ends not in self._begun:
            self._begun[ends] = self._begin(case, place)
        message = CheckRequest()
        message.CopyFrom(self._begun[ends])
        _fill_http(message, case.request, self._bearer(case, place))
        return bytes(message.SerializeToString())

    def _begin(self, case: Case, place: Location) -> CheckRequest:
        suite = self._suite
        peer = _fixture(case.from_, suite.defaults.from_, suite.identities, "identity", place)
        workload = _fixture(case.to, suite.defaults.to, suite.workloads, "workload", place)
        message = CheckRequest()
        attributes = message.attributes
        attributes.source.principal = peer.spiffe
        attributes.source.address.socket_address.address = peer.ip
        attributes.destination.address.socket_address.port_value = workload.port
        attributes.destination.labels.update(workload.labels)
        attributes.context_extensions[NAMESPACE_EXTENSION] = workload.namespace
        attributes.context_extensions[SERVICE_ACCOUNT_EXTENSION] = workload.service_account
        if workload.service is not None:
            is_entry = workload.service.startswith("ServiceEntry/")
            key = SERVICE_ENTRY_EXTENSION if is_entry else SERVICE_EXTENSION
            name = workload.service.removeprefix("Service/").removeprefix("ServiceEntry/")
            attributes.context_extensions[key] = name
        attributes.request.time.FromDatetime(suite.clock)
        return message

    def _bearer(self, case: Case, place: Location) -> str:
        token = case.token if "token" in case.model_fields_set else self._suite.defaults.token
        try:
            return "" if token is None else self._mint(token)
        except FixtureError as exc:
            raise LoadError([broken_test(place, str(exc))]) from exc


def _fill_http(message: CheckRequest, request: RequestFixture, bearer: str) -> None:
    http = message.attributes.request.http
    http.method, http.path, http.host = request.method, request.path, request.host
    http.scheme, http.protocol = "https", "HTTP/1.1"
    headers: list[tuple[str, str]] = [
        (":method", request.method),
        (":path", request.path),
        (":authority", request.host),
    ]
    for name, value in request.headers.items():
        values = (value,) if isinstance(value, str) else value
        headers.extend((name.lower(), each) for each in values)
    if bearer:
        headers.append(("authorization", f"Bearer {bearer}"))
    if request.has_body:
        body = request.body.encode()
        if "json_" in request.model_fields_set:
            body = json.dumps(request.json_).encode()
            if not any(name == "content-type" for name, _ in headers):
                headers.append(("content-type", "application/json"))
        http.raw_body, http.size = body, len(body)
    for name, value in headers:
        http.header_map.headers.add(key=name, raw_value=value.encode())


def _fixture(
    name: str | None, default: str, known: Mapping[str, Fixture], kind: str, place: Location
) -> Fixture:
    wanted = name or default
    if wanted not in known:
        raise LoadError(
            [broken_test(place, f"no {kind} `{wanted}` is defined", f"known: {', '.join(known)}")]
        )
    return known[wanted]


def broken_test(location: Location, message: str, help_: str = "") -> Diagnostic:
    """Return what is wrong with a test, as a finding at its place."""
    return Diagnostic(code="broken-test", message=message, location=location, help=help_)
