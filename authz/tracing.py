"""A span of each decision, with a child for each phase, joined to the caller's trace.

Spans are made when the answer stands, of the times that were taken anyway: a check waits for
nothing of it. They are handed to a thread that sends them; what a dead collector does not take
is dropped. No text of a request is in a span but its trace context: names are those of policies.

WHY spans leave as JSON: the exporter of protobuf and `xds-protos` both bring the classes of
`opentelemetry.proto`, of different versions, and whichever is installed last breaks the other.

Spec: W3C Trace Context level 1 (`traceparent`, `tracestate`); OTLP 1 over HTTP, JSON encoding.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Final

from authz.errors import TracingError
from authz.phases import PhaseClock
from authz.tracing_settings import TracingSettings
from authz.walk import Outcome
from policies.decision import Layer

try:
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.json.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as exc:
    raise TracingError("`tracing` needs OpenTelemetry: install `meshwarden[otel]`") from exc

_NAME: Final = "ext_authz check"
_TIMEOUT_SECONDS: Final = 5  # BUDGET: how long the collector may take for a batch
_DRAIN_SECONDS: Final = 2.0  # BUDGET: how long the stop waits for spans that are on their way
_CONTEXT: Final = ("traceparent", "tracestate")


class Spans:
    """Makes spans of decisions and sends them. Thread-safe."""

    def __init__(self, settings: TracingSettings, node: str) -> None:
        """Begin to send; `node` names the instance."""
        names = {"service.name": settings.service_name, "service.instance.id": node}
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(settings.ratio)),
            resource=Resource.create(names),
            shutdown_on_exit=False,
        )
        exporter = OTLPSpanExporter(endpoint=settings.endpoint, timeout=_TIMEOUT_SECONDS)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("meshwarden")
        self._propagator = TraceContextTextMapPropagator()

    def decided(self, outcome: Outcome, decision_id: str, clock: PhaseClock) -> None:
        """Make the spans of one decision, whose last phase has ended."""
        headers = outcome.request.headers
        carrier = {name: headers[name][0] for name in _CONTEXT if headers.get(name)}
        context = (
            self._propagator.extract(carrier)
            if carrier
            else trace.set_span_in_context(trace.INVALID_SPAN)
        )
        offset = time.time_ns() - int(time.perf_counter() * 1e9)
        begun = offset + int(clock.begun * 1e9)
        span = self._tracer.start_span(
            _NAME,
            context=context,
            kind=trace.SpanKind.SERVER,
            start_time=begun,
            attributes=_attributes(outcome, decision_id),
        )
        if span.is_recording():
            if outcome.decision.layer is Layer.INTERNAL:
                span.set_status(trace.StatusCode.ERROR)
            within = trace.set_span_in_context(span)
            for phase, ended in clock.ends:
                end = offset + int(ended * 1e9)
                child = self._tracer.start_span(str(phase), context=within, start_time=begun)
                child.end(end)
                begun = end
        span.end(begun)

    def close(self) -> None:
        """Send what waits, for a short while."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(_DRAIN_SECONDS)


def _attributes(outcome: Outcome, decision_id: str) -> Mapping[str, str | int]:
    decision = outcome.decision
    found: dict[str, str | int] = {
        "meshwarden.decision_id": decision_id,
        "meshwarden.effect": str(decision.effect),
        "meshwarden.reason": str(decision.reason),
        "meshwarden.layer": str(decision.layer),
        "meshwarden.http_status": decision.http_status,
    }
    if decision.rule is not None:
        found["meshwarden.policy"] = decision.rule.name
        found["meshwarden.place"] = decision.rule.place
    return found
