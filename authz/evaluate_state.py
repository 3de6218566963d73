"""Policies and Rego named on a command line to a serving state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from authz.policy_bundle_parts import TakeBundle, no_bundles
from authz.provider_parts import load_providers, make_terms, open_doors, patient, revisions
from authz.provider_settings import ProviderSettings
from authz.serving_state import ServingState, combined_revision
from opa_bridge.entrypoint import choose_entrypoint
from opa_bridge.provider import ProviderOptions, RegoProvider, load_provider
from opa_bridge.rego_files import read_modules
from policies.diagnostic import Diagnostic, LoadError, Location, Severity
from policies.files import read_policy_files
from policies.mesh import Mesh
from policies.snapshot import Snapshot, build_snapshot

ANY_PROVIDER = ""
"""The name under which stand the modules that answer for every provider not named itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegoSource:
    """The Rego of one provider; an empty `entrypoint` is chosen by what the modules define."""

    paths: Sequence[Path]
    data: Sequence[Path] = ()
    entrypoint: str = ""


def load_evaluation(
    paths: Sequence[Path],
    mesh: Mesh,
    rego: Mapping[str, RegoSource],
    configured: Sequence[ProviderSettings] = (),
    *,
    take: TakeBundle = no_bundles,
) -> ServingState:
    """Return the state of policy files and of the Rego by provider, without any key fetched.

    `rego` stands in the place of what is `configured` for a provider of that name. A
    provider that no Rego answers for is a warning here: what it guards is denied. `take`
    returns bundles by name.

    Raises:
        LoadError: with the findings of all files.
    """
    own = [each for each in configured if each.name not in rego]
    loaded, problems = load_providers(own, take=take, is_patient=True)
    for name, source in rego.items():
        try:
            loaded[name] = load_rego(name, source)
        except LoadError as exc:
            problems.extend(exc.diagnostics)
    try:
        snapshot = build_snapshot(read_policy_files(paths), mesh)
    except LoadError as exc:
        raise LoadError([*problems, *exc.diagnostics]) from exc
    if problems:
        raise LoadError(problems)
    terms = make_terms(configured, mesh, snapshot.providers)
    asked = dict.fromkeys((*snapshot.providers, *([terms.default] if terms.default else ())))
    providers = {
        name: found
        for name in asked
        if (found := loaded.get(name) or loaded.get(ANY_PROVIDER)) is not None
    }
    return ServingState(
        snapshot=snapshot,
        providers=providers,
        revision=combined_revision(snapshot, revisions(providers)),
        provider_revisions=revisions(providers),
        warnings=(
            *open_doors(terms),
            *snapshot.warnings,
            *(found for provider in loaded.values() for found in provider.warnings),
            *_unanswered(snapshot, providers),
        ),
        terms=terms,
    )


def only_namespace(snapshot: Snapshot) -> str:
    """Return the one namespace that the policies are for, or empty when there are several.

    The root namespace counts only where there is no other.
    """
    metadata = [policy.metadata for policy, _ in snapshot.policies]
    metadata += [found.metadata for found in snapshot.request_authentications]
    metadata += [found.metadata for found in snapshot.peer_authentications]
    names = {each.namespace for each in metadata}
    if len(names) > 1:
        names.discard(snapshot.mesh.root_namespace)
    return names.pop() if len(names) == 1 else ""


def load_rego(name: str, source: RegoSource) -> RegoProvider:
    """Return the provider of Rego from a command line; `ANY_PROVIDER` is called `rego`.

    Raises:
        LoadError: it would not serve.
    """
    entrypoint = source.entrypoint or choose_entrypoint(read_modules(source.paths))
    options = patient(ProviderOptions())
    return load_provider(name or "rego", source.paths, entrypoint, source.data, options)


def _unanswered(
    snapshot: Snapshot, providers: Mapping[str, RegoProvider]
) -> tuple[Diagnostic, ...]:
    """Return a warning for each provider that CUSTOM policies name and nothing answers for."""
    return tuple(
        Diagnostic(
            code="unknown-provider",
            message=f"nothing answers for the provider `{name}`: what its rules match is denied",
            location=Location(ref.file, ref.line),
            help=f"give its Rego with `--rego {name}=PATH`",
            severity=Severity.WARNING,
            resource=f"AuthorizationPolicy/{ref.namespace}/{ref.policy}",
        )
        for name, ref in snapshot.providers.items()
        if name not in providers
    )
