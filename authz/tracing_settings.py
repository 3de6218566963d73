"""The `tracing:` section: spans of decisions for a collector of OpenTelemetry."""

from __future__ import annotations

from pydantic import Field

from authz.section import Section


class TracingSettings(Section):
    """Where spans go. Needs the extra `meshwarden[otel]`."""

    endpoint: str = Field(
        pattern=r"^https?://[^\s@]+$",
        description="Address that takes traces by OTLP over HTTP, such as "
        "`http://127.0.0.1:4318/v1/traces`.",
    )
    ratio: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Share of the requests without a `traceparent` that become a trace; one with "
        "it is traced where its caller is.",
    )
    service_name: str = Field(
        default="meshwarden", min_length=1, description="`service.name` of the spans."
    )
