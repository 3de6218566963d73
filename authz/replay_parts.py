"""From policies and Rego of a command line to the candidate set that records are replayed by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from authz.custom import CustomTerms
from authz.decide import TokenStage, judge
from authz.serving_state import ServingState
from dryrun.past import NotReplayable, Past
from dryrun.replay import CandidateSet, NewProvider
from opa_bridge.needed_input import NeededInput
from opa_bridge.rego_files import read_modules
from policies.decision import Decision, Provider
from policies.mesh import MeshMode
from policies.request import Request, Workload
from policies.snapshot import WorkloadPolicies

_HTTP = ("attributes", "request", "http")
# Parts of Rego's input that no record holds.
_NEVER_RECORDED: tuple[tuple[str, ...], ...] = (
    (*_HTTP, "body"),
    (*_HTTP, "rawBody"),
    (*_HTTP, "headerMap"),
    ("parsed_body",),
    ("truncated_body",),
    ("attributes", "source", "address"),
    ("attributes", "source", "certificate"),
    ("attributes", "destination"),
    ("attributes", "contextExtensions"),
    ("attributes", "metadataContext"),
    ("attributes", "routeMetadataContext"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRego:
    """The candidate's Rego for a provider, with what it looks at."""

    name: str
    provider: Provider
    revision: str
    needs: NeededInput

    def provider_for(self, past: Past) -> Provider:
        """Return the provider.

        Raises:
            NotReplayable: the Rego may look at what the record does not hold.
        """
        missing = next((path for path in _NEVER_RECORDED if self.needs.holds(*path)), None)
        missing = missing or self._hidden(past)
        if missing is not None:
            where = ".".join(("input", *missing))
            raise NotReplayable(f"the Rego of `{self.name}` looks at `{where}`")
        return self.provider

    def _hidden(self, past: Past) -> tuple[str, ...] | None:
        hidden = past.hidden
        for name in sorted(hidden.headers):
            if self.needs.holds(*_HTTP, "headers", name):
                return (*_HTTP, "headers", name)
        for name in sorted(hidden.claims):
            if self.needs.holds("meshwarden", "claims", name):
                return ("meshwarden", "claims", name)
        if "/request/path" in hidden.places:
            for path in ((*_HTTP, "path"), ("parsed_path",), ("parsed_query",)):
                if self.needs.holds(*path):
                    return path
        return None


def candidate_set(state: ServingState, rego: Mapping[str, Sequence[Path]]) -> CandidateSet:
    """Return the set of a loaded state; `rego` are the modules of providers that are new.

    Raises:
        LoadError: a module cannot be read.
    """

    @cache
    def terms_with(default_provider: str) -> CustomTerms:
        return replace(state.terms, default=default_provider)

    def decided(  # noqa: PLR0913 - the parts of one walk
        policies: WorkloadPolicies,
        request: Request,
        *,
        seen: Request,
        refusal: Decision | None,
        providers: Mapping[str, Provider],
        default_provider: str,
    ) -> Decision:
        stage = TokenStage(refusal=refusal, verified=seen)
        terms = terms_with(default_provider)
        return judge(policies, request, providers, token=stage, terms=terms).decision

    def policies_for(workload: Workload, is_http: bool) -> WorkloadPolicies:
        return state.policies_for(workload, is_http=is_http)

    given: dict[str, NewProvider] = {}
    for name, provider in state.providers.items():
        paths = rego.get(name)
        needs = NeededInput(None) if paths is None else _needs(paths)
        revision = state.provider_revisions.get(name, "")
        given[name] = NewRego(name=name, provider=provider, revision=revision, needs=needs)
    return CandidateSet(
        policies_for=policies_for,
        judge=decided,
        providers=given,
        needs_service=state.needs_service,
        takes_services=state.snapshot.mesh.mode is MeshMode.WAYPOINT,
    )


def _needs(paths: Sequence[Path]) -> NeededInput:
    return NeededInput.of_sources(source for _, source in read_modules(paths))
