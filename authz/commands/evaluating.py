"""What `policy eval` and `policy explain` stand on: policies and Rego, loaded as a server would."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import click

from authz.build import prepare_keys
from authz.bundle_parts import build_bundle_watch
from authz.candidate_once import CandidateOnce, load_candidate_once
from authz.candidate_parts import candidate_providers
from authz.commands.options import read_mesh
from authz.config_file import load_settings
from authz.evaluate import Evaluator
from authz.evaluate_state import ANY_PROVIDER, RegoSource, load_evaluation, only_namespace
from authz.identity_settings import IdentitySettings
from authz.policy_bundle_parts import TakeBundle, load_once
from authz.serve import static_workload
from authz.serving_state import ServingState
from authz.settings import Settings
from authz.token_parts import TokenParts, build_token_parts
from authz.token_settings import JwksSettings
from authz.walk import Surroundings
from identity.bundle_watch import BundleWatch
from identity.deny_list import DenyListWatch, FindDenied, nobody_denied
from policies.diagnostic import shown
from policies.mesh import Mesh
from policies.request import Service, Workload

# WHY loopback: the guard keeps policies from leading a server to its neighbours; whoever
# writes the command stands at that machine. A configuration says for itself.
_AT_HAND = Settings(identity=IdentitySettings(jwks=JwksSettings(allow_loopback=True)))


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What a command line named, ready to be asked."""

    settings: Settings
    tokens: TokenParts
    bundles: BundleWatch
    denied: FindDenied
    state: ServingState
    candidate: CandidateOnce | None = None

    def surroundings(
        self, workload: Workload | None, service: Service | None, *, is_supposed: bool = False
    ) -> Surroundings:
        """Return the surroundings of a walk; what the command line named wins.

        With `is_supposed` the command line named the peer too, who needs no certificate then.
        """
        rules = self.settings.identity.to_peer_rules(self.denied)
        static = workload or static_workload(self.settings.workload)
        if service is not None:
            said = static or Workload(namespace="", has_told_labels=False)
            static = replace(said, service=service)
        return Surroundings(
            keys=self.tokens.keys,
            verify_token=self.tokens.verify,
            static_workload=static,
            headers=self.settings.identity_headers,
            bundles=self.bundles.current,
            peer_rules=replace(rules, is_connection_supposed=is_supposed),
        )

    def evaluator(
        self, workload: Workload | None, service: Service | None, *, is_supposed: bool = False
    ) -> Evaluator:
        """Return what answers requests; a workload that the command line named is the one asked."""
        return Evaluator(
            self.state,
            self.surroundings(workload, service, is_supposed=is_supposed),
            only_namespace(self.state.snapshot),
            is_workload_said=workload is not None,
            candidate=self.candidate,
        )


def prepare_world(
    stack: ExitStack,
    policies: Sequence[Path],
    config: Path | None,
    mesh_file: Path | None,
    sources: Mapping[str, RegoSource],
) -> World:
    """Return what is named, loaded, with keys and bundles fetched; `stack` ends what was opened.

    Raises:
        LoadError: something does not load; with the findings of all files.
        IdentityError: a secret, a trust bundle or the deny list cannot be read.
        OSError: a file cannot be read.
    """
    settings = _AT_HAND if config is None else load_settings(config)
    tokens = build_token_parts(settings.identity)
    stack.callback(tokens.close)
    bundles = build_bundle_watch(settings.identity)
    stack.callback(bundles.stop)
    bundles.start()
    mesh = settings.mesh.to_mesh() if mesh_file is None else read_mesh(mesh_file)
    own = [each for each in settings.providers if each.name not in sources]
    is_tried = settings.dryrun.candidate is not None
    asked = (*own, *(candidate_providers(settings) if is_tried else ()))
    needed = {name for each in asked for name in each.rego.bundles}
    candidate: CandidateOnce | None = None

    def load(take: TakeBundle) -> ServingState:
        nonlocal candidate
        state = load_evaluation(
            policies or settings.policies.paths, mesh, sources, settings.providers, take=take
        )
        if is_tried:
            candidate = _load_candidate(stack, settings, mesh, take)
        return state

    state = load_once([each for each in settings.bundles if each.name in needed], load)
    prepare_keys(state.snapshot, tokens.keys)
    return World(
        settings=settings,
        tokens=tokens,
        bundles=bundles,
        denied=_deny_list(settings.identity.deny_list),
        state=state,
        candidate=candidate,
    )


def _load_candidate(
    stack: ExitStack, settings: Settings, mesh: Mesh, take: TakeBundle
) -> CandidateOnce:
    own = build_token_parts(settings.identity)
    stack.callback(own.close)
    return load_candidate_once(
        settings, mesh, own, take, lambda state: prepare_keys(state.snapshot, own.keys)
    )


def _deny_list(path: Path | None) -> FindDenied:
    """Return what tells the deny list as it stands now: a command ends before another counts."""
    return nobody_denied if path is None else DenyListWatch(path).current


def tell_warnings(world: World) -> None:
    """Write what is odd about the policies, and which keys are not to be had."""
    for warning in world.state.warnings:
        click.echo(str(warning), err=True)
    if world.candidate is not None and world.candidate.state is None:
        for problem in world.candidate.problems:
            click.echo(str(problem), err=True)
        click.echo("warning: the candidate set does not load: it has no verdict", err=True)
    for source in world.tokens.keys.status():
        if not source.is_ready:
            click.echo(
                f"warning: no keys from {source.source}: {source.last_error or 'no answer yet'}; "
                "tokens of this issuer are refused",
                err=True,
            )
    for bundle in world.bundles.status():
        if not bundle.is_ready:
            click.echo(
                f"warning: no trust bundle of `{bundle.trust_domain}`: "
                f"{bundle.last_error or 'no answer yet'}; its peers are refused",
                err=True,
            )


def rego_by_provider(
    given: Iterable[str], data: tuple[Path, ...], entrypoint: str
) -> dict[str, RegoSource]:
    """Return the Rego of the command line by the provider it is for."""
    found: dict[str, list[Path]] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or "/" in name:
            name, path = ANY_PROVIDER, text
        if not path:
            raise click.BadParameter(f"`{shown(text)}` names no path", param_hint="--rego")
        found.setdefault(name, []).append(Path(path))
    return {
        name: RegoSource(paths=paths, data=data, entrypoint=entrypoint)
        for name, paths in found.items()
    }
