"""`policy eval`: requests in, decisions out, one line each."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import closing
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
from authz.evaluate import (
    MAX_LINE,
    Evaluator,
    MalformedLineError,
    malformed_answer,
    read_lines,
)
from authz.evaluate_state import ANY_PROVIDER, RegoSources, load_evaluation, only_namespace
from authz.logging_setup import logging_aside
from authz.render_findings import counted
from authz.serving_state import ServingState
from identity.address_guard import AddressRules
from identity.document_fetch import DocumentFetcher
from identity.jwks_cache import JwksCache
from policies.diagnostic import shown
from policies.request import Service, Workload

EXIT_ANSWERED = 0
EXIT_MALFORMED = 1

_PATHS = click.Path(path_type=Path)


@click.command("eval", cls=SpreadingCommand, short_help="Decide requests given as JSON lines.")
@click.option(
    "--policies", multiple=True, required=True, type=_PATHS, metavar="PATH...",
    help="Files and folders of Istio policies.",
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

    \b
    Exit codes: 0 every line was a request, whatever its answer; 1 a line was not;
    2 the policies, the Rego, the mesh settings or the command line are wrong.
    """
    with logging_aside(), clear_errors(), closing(_key_cache()) as keys:
        sources = RegoSources(paths=_by_provider(rego), data=rego_data, entrypoint=rego_entrypoint)
        state = load_evaluation(policies, read_mesh(mesh_file), sources)
        prepare_keys(state.snapshot, keys)
        if not quiet:
            _tell(state, keys)
        static = workload
        if service is not None:
            static = replace(workload or Workload(namespace=""), service=service)
        namespace = only_namespace(state.snapshot)
        evaluator = Evaluator(state, keys, static_workload=static, fallback_namespace=namespace)
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


def _key_cache() -> JwksCache:
    """Return a cache that fetches from loopback too.

    WHY: the guard keeps policies from leading a server to its neighbours; here
    whoever wrote the command stands at that machine.
    """
    fetcher = DocumentFetcher(addresses=AddressRules(allow_loopback=True))
    return JwksCache(fetch=fetcher.fetch)


def _by_provider(given: Iterable[str]) -> dict[str, list[Path]]:
    """Return the paths of `--rego` under the provider each is for."""
    found: dict[str, list[Path]] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or "/" in name:
            name, path = ANY_PROVIDER, text
        if not path:
            raise click.BadParameter(f"`{shown(text)}` names no path", param_hint="--rego")
        found.setdefault(name, []).append(Path(path))
    return found


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
