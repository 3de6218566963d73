"""`policy eval`: requests in, decisions out, one line each."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import IO

import click

from authz.build import prepare_keys
from authz.commands.failing import clear_errors
from authz.commands.options import (
    SERVICE_FORM,
    WORKLOAD_FORM,
    SpreadingCommand,
    mesh_option,
    parse_service,
    parse_workload,
    read_mesh,
)
from authz.config_file import load_settings
from authz.evaluate import (
    MAX_LINE,
    Evaluator,
    MalformedLineError,
    malformed_answer,
    read_lines,
)
from authz.evaluate_state import ANY_PROVIDER, RegoSource, load_evaluation, only_namespace
from authz.identity_settings import IdentitySettings
from authz.logging_setup import logging_aside
from authz.policy_bundle_parts import load_once
from authz.render_findings import counted
from authz.serve import static_workload
from authz.serving_state import ServingState
from authz.settings import Settings
from authz.token_parts import build_token_parts
from authz.token_settings import JwksSettings
from authz.walk import Surroundings
from identity.jwks_cache import JwksCache
from policies.diagnostic import shown
from policies.request import Service, Workload

EXIT_ANSWERED = 0
EXIT_MALFORMED = 1

_PATHS = click.Path(path_type=Path)
# WHY loopback: the guard keeps policies from leading a server to its neighbours; whoever
# writes the command stands at that machine. A configuration says for itself.
_AT_HAND = Settings(identity=IdentitySettings(jwks=JwksSettings(allow_loopback=True)))


@click.command("eval", cls=SpreadingCommand, short_help="Decide requests given as JSON lines.")
@click.option(
    "--policies", multiple=True, type=_PATHS, metavar="PATH...",
    help="Files and folders of Istio policies.",
)  # fmt: skip
@click.option(
    "-c", "--config", type=click.Path(path_type=Path, dir_okay=False, exists=True), metavar="FILE",
    help="Answer as the server of this configuration; the other options win over what it says.",
)  # fmt: skip
@mesh_option()
@click.option(
    "--rego", multiple=True, metavar="[NAME=]PATH...",
    help="Rego modules that answer for the provider NAME of CUSTOM policies; without NAME, for "
    "every provider that has none of its own.",
)  # fmt: skip
@click.option(
    "--rego-entrypoint", default="", metavar="RULE",
    help="The rule that is asked, as `package/rule`.  [default: envoy/authz/allow; "
    "envoy/authz/result where there is none; else the only `allow`]",
)  # fmt: skip
@click.option(
    "--rego-data", multiple=True, type=_PATHS, metavar="PATH...",
    help="JSON or YAML files merged into Rego's `data`.",
)  # fmt: skip
@click.option(
    "--requests", required=True, type=click.File("rb"), metavar="FILE|-",
    help="The requests, one a line; `-` is standard input.",
)  # fmt: skip
@click.option(
    "--workload", metavar=WORKLOAD_FORM,
    callback=lambda context, option, value: None if value is None else parse_workload(value),
    help="The workload that is asked about, over what the requests say: namespace and labels.",
)  # fmt: skip
@click.option(
    "--service", metavar=SERVICE_FORM,
    callback=lambda context, option, value: None if value is None else parse_service(value),
    help="The service that is asked for, where a request names none (mesh mode `waypoint`).",
)  # fmt: skip
@click.option("-q", "--quiet", is_flag=True, help="No warnings about the policies.")
def eval_command(  # noqa: PLR0913, PLR0917 - the options of one command line
    policies: tuple[Path, ...],
    config: Path | None,
    mesh_file: Path | None,
    rego: tuple[str, ...],
    rego_entrypoint: str,
    rego_data: tuple[Path, ...],
    requests: IO[bytes],
    workload: Workload | None,
    service: Service | None,
    quiet: bool,
) -> None:
    """Decide recorded or made-up requests as the server would, with no Envoy around.

    Each line of FILE is the protobuf JSON of one envoy.service.auth.v3.CheckRequest;
    an RFC 3339 time `at` beside `attributes` is the clock its token is judged by
    (without it: now). Each line of output is the decision, in the same order:

    \b
      {"decision": "deny", "status": 403, "policy": "shop/no-admin", "rule": 0,
       "reason": "deny_rule_matched",
       "shadow": [{"policy": "shop/trial", "rule": 0, "would": "deny"}],
       "audited": [{"policy": "shop/watch", "rule": 0}],
       "layer": "DENY", "detail": "...", "location": "shop.yaml:12"}

    The workload is that of --workload; else what the request says (context extension
    `meshwarden.namespace`, or the namespace in `destination.principal`; labels in
    `destination.labels`); else the only namespace that the policies speak of.
    A line that is no request is answered with a denial, reason `request_malformed`,
    and named on standard error.

    \b
    Examples:
      policy eval --policies examples/policies --rego examples/rego \\
                  --requests examples/requests.jsonl
      policy eval --policies mesh/ --mesh istio-configmap.yaml --requests - < recorded.jsonl

    With -c, policies, providers, mesh, workload and identity settings are those of the
    configuration file.

    \b
    Exit codes: 0 every line was a request, whatever its answer; 1 a line was not;
    2 the policies, the Rego, the mesh settings or the command line are wrong.
    """
    if not policies and config is None:
        raise click.UsageError("Missing option '--policies' (or '-c' with a configuration).")
    with ExitStack() as stack:
        stack.enter_context(logging_aside())
        stack.enter_context(clear_errors())
        settings = _AT_HAND if config is None else load_settings(config)
        tokens = build_token_parts(settings.identity)
        stack.callback(tokens.close)
        sources = rego_by_provider(rego, rego_data, rego_entrypoint)
        mesh = settings.mesh.to_mesh() if mesh_file is None else read_mesh(mesh_file)
        own = [each for each in settings.providers if each.name not in sources]
        needed = {name for each in own for name in each.rego.bundles}
        state = load_once(
            [each for each in settings.bundles if each.name in needed],
            lambda take: load_evaluation(
                policies or settings.policies.paths, mesh, sources, settings.providers, take=take
            ),
        )
        prepare_keys(state.snapshot, tokens.keys)
        if not quiet:
            _tell(state, tokens.keys)
        static = workload or static_workload(settings.workload)
        if service is not None:
            static = replace(static or Workload(namespace=""), service=service)
        around = Surroundings(
            keys=tokens.keys,
            verify_token=tokens.verify,
            static_workload=static,
            peer_rules=settings.identity.to_peer_rules(),
        )
        namespace = only_namespace(state.snapshot)
        evaluator = Evaluator(state, around, namespace)
        malformed = _answer_all(requests, evaluator)
    if evaluator.fallbacks and not quiet:
        click.echo(
            f"note: {counted(evaluator.fallbacks, 'request')} without a workload, taken to be for "
            f"the namespace `{namespace}`; `--workload` says otherwise",
            err=True,
        )
    raise SystemExit(EXIT_MALFORMED if malformed else EXIT_ANSWERED)


def _answer_all(requests: IO[bytes], evaluator: Evaluator) -> int:
    """Print the answer to each line as soon as it is there; return how many were malformed."""
    malformed = 0
    name = getattr(requests, "name", "<stdin>")
    for number, line in read_lines(requests):
        place = f"{name}:{number}"
        try:
            if line is None:
                raise MalformedLineError(f"the line is longer than {MAX_LINE} bytes")
            answer = evaluator.answer(line)
        except MalformedLineError as exc:
            malformed += 1
            click.echo(f"{place}: error: {exc}", err=True)
            answer = malformed_answer(str(exc), place)
        click.echo(json.dumps(answer))
    return malformed


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


def _tell(state: ServingState, keys: JwksCache) -> None:
    """Write what is odd about the policies, and which keys are not to be had."""
    for warning in state.warnings:
        click.echo(str(warning), err=True)
    for source in keys.status():
        if not source.is_ready:
            click.echo(
                f"warning: no keys from {source.source}: {source.last_error or 'no answer yet'}; "
                "tokens of this issuer are refused",
                err=True,
            )
