"""What `--keep` prints: lines to paste, and places to look at and to meddle with."""

from __future__ import annotations

import shlex
import threading
from collections.abc import Iterable

from rich.console import Console

from examples.demo.house import House, meshwarden, serve_command
from examples.demo.identities import PLAINTEXT
from examples.demo.loopback import LOOPBACK
from examples.demo.state import State


def stay_up(console: Console, state: State, house: House) -> None:
    """Print how to use the demo by hand and wait to be interrupted.

    When the authorizer dies nothing here helps it: that Envoy denies then, and
    serves again once the authorizer is back, is a thing to be seen.
    """
    _print_lines(console, curl_lines(state, house))
    house.authorizer.ended.wait()
    console.print(
        f"\nThe authorizer is gone ({house.authorizer.exit_code}): every request is denied now. "
        "Start it again, in another terminal, with"
    )
    _print_lines(console, [f"  {serve_command(state)}"])
    threading.Event().wait()


def curl_lines(state: State, house: House) -> list[str]:
    """Return every line: one curl command for each identity, then the places."""
    token = f'-H "authorization: Bearer $(cat {shlex.quote(str(state.tokens / "alice.jwt"))})"'
    lines = ["", "Paste one of these; each port is an identity:"]
    for name, port in house.listeners.items():
        path = "/status" if name == PLAINTEXT else "/orders"
        lines.append(f"  curl -i http://{LOOPBACK}:{port}{path}    # {name}")
    lines += [
        f"  curl -i {token} http://{LOOPBACK}:{house.listeners['web']}/account    # web, for alice",
        f"Other tokens:      {state.tokens}",
        f"Edit a policy:     {state.policies}    (the next decision follows it)",
        f"Readiness:         curl -s http://{LOOPBACK}:{house.http_port}/readyz",
        f"Envoy admin pages: http://{LOOPBACK}:{house.server_admin} (server side), "
        f"http://{LOOPBACK}:{house.client_admin} (client side)",
        f"Audit record:      {state.audit}",
        f"Verify it:         {shlex.join(meshwarden('audit', 'verify', str(state.audit)))}",
        f"Logs:              {state.logs}",
        f"Fail closed:       kill -9 {house.authorizer.pid}    (the authorizer; Envoy denies then)",
        f"Start it again:    {serve_command(state)}",
        "Ctrl-C ends everything.",
    ]
    return lines


def _print_lines(console: Console, lines: Iterable[str]) -> None:
    """Print lines as they stand: neither wrapped nor coloured, so that they can be pasted."""
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
