"""What a finding says of a request, so that the evaluator can be asked before it is told.

INVARIANT: the linter never contradicts the engine. A finding about what policies do together
comes with requests and the answers they must get; one other answer, and it is not told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from policies.decision import Decision, Effect, Layer
from policies.diagnostic import shown
from policies.mesh import Mesh
from policies.model import Resource
from policies.request import Request

Judge = Callable[[Sequence[Resource], Mesh, Request], Decision]
"""The server's evaluator: what resources, alone in a mesh, say of a request.

Peer and claims are in the request, its workload too. Providers are all taken to refuse.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Under `resources`, the request gets `effect`, and from `layer` where one is given."""

    request: Request
    resources: Sequence[Resource]
    effect: Effect
    layer: Layer | None = None

    def is_confirmed(self, judge: Judge, mesh: Mesh) -> bool:
        """Whether the evaluator answers as claimed."""
        decision = judge(self.resources, mesh, self.request)
        return decision.effect is self.effect and self.layer in (None, decision.layer)

    def __str__(self) -> str:
        """Return the witness in one line, for people."""
        asked = self.request
        target = asked.workload
        to = f" to `{target.namespace}`" if target else ""
        if target and target.labels:
            labels = ", ".join(f"{key}={value}" for key, value in sorted(target.labels.items()))
            to += f" ({shown(labels)})"
        peer = shown(asked.peer.principal) if asked.peer else "a caller without a certificate"
        claims = asked.claims
        token = f", token of `{shown(claims.request_principal or '')}`" if claims else ""
        answer = "allowed" if self.effect is Effect.ALLOW else "denied"
        line = f"{asked.method} {shown(asked.host)}{shown(asked.path)}"
        return f"{line} on port {asked.destination_port}{to} from {peer}{token}: {answer}"

    def document(self) -> dict[str, Any]:
        """Return the witness as JSON values; what is absent is null."""
        asked = self.request
        return {
            "method": asked.method,
            "host": asked.host,
            "path": asked.path,
            "port": asked.destination_port,
            "headers": {name: list(values) for name, values in asked.headers.items()},
            "peer": asked.peer.principal if asked.peer else None,
            "claims": dict(asked.claims.payload) if asked.claims else None,
            "namespace": asked.workload.namespace if asked.workload else "",
            "labels": dict(asked.workload.labels) if asked.workload else {},
            "answer": str(self.effect),
        }
