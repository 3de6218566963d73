"""`policy eval`: requests in, decisions out, one line each."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import click

from authz.commands.evaluating import prepare_world, rego_by_provider, tell_warnings
from authz.commands.failing import clear_errors
from authz.commands.options import (
    SERVICE_FORM,
    WORKLOAD_FORM,
    SpreadingCommand,
    parse_service,
    parse_workload,
)
from authz.commands.world_options import world_options
from authz.evaluate import (
    MAX_LINE,
    Evaluator,
    MalformedLineError,
    malformed_answer,
    read_lines,
)
from authz.evaluate_state import only_namespace
from authz.logging_setup import logging_aside
from authz.render_findings import counted
from policies.request import Service, Workload

EXIT_ANSWERED = 0
EXIT_MALFORMED = 1


@click.command("eval", cls=SpreadingCommand, short_help="Decide requests given as JSON lines.")
@world_options
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
    configuration file; its candidate set is among the shadows.

    \b
    Exit codes: 0 every line was a request, whatever its answer; 1 a line was not;
    2 the policies, the Rego, the mesh settings or the command line are wrong.
    """
    if not policies and config is None:
        raise click.UsageError("Missing option '--policies' (or '-c' with a configuration).")
    with ExitStack() as stack:
        stack.enter_context(logging_aside())
        stack.enter_context(clear_errors())
        sources = rego_by_provider(rego, rego_data, rego_entrypoint)
        world = prepare_world(stack, policies, config, mesh_file, sources)
        evaluator = world.evaluator(workload, service)
        if not quiet:
            tell_warnings(world)
        malformed = _answer_all(requests, evaluator)
        if evaluator.fallbacks and not quiet:
            _tell_fallbacks(evaluator, only_namespace(world.state.snapshot))
    raise SystemExit(EXIT_MALFORMED if malformed else EXIT_ANSWERED)


def _tell_fallbacks(evaluator: Evaluator, namespace: str) -> None:
    click.echo(
        f"note: {counted(evaluator.fallbacks, 'request')} without a workload, taken to be for "
        f"the namespace `{namespace}`; `--workload` says otherwise",
        err=True,
    )


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
