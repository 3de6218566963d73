"""From `providers:` to what answers, and the terms on which it is asked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from authz.custom import CustomTerms, ProviderTerms
from authz.denial import FORBIDDEN
from authz.policy_bundle_parts import TakeBundle, no_bundles
from authz.provider_memory import ProviderMemory
from authz.provider_settings import ProviderSettings
from opa_bridge.bundle_policy import policy_of
from opa_bridge.provider import (
    ProviderOptions,
    RegoPolicy,
    RegoProvider,
    WatchEngine,
    connect_provider,
    policy_in_files,
    provide,
)
from policies.diagnostic import Diagnostic, LoadError, Location, Severity
from policies.mesh import Mesh

# BUDGET: where nobody waits, a slow machine is no reason for another answer.
_PATIENCE_SECONDS = 10.0


def load_providers(
    settings: Iterable[ProviderSettings],
    *,
    take: TakeBundle = no_bundles,
    memory: ProviderMemory | None = None,
    is_patient: bool = False,
    watch_engine: WatchEngine | None = None,
) -> tuple[dict[str, RegoProvider], list[Diagnostic]]:
    """Return the providers that load, and what is wrong with the others.

    `take` returns bundles by name. `memory` has providers that are still the same.
    `is_patient` is for commands that nobody waits for: an evaluation may take longer there.
    `watch_engine` stands before each embedded engine.
    """
    problems: list[Diagnostic] = []
    providers: dict[str, RegoProvider] = {}
    for each in settings:
        try:
            providers[each.name] = make_provider(
                each, take=take, memory=memory, is_patient=is_patient, watch_engine=watch_engine
            )
        except LoadError as exc:
            problems.extend(exc.diagnostics)
    return providers, problems


def make_provider(
    settings: ProviderSettings,
    *,
    take: TakeBundle = no_bundles,
    memory: ProviderMemory | None = None,
    is_patient: bool = False,
    watch_engine: WatchEngine | None = None,
) -> RegoProvider:
    """Return one provider, proven on sample requests.

    Raises:
        LoadError: its files, or the server that it names, would not serve.
    """
    rego = settings.rego
    options = rego.to_options()
    options = patient(options) if is_patient else options
    options = replace(options, watch=watch_engine)
    if memory is not None:
        options = replace(options, compiled=memory.compiled)
    if rego.opa is not None:
        return connect_provider(settings.name, rego.opa.to_server(), rego.entrypoint, options)
    bundles = [take(name) for name in rego.bundles]
    if bundles:
        policy = policy_of(bundles, rego.entrypoint)
        mark = policy.revision
    else:
        policy = policy_in_files(rego.paths, rego.entrypoint, rego.data)
        mark = _mark(policy)

    def make() -> RegoProvider:
        made = provide(settings.name, policy, rego.entrypoint, options)
        told = [found for bundle in bundles for found in bundle.warnings]
        return replace(made, warnings=(*told, *made.warnings))

    return make() if memory is None else memory.find(settings, mark, make)


def _mark(policy: RegoPolicy) -> str:
    """Return what tells a policy of files from others: findings name files, a revision does not."""
    # WHY unsorted: the keys of YAML are not all texts, and what is sorted has to compare.
    whole = json.dumps([policy.revision, policy.place, policy.modules, policy.data])
    return hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()


def patient(options: ProviderOptions) -> ProviderOptions:
    """Return the options with time enough for a slow machine."""
    return replace(options, budget_seconds=max(options.budget_seconds, _PATIENCE_SECONDS))


def make_terms(
    settings: Sequence[ProviderSettings], mesh: Mesh, names: Iterable[str] = ()
) -> CustomTerms:
    """Return how the providers are asked, and what the failure of each one means.

    `names` are those of providers without settings.
    """
    statuses = {
        each.name: int(each.status_on_error)
        for each in mesh.extension_providers
        if each.status_on_error
    }
    return CustomTerms(
        default=next((each.name for each in settings if each.default), ""),
        asks_several=mesh.multiple_providers is not False,
        of={name: ProviderTerms(error_status=statuses.get(name, FORBIDDEN)) for name in names}
        | {
            each.name: ProviderTerms(
                fails_open=each.fail_open, error_status=statuses.get(each.name, FORBIDDEN)
            )
            for each in settings
        },
    )


def open_doors(terms: CustomTerms) -> tuple[Diagnostic, ...]:
    """Return a warning for each provider that fails open."""
    return tuple(
        Diagnostic(
            code="fail-open",
            message=f"the provider `{name}` fails open: a request that makes it fail, or that "
            "comes while it is out of order, is not denied by it",
            location=Location(f"provider {name}"),
            help="leave `failOpen` out, unless an outage is worse than an intruder",
            severity=Severity.WARNING,
        )
        for name, each in terms.of.items()
        if each.fails_open
    )


def revisions(providers: Mapping[str, RegoProvider]) -> dict[str, str]:
    """Return the revision of each provider by its name."""
    return {name: provider.revision for name, provider in providers.items()}
