"""The `decisionMemory:` section: decisions that are not made anew each time."""

from __future__ import annotations

from pydantic import Field

from authz.section import Section


class DecisionMemorySettings(Section):
    """Decisions of policies are remembered until anything they rest on changes."""

    max_decisions: int = Field(
        default=1024,
        ge=0,
        le=1_000_000,
        description="How many are remembered at most, by each worker; 0: none. A decision is kept "
        "for the very same request (but for time, ids, port, length, trace headers, and paths that "
        "policies cannot tell apart), and no longer than a minute. Never kept: what a provider was "
        "asked about, and any refusal of a token or a certificate. Nothing is kept beside "
        "`tracing`, `audit.trace` or a candidate set.",
    )
