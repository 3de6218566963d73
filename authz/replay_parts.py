"""From policies and Rego of a command line to the candidate set that records are replayed by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from authz.custom import CustomTerms
from authz.decide import TokenStage, judge
from authz.evaluate_state import ANY_PROVIDER, RegoSource, load_rego
from authz.serving_state import ServingState
from dryrun.past import NotReplayable, Past
from dryrun.replay import CandidateSet
from identity.token_outputs import output_header_names
from opa_bridge.needed_input import NeededInput
from opa_bridge.rego_files import read_modules
from policies.decision import Decision, Provider
from policies.request import Request, Workload
from policies.snapshot import WorkloadPolicies

_HTTP = ("attributes", "request", "http")
_Path = tuple[str, ...]
# Parts of Rego's input that no record holds.
_NEVER_RECORDED: tuple[_Path, ...] = (
    ("attributes", "request", "time"),
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
# What cannot be looked at where a part of the record was masked.
_PATHS: tuple[_Path, ...] = ((*_HTTP, "path"), ("parsed_path",), ("parsed_query",))
_MASKED: Mapping[str, tuple[_Path, ...]] = {
    "/request/path": _PATHS,
    "/request/host": ((*_HTTP, "host"),),
    "/request/method": ((*_HTTP, "method"),),
    "/request/id": ((*_HTTP, "id"),),
    "/subject/issuer": (("meshwarden", "claims", "iss"), ("meshwarden", "request_principal")),
    "/subject/sub": (("meshwarden", "claims", "sub"), ("meshwarden", "request_principal")),
}
_PEER: tuple[_Path, ...] = (
    ("attributes", "source", "principal"),
    ("source_principal",),
    ("meshwarden", "peer"),
)
_SNI: _Path = ("attributes", "tlsSession", "sni")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRego:
    """The candidate's Rego for a provider, with what it looks at."""

    name: str
    provider: Provider
    revision: str
    needs: NeededInput

    @property
    def looks_at_istio(self) -> bool:
        """Whether it looks at what Istio's own policies say."""
        return self.needs.holds("meshwarden", "istio")

    @property
    def looks_at_token(self) -> bool:
        """Whether it looks at what a token proved."""
        names = ("claims", "request_principal")
        return any(self.needs.holds("meshwarden", name) for name in names)

    def provider_for(self, past: Past) -> Provider:
        """Return the provider.

        Raises:
            NotReplayable: the Rego may look at what the record does not hold.
        """
        unknown = (*_NEVER_RECORDED, *_hidden_paths(past))
        missing = next((path for path in unknown if self.needs.holds(*path)), None)
        if missing is not None:
            where = ".".join(("input", *missing))
            raise NotReplayable(f"the Rego of `{self.name}` looks at `{where}`")
        return self.provider


def _hidden_paths(past: Past) -> Iterator[_Path]:
    """Yield the parts of Rego's input that a record holds of others, and not of this one."""
    hidden = past.hidden
    for name in sorted(hidden.headers):
        yield (*_HTTP, "headers", name)
    for name in sorted(hidden.claims):
        yield ("meshwarden", "claims", name)
    for place, paths in _MASKED.items():
        if place in hidden.places:
            yield from paths
    if hidden.is_path_hidden:
        yield from _PATHS
    if hidden.is_peer_hidden:
        yield from _PEER
    if not past.knows("connection.sni", is_custom=True):
        yield _SNI


def load_new_rego(state: ServingState, sources: Mapping[str, RegoSource]) -> dict[str, NewRego]:
    """Return the Rego of a command line by the provider that it answers for.

    Under `ANY_PROVIDER` stands what answers for the others: a record may name providers that
    no policy names, since one can be asked by default.

    Raises:
        LoadError: a module cannot be read, or would not serve.
    """
    loaded = dict(state.providers)
    for name, source in sources.items():
        shared = (loaded[other] for other in state.providers if other not in sources)
        if name not in loaded:
            found = next(shared, None) if name == ANY_PROVIDER else None
            loaded[name] = found or load_rego(name, source)
    return {
        name: NewRego(
            name=name or "rego",
            provider=provider,
            revision=getattr(provider, "revision", ""),
            needs=_needs((sources.get(name) or sources[ANY_PROVIDER]).paths),
        )
        for name, provider in loaded.items()
    }


def candidate_set(state: ServingState, rego: Mapping[str, NewRego]) -> CandidateSet:
    """Return the set of a loaded state; `rego` is what is new of its providers."""

    @cache
    def terms_with(default_provider: str) -> CustomTerms:
        return replace(state.terms, default=default_provider)

    def decided(
        policies: WorkloadPolicies,
        request: Request,
        *,
        seen: Request,
        refusal: Decision | None,
        providers: Mapping[str, Provider],
        default_provider: str,
    ) -> Decision:
        # What a provider makes of a header that the verification writes does not stand.
        owned = output_header_names(policies.jwt_rules) if providers else frozenset[str]()
        stage = TokenStage(refusal=refusal, verified=seen, owned_headers=owned)
        terms = terms_with(default_provider)
        return judge(policies, request, providers, token=stage, terms=terms).decision

    def policies_for(workload: Workload, is_http: bool) -> WorkloadPolicies:
        return state.policies_for(workload, is_http=is_http)

    return CandidateSet(
        policies_for=policies_for,
        judge=decided,
        providers={name: each for name, each in rego.items() if name != ANY_PROVIDER},
        any_provider=rego.get(ANY_PROVIDER),
        needs_service=state.needs_service,
        lacks_labels=state.snapshot.lacks_labels,
        revision=state.revision,
        level=state.snapshot.mesh.path_normalization,
    )


def _needs(paths: Sequence[Path]) -> NeededInput:
    return NeededInput.of_sources(source for _, source in read_modules(paths))
