"""The files that the configuration names to a serving state: all of it or none of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from authz.policy_bundle_parts import TakeBundle, no_bundles
from authz.provider_memory import ProviderMemory
from authz.provider_parts import load_providers, make_terms, open_doors, revisions
from authz.provider_settings import ProviderSettings
from authz.serving_state import ServingState, combined_revision
from authz.settings import Settings
from identity.errors import KeySourceError
from identity.jwks_cache import JwksCache
from opa_bridge.provider import WatchEngine
from policies.diagnostic import Diagnostic, LoadError, Location
from policies.files import read_policy_files
from policies.mesh import Mesh
from policies.snapshot import Snapshot, build_snapshot

SnapshotOfTexts = Callable[[Iterable[tuple[str, str]], Mesh], Snapshot]
"""Builds the snapshot of `(file name, text)` pairs; raises LoadError."""


def build_state(
    settings: Settings,
    keys: JwksCache,
    *,
    take: TakeBundle = no_bundles,
    memory: ProviderMemory | None = None,
    snapshot_of_texts: SnapshotOfTexts = build_snapshot,
) -> ServingState:
    """Return the state that the configuration's files spell, its keys being fetched.

    `take` returns bundles by name; `memory` has providers that are still the same;
    `snapshot_of_texts` builds the snapshot.

    Raises:
        LoadError: a policy, a Rego module or a key set is wrong; nothing is kept.
    """
    state = load_state(
        settings.policies.paths,
        settings.mesh.to_mesh(),
        settings.providers,
        take=take,
        memory=memory,
        snapshot_of_texts=snapshot_of_texts,
    )
    prepare_keys(state.snapshot, keys)
    return state


def prepare_keys(snapshot: Snapshot, keys: JwksCache) -> None:
    """Begin to fetch the keys that a policy set names, and wait a while for them.

    Raises:
        LoadError: an inline key set is none.
    """
    try:
        keys.prepare(snapshot.jwt_rules)
    except KeySourceError as exc:
        raise LoadError(
            [Diagnostic(code="bad-jwks", message=str(exc), location=_jwks_place(snapshot))]
        ) from exc


def load_state(  # noqa: PLR0913 - three things to load, and how, by keyword
    paths: Sequence[Path],
    mesh: Mesh,
    provider_settings: Sequence[ProviderSettings],
    *,
    take: TakeBundle = no_bundles,
    memory: ProviderMemory | None = None,
    is_patient: bool = False,
    watch_engine: WatchEngine | None = None,
    snapshot_of_texts: SnapshotOfTexts = build_snapshot,
) -> ServingState:
    """Return the state of policy and Rego files, without any key fetched.

    `take` returns bundles by name; `memory` has providers that are still the same.
    `is_patient` is for commands that nobody waits for: an evaluation may take longer there.
    `watch_engine` stands before each embedded Rego engine.

    Raises:
        LoadError: with the findings of all of them.
    """
    providers, problems = load_providers(
        provider_settings, take=take, memory=memory, is_patient=is_patient,
        watch_engine=watch_engine,
    )  # fmt: skip
    snapshot: Snapshot | None = None
    try:
        snapshot = snapshot_of_texts(read_policy_files(paths), mesh)
        problems.extend(_unknown_providers(snapshot, [each.name for each in provider_settings]))
    except LoadError as exc:
        problems.extend(exc.diagnostics)
    if problems or snapshot is None:
        raise LoadError(problems)
    terms = make_terms(provider_settings, mesh)
    return ServingState(
        snapshot=snapshot,
        providers=providers,
        revision=combined_revision(snapshot, revisions(providers)),
        provider_revisions=revisions(providers),
        warnings=(
            *open_doors(terms),
            *snapshot.warnings,
            *(found for provider in providers.values() for found in provider.warnings),
        ),
        terms=terms,
    )


def _unknown_providers(snapshot: Snapshot, known: Sequence[str]) -> list[Diagnostic]:
    """Return an error for each CUSTOM policy whose provider is not configured."""
    return [
        Diagnostic(
            code="unknown-provider",
            message=f"policy `{ref.namespace}/{ref.policy}` names the provider `{name}`",
            location=Location(ref.file, ref.line),
            help=f"configured: {', '.join(known) or 'none'}; add it under `providers:`",
        )
        for name, ref in snapshot.providers.items()
        if name not in known
    ]


def _jwks_place(snapshot: Snapshot) -> Location:
    """Return where the first inline key set stands."""
    for found in snapshot.request_authentications:
        if any(rule.jwks for rule in found.jwt_rules):
            return found.metadata.location
    return Location("")
