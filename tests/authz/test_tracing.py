"""Spans of decisions as a real collector takes them: by OTLP over HTTP, joined to the caller's."""

from __future__ import annotations

import gzip
import json
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from checking import MemoryRecorder, ask, make_authorizer, make_message

from authz.errors import TracingError
from authz.phases import Phase
from authz.tracing import Spans
from authz.tracing_settings import TracingSettings

_TRACE, _PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
# OTLP: SPAN_KIND_SERVER.
_SERVER = 2
_DENY_X = {"action": "DENY", "rules": [{"to": [{"operation": {"paths": ["/x"]}}]}]}


class _Collector(ThreadingHTTPServer):
    """Takes traces by OTLP over HTTP, and keeps them."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[bytes] = []

    @property
    def resources(self) -> list[dict[str, Any]]:
        """What was told of each resource."""
        return [each for raw in self.requests for each in json.loads(raw)["resourceSpans"]]

    @property
    def spans(self) -> list[dict[str, Any]]:
        """Every span that came."""
        return [
            span
            for resource in self.resources
            for scope in resource["scopeSpans"]
            for span in scope["spans"]
        ]


class _Handler(BaseHTTPRequestHandler):
    server: _Collector

    def do_POST(self) -> None:
        """Take one batch."""
        raw = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            raw = gzip.decompress(raw)
        self.server.requests.append(raw)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def collector() -> Iterator[_Collector]:
    """A collector on loopback."""
    server = _Collector()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def _check(collector: _Collector, message: Any, ratio: float = 1.0) -> MemoryRecorder:
    """Answer one message with spans on, and wait until they were sent."""
    port = collector.server_address[1]
    settings = TracingSettings(endpoint=f"http://127.0.0.1:{port}/v1/traces", ratio=ratio)
    spans, recorder = Spans(settings, "node-a"), MemoryRecorder()
    authorizer = replace(make_authorizer([{"rules": [{}]}, _DENY_X], recorder), spans=spans)
    ask(authorizer, message)
    spans.close()
    return recorder


def _texts(owner: dict[str, Any]) -> dict[str, str]:
    """Return the attributes that are texts."""
    return {each["key"]: each["value"].get("stringValue", "") for each in owner["attributes"]}


def test_a_decision_is_a_span_with_a_child_for_each_phase(collector: _Collector) -> None:
    """The span tells the decision and joins the caller's trace, its children follow each other."""
    message = make_message(path="/x", traceparent=f"00-{_TRACE}-{_PARENT}-01")
    recorder = _check(collector, message)
    (span,) = [each for each in collector.spans if each["kind"] == _SERVER]
    assert (span["traceId"], span["parentSpanId"]) == (_TRACE, _PARENT)
    assert _texts(span)["meshwarden.decision_id"] == recorder.records[0].decision_id
    assert _texts(span)["meshwarden.policy"] == "shop/p1#0"
    assert _texts(span)["meshwarden.effect"] == "deny"
    children = [each for each in collector.spans if each.get("parentSpanId") == span["spanId"]]
    assert [each["name"] for each in children] == [
        phase for phase in Phase if phase in {each["name"] for each in children}
    ]
    assert {Phase.DECODE, Phase.POLICIES, Phase.ANSWER, Phase.RECORD} <= {
        each["name"] for each in children
    }
    assert children[0]["startTimeUnixNano"] == span["startTimeUnixNano"]
    assert children[-1]["endTimeUnixNano"] == span["endTimeUnixNano"]
    for one, other in zip(children, children[1:], strict=False):
        assert one["endTimeUnixNano"] == other["startTimeUnixNano"]
    names = _texts(collector.resources[0]["resource"])
    assert names["service.name"] == "meshwarden"
    assert names["service.instance.id"] == "node-a"


@pytest.mark.parametrize(
    ("traceparent", "ratio", "spans"),
    [
        ("", 1.0, True),
        ("", 0.0, False),
        (f"00-{_TRACE}-{_PARENT}-01", 0.0, True),
        (f"00-{_TRACE}-{_PARENT}-00", 1.0, False),
        ("00-nonsense-\x00-zz", 1.0, True),
        (f"ff-{_TRACE}-{_PARENT}-01" * 100, 1.0, True),
    ],
)
def test_the_caller_says_whether_it_is_traced(
    collector: _Collector, traceparent: str, ratio: float, spans: bool
) -> None:
    """A caller's wish counts; without a whole one the share decides, and a trace begins here."""
    headers = {"traceparent": traceparent} if traceparent else {}
    _check(collector, make_message(**headers), ratio)
    assert bool(collector.spans) is spans


def test_no_text_of_a_request_is_in_a_span(collector: _Collector) -> None:
    """Secrets in path, headers and host are in no byte that is sent."""
    secret = "s3cr3t-of-a-stranger"
    message = make_message(path=f"/{secret}?token={secret}", authorization=f"Bearer {secret}")
    _check(collector, message)
    assert collector.spans
    assert not any(secret.encode() in each for each in collector.requests)


def test_a_dead_collector_costs_no_answer() -> None:
    """Where nobody takes spans, checks are answered and the stop does not wait for long."""
    spans = Spans(TracingSettings(endpoint="http://127.0.0.1:1/v1/traces"), "n")
    authorizer = replace(make_authorizer([{"rules": [{}]}]), spans=spans)
    assert ask(authorizer, make_message()).status.code == 0
    spans.close()


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the error says what to install."""
    monkeypatch.delitem(sys.modules, "authz.tracing")
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(TracingError, match=r"meshwarden\[otel\]"):
        __import__("authz.tracing")
