"""Run the demo: `python -m examples.demo [--keep] [--state DIR]`."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import FrameType

import click
from rich.console import Console

from examples.demo.cases import Plan, load_plan
from examples.demo.house import House, meshwarden, start_house
from examples.demo.issuer import Issuer
from examples.demo.keep import stay_up
from examples.demo.processes import DemoError, Supervisor
from examples.demo.runner import DECISION_ID, Row, compare, find_records, send_case
from examples.demo.state import State
from examples.demo.table import print_records, print_table
from examples.demo.upstream import echo_server

_PIPE_WIDTH = 220
_INTERRUPTED = 130


@click.command()
@click.option("--keep", is_flag=True, help="Stay up afterwards and print lines to paste.")
@click.option(
    "--state",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep keys, policies and the audit record here (default: a folder that is removed).",
)
def main(*, keep: bool, folder: Path | None) -> None:
    """Start the whole house on loopback, send real requests, and check every answer."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)
    try:
        sys.exit(_run(console, keep=keep, folder=folder))
    except DemoError as exc:
        console.print(f"The demo cannot go on: {exc}", markup=False, style="red")
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("Interrupted; everything has ended.")
        sys.exit(_INTERRUPTED)


def _interrupt(_: int, __: FrameType | None) -> None:
    """End the demo in order; a second signal does not disturb that."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _run(console: Console, *, keep: bool, folder: Path | None) -> int:
    """Return the exit code: 0 when every row was as expected and the record is intact."""
    started = time.monotonic()

    def say(text: str) -> None:
        spent = time.monotonic() - started
        console.print(f"{spent:5.1f} s  {text}", markup=False, highlight=False, soft_wrap=True)

    with ExitStack() as stack:
        run = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mw-")))
        state = State(root=run / "state" if folder is None else folder.resolve(), run=run)
        state.make_folders()
        issuer = Issuer(time.time)
        stack.enter_context(issuer.server)
        upstream = stack.enter_context(echo_server())
        say(f"OIDC issuer on {issuer.url}, upstream on port {upstream.port}")
        supervisor = stack.enter_context(Supervisor(state.logs))
        house = start_house(state, issuer, upstream, supervisor, say)
        for side, uris in house.certificates.items():
            say(f"SVIDs that the {side} Envoy got over SDS: {', '.join(uris)}")
        plan = load_plan()
        tokens = _mint(plan, issuer, state)
        say(f"sending {len(plan.cases)} requests")
        rows = _ask(plan, house, state, issuer.url, tokens)
        is_right = _report(console, state, rows)
        if keep:
            with suppress(KeyboardInterrupt):
                stay_up(console, state, house)
        say("ending everything")
    return 0 if is_right else 1


def _mint(plan: Plan, issuer: Issuer, state: State) -> Mapping[str, str]:
    """Return the tokens by name; each is also a file, for use with curl."""
    tokens = {name: issuer.mint(each.claims, each.fault) for name, each in plan.tokens.items()}
    for name, token in tokens.items():
        state.write(f"tokens/{name.replace(' ', '-')}.jwt", token)
    return tokens


def _ask(
    plan: Plan, house: House, state: State, issuer_url: str, tokens: Mapping[str, str]
) -> list[Row]:
    """Send every request, then join the answers with their audit records."""
    answers = [send_case(case, house.listeners, tokens) for case in plan.cases]
    ids = [answer.headers.get(DECISION_ID, "") for answer in answers]
    records = find_records(state.audit, filter(None, ids))
    return [
        compare(
            case,
            answer,
            records.get(decision_id),
            issuer_url=issuer_url,
            token=plan.tokens.get(case.token),
        )
        for case, answer, decision_id in zip(plan.cases, answers, ids, strict=True)
    ]


def _report(console: Console, state: State, rows: list[Row]) -> bool:
    """Print the table, three records and the verification; return whether all is well."""
    print_table(console, rows)
    telling = [row for row in rows if row.case.reason == "custom_denied"][:1]
    telling += [row for row in rows if row.case.shadow][:1]
    telling += [row for row in rows if row.case.peer == "plaintext" and row.case.status != 200][:1]
    print_records(console, telling)
    verify = subprocess.run(
        meshwarden("audit", "verify", str(state.audit)),
        capture_output=True,
        text=True,
        check=False,
    )
    console.print("\n[bold]meshwarden audit verify[/]")
    console.print(verify.stdout + verify.stderr, markup=False, highlight=False, soft_wrap=True)
    wrong = sum(bool(row.problems) for row in rows)
    style, result = ("red", f"{wrong} not") if wrong else ("green", "all")
    console.print(f"[{style}]{len(rows)} requests, {result} as expected[/]")
    return wrong == 0 and verify.returncode == 0


if __name__ == "__main__":
    main()
