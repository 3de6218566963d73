"""The candidate set of a configuration for a command that ends: loaded once, asked by its clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from authz.candidate_parts import CandidateUnusable, candidate_providers, undisturbing
from authz.evaluate_state import load_evaluation
from authz.policy_bundle_parts import TakeBundle
from authz.serving_state import ServingState
from authz.settings import Settings
from authz.token_parts import TokenParts
from authz.walk import CandidateVerdict, Surroundings, walk_with_peer
from dryrun.candidate import CandidateShadow, SecondsLeft
from policies.decision import Decision
from policies.diagnostic import Diagnostic, LoadError
from policies.mesh import Mesh
from policies.request import Request

# BUDGET: nobody waits for a command as Envoy waits for a server; Rego has its own limit.
_PATIENCE_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateOnce:
    """A candidate set as its files are now; without a `state` it could not be loaded.

    `problems` say why not. `tokens` are its own, so that the enforced set's stay as they are.
    """

    state: ServingState | None
    tokens: TokenParts
    problems: tuple[Diagnostic, ...] = ()

    def verdict(self, around: Surroundings) -> CandidateVerdict:
        """Return what tells the set's verdicts in the surroundings of the enforced walk."""
        own = undisturbing(around, self.tokens)
        state = self.state

        def judge(request: Request, seconds_left: SecondsLeft) -> Decision:
            if state is None:
                raise CandidateUnusable
            return walk_with_peer(request, state, own, seconds_left).decision

        return CandidateShadow(
            judge,
            at_once=judge,
            budget_seconds=_PATIENCE_SECONDS,
            threads=1,
            revision=lambda: "" if state is None else state.revision,
        ).verdict


def load_candidate_once(
    settings: Settings,
    mesh: Mesh,
    tokens: TokenParts,
    take: TakeBundle,
    prepare: Callable[[ServingState], None],
) -> CandidateOnce:
    """Return the set that `dryrun.candidate` names, with its keys fetched by `prepare`.

    One that does not load is told of in its `problems`: as a server, a command goes on without.
    """
    candidate = settings.dryrun.candidate
    assert candidate is not None, "no candidate is configured"
    try:
        state = load_evaluation(candidate.paths, mesh, {}, candidate_providers(settings), take=take)
        prepare(state)
    except LoadError as exc:
        return CandidateOnce(state=None, tokens=tokens, problems=tuple(exc.diagnostics))
    return CandidateOnce(state=state, tokens=tokens)
