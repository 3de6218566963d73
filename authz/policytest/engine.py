"""A policy set to be asked from Python: what the pytest fixture `policy_engine` hands out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from authz.commands.options import parse_workload
from authz.evaluate import Evaluator
from authz.evaluate_state import ANY_PROVIDER, RegoSource, load_evaluation, only_namespace
from authz.explain.ask import Question, caller_of, to_document
from authz.policytest.model import TokenFixture
from authz.policytest.tokens import TestIssuer
from authz.serving_state import ServingState
from authz.walk import Outcome, Surroundings
from policies.decision import Decision
from policies.mesh import Mesh
from policies.request import Workload

CLOCK: Final = datetime(2026, 1, 15, 10, tzinfo=UTC)
"""The time of every request, as in `*.policytest.yaml`."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A decision, shown so that a failed `assert answer.allowed` says why."""

    outcome: Outcome = field(repr=False)

    @property
    def decision(self) -> Decision:
        """The whole decision."""
        return self.outcome.decision

    @property
    def allowed(self) -> bool:
        """Whether the request may pass."""
        return self.decision.is_allowed

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.decision.http_status

    @property
    def reason(self) -> str:
        """The reason code."""
        return str(self.decision.reason)

    @property
    def rule(self) -> str:
        """The deciding rule, `namespace/name#0`, or its policy; empty where none decided."""
        return "" if self.decision.rule is None else self.decision.rule.name

    @property
    def shadow(self) -> dict[str, str]:
        """The outcome of each dry-run policy by its name."""
        return {verdict.policy: str(verdict.outcome) for verdict in self.outcome.shadow}

    def __repr__(self) -> str:
        """Return the answer with its cause, in one line."""
        decision = self.decision
        place = f" at {decision.rule.place}" if decision.rule is not None else ""
        near = f"; near miss: {decision.near_miss}" if decision.near_miss else ""
        told = f"{decision.effect.upper()} {self.status} ({self.reason}): {decision.detail}"
        return f"<{told}{place}{near}>"


class PolicyEngine:
    """Policies and Rego, answered by the server's own walk; not for several threads."""

    def __init__(
        self,
        *paths: str | Path,
        mesh: Mesh | None = None,
        rego: Mapping[str, Sequence[str | Path]] | Sequence[str | Path] = (),
        entrypoint: str = "",
        clock: datetime = CLOCK,
    ) -> None:
        """Load policy files and folders. `rego` are modules by provider, or for every one.

        Raises:
            LoadError: something does not load; with the findings of all files.
        """
        named = rego if isinstance(rego, Mapping) else ({ANY_PROVIDER: rego} if rego else {})
        sources = {
            name: RegoSource(paths=[Path(each) for each in found], entrypoint=entrypoint)
            for name, found in named.items()
        }
        self.mesh = mesh or Mesh()
        self._clock = clock
        self._issuer = TestIssuer()
        self._state = load_evaluation([Path(path) for path in paths], self.mesh, sources)

    @property
    def state(self) -> ServingState:
        """The loaded state."""
        return self._state

    def ask(  # noqa: PLR0913 - the parts of a request, by keyword
        self,
        method: str = "GET",
        path: str = "/",
        *,
        caller: str = "",
        to: Workload | str | None = None,
        host: str = "test.local",
        headers: Mapping[str, str] | None = None,
        token: str = "",
        ip: str = "10.0.0.1",
        port: int = 8080,
    ) -> Answer:
        """Return the answer to a request.

        `caller` is a SPIFFE ID, or `namespace/account` of the mesh's own trust domain; empty
        is a caller without a certificate. `to` is the workload, `namespace/key=value,...` as
        text; None: the only namespace that the policies speak of.
        """
        workload = parse_workload(to) if isinstance(to, str) else to
        question = Question(
            caller=caller_of(caller, self.mesh.trust_domain),
            method=method,
            path=path,
            host=host,
            headers=tuple((name.lower(), value) for name, value in (headers or {}).items()),
            token=token,
            source_ip=ip,
            port=port,
        )
        document = {**to_document(question), "at": self._clock.isoformat()}
        around = Surroundings(
            keys=self._issuer, now=self._clock.timestamp, static_workload=workload
        )
        evaluator = Evaluator(self._state, around, only_namespace(self._state.snapshot))
        return Answer(evaluator.outcome(json.dumps(document).encode()))

    def token(self, issuer: str, subject: str = "", **claims: Any) -> str:
        """Return a token that every rule of that issuer takes; `aud`, `exp` and so on as claims."""
        fixture = TokenFixture(issuer=issuer, sub=subject or None, claims=claims)
        return self._issuer.mint("asked", {"asked": fixture}, self._clock)
