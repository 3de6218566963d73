"""`policy explain`: one decision told as a story, or who may do something."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import click
from rich.console import Console

from authz.commands.evaluating import World, prepare_world, rego_by_provider, tell_warnings
from authz.commands.failing import EXIT_UNUSABLE, clear_errors
from authz.commands.options import (
    SERVICE_FORM,
    WORKLOAD_FORM,
    SpreadingCommand,
    parse_service,
    parse_workload,
)
from authz.commands.world_options import world_options
from authz.evaluate import MAX_LINE, MalformedLineError
from authz.evaluate_state import only_namespace
from authz.explain.ask import (
    Question,
    UnclearQuestionError,
    address_of,
    caller_of,
    headers_of,
    to_document,
)
from authz.explain.document import to_document as story_document
from authz.explain.render import print_story
from authz.explain.story import tell
from authz.explain.who_can import WhoCan, find_who_can, print_who_can, who_can_document
from authz.logging_setup import logging_aside
from authz.serving_state import ServingState
from authz.walk import Surroundings
from policies.request import Service, Workload

_JSON = "json"


@click.command(
    "explain", cls=SpreadingCommand, short_help="Tell why a request is decided as it is."
)
@world_options
@click.option(
    "--request", "request_file", type=click.File("rb"), metavar="FILE|-",
    help="The request: the protobuf JSON of a CheckRequest, as for `policy eval`.",
)  # fmt: skip
@click.option(
    "--from", "caller", default="", metavar="ID",
    help="Who asks: `spiffe://...`, `NAMESPACE/ACCOUNT` of the mesh's own trust domain, or "
    "`plaintext`.  [default: plaintext]",
)  # fmt: skip
@click.option(
    "--to", "workload", metavar=WORKLOAD_FORM,
    callback=lambda context, option, value: None if value is None else parse_workload(value),
    help="The workload that is asked: namespace and labels.",
)  # fmt: skip
@click.option(
    "--service", metavar=SERVICE_FORM,
    callback=lambda context, option, value: None if value is None else parse_service(value),
    help="The service that is asked for (mesh mode `waypoint`).",
)  # fmt: skip
@click.option("--method", default="GET", show_default=True, help="The method.")
@click.option("--path", default="/", show_default=True, help="Path and query.")
@click.option("--host", default="test.local", show_default=True, help="The authority.")
@click.option("--header", multiple=True, metavar="'NAME: VALUE'", help="A header; repeatable.")
@click.option(
    "--token", default="", metavar="JWT|@FILE",
    help="Bearer token; `@FILE` keeps it out of the process list.",
)  # fmt: skip
@click.option("--ip", default="10.0.0.1", show_default=True, help="Address of the caller.")
@click.option(
    "--port", default=8080, show_default=True, type=click.IntRange(1, 65535),
    help="The workload's port.",
)  # fmt: skip
@click.option(
    "--who-can", type=(str, str), metavar="METHOD PATH",
    help="List who may do that, instead: one caller of each kind the policies tell apart.",
)  # fmt: skip
@click.option("--format", "format_", type=click.Choice(["text", _JSON]), default="text",
    show_default=True, help="For people or for programs.")  # fmt: skip
@click.option("--all", "shows_all", is_flag=True, help="Show every rule, however many there are.")
@click.option("-q", "--quiet", is_flag=True, help="No warnings about the policies.")
def explain_command(  # noqa: PLR0913, PLR0917 - the options of one command line
    policies: tuple[Path, ...],
    config: Path | None,
    mesh_file: Path | None,
    rego: tuple[str, ...],
    rego_entrypoint: str,
    rego_data: tuple[Path, ...],
    request_file: IO[bytes] | None,
    caller: str,
    workload: Workload | None,
    service: Service | None,
    who_can: tuple[str, str] | None,
    format_: str,
    shows_all: bool,
    quiet: bool,
    **asked: Any,
) -> None:
    """Tell a decision as a story: the policies considered and why, each condition with what
    the request had, the rule that decided, near misses, and what dry-run policies would do.

    It is the server's own walk; a token counts only when its signature holds.

    \b
    Examples:
      policy explain --policies examples/policies --rego examples/rego \\
          --from shop/batch --to shop/app=orders --path /orders
      policy explain --policies mesh/ --request recorded.json --format json
      policy explain --policies mesh/ --to shop/app=orders --who-can DELETE /orders/17

    \b
    Exit codes: 0 told, whatever the answer; 2 the request, the policies, the Rego, the mesh
    settings or the command line are wrong.
    """
    if not policies and config is None:
        raise click.UsageError("Missing option '--policies' (or '-c' with a configuration).")
    with ExitStack() as stack:
        stack.enter_context(logging_aside())
        stack.enter_context(clear_errors())
        sources = rego_by_provider(rego, rego_data, rego_entrypoint)
        world = prepare_world(stack, policies, config, mesh_file, sources)
        if not quiet:
            tell_warnings(world)
        if who_can is not None:
            around = world.surroundings(workload, service, is_supposed=True)
            with _clear_questions():
                question = replace(_question("", asked, world), method=who_can[0], path=who_can[1])
            found = find_who_can(question, world.state, _with_home(around, world.state))
            _print_who_can(question, found, format_)
            return
        evaluator = world.evaluator(workload, service, is_supposed=request_file is None)
        with _clear_questions(request_file):
            line = _line(request_file, caller, asked, world)
            story = tell(evaluator.outcome(line), world.state)
    if format_ == _JSON:
        document = story_document(story, world.state.snapshot.mesh)
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
        return
    print_story(story, Console(soft_wrap=True), shows_all=shows_all)


@contextmanager
def _clear_questions(request_file: IO[bytes] | None = None) -> Iterator[None]:
    """Turn a request that is none into its reason and exit code 2."""
    try:
        yield
    except (MalformedLineError, UnclearQuestionError) as exc:
        where = f"`{request_file.name}`: " if request_file is not None else ""
        click.echo(f"error: {where}{exc}", err=True)
        raise SystemExit(EXIT_UNUSABLE) from exc


def _with_home(around: Surroundings, state: ServingState) -> Surroundings:
    """Return the surroundings with the only namespace there is, where nobody named one."""
    if around.static_workload is not None and around.static_workload.namespace:
        return around
    said = around.static_workload or Workload(namespace="", has_told_labels=False)
    home = replace(said, namespace=only_namespace(state.snapshot))
    return replace(around, static_workload=home)


def _print_who_can(question: Question, found: WhoCan, format_: str) -> None:
    if format_ == _JSON:
        click.echo(json.dumps(who_can_document(question, found), indent=2, ensure_ascii=False))
        return
    print_who_can(question, found, Console(soft_wrap=True))


def _line(
    request_file: IO[bytes] | None, caller: str, asked: dict[str, Any], world: World
) -> bytes:
    """Return the request as `policy eval` reads it, from the file or from the flags."""
    if request_file is not None:
        line = request_file.read(MAX_LINE + 1)
        if len(line) > MAX_LINE:
            raise MalformedLineError(f"the request is longer than {MAX_LINE} bytes")
        return line
    return json.dumps(to_document(_question(caller, asked, world))).encode()


def _question(caller: str, asked: dict[str, Any], world: World) -> Question:
    return Question(
        caller=caller_of(caller, world.state.snapshot.mesh.trust_domain),
        method=asked["method"],
        path=asked["path"],
        host=asked["host"],
        headers=headers_of(asked["header"]),
        token=_token(asked["token"]),
        source_ip=address_of(asked["ip"]),
        port=asked["port"],
    )


def _token(given: str) -> str:
    if not given.startswith("@"):
        return given
    with click.open_file(given[1:], encoding="utf-8") as stream:
        return str(stream.read()).strip()
