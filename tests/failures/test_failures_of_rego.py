"""Rego that fails: undefined, endless, killed, unreachable; and who let it fail open."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.failures.serving import House, eventually, policies, serving
from tests.failures.table import rows
from tests.opa_bridge.opa_process import MISSING, opa_binary

CUSTOM = policies({"action": "CUSTOM", "provider": {"name": "rego"}, "rules": [{}]})
ALLOW = """package envoy.authz

default allow := false

allow if input.attributes.request.http.path == "/"
"""
# Defined for the path that the load tries it with and for no other that a test asks for.
UNDEFINED = """package envoy.authz

allow if input.attributes.request.http.path == "/"
"""
RUNAWAY = """package envoy.authz

default allow := false

allow if input.attributes.request.http.path == "/"

allow if {
    input.attributes.request.http.path == "/endless"
    count([1 | some a in numbers.range(1, 1000); some b in numbers.range(1, 1000)
        some c in numbers.range(1, 1000); a + b + c < 0]) > 0
}
"""
# `walk` is nothing that is decided without a worker.
WALKING = """package envoy.authz

default allow := false

allow if {
    some path
    walk(input.parsed_path, [path, _])
    input.attributes.request.http.method == "GET"
}
"""


def provider(**more: Any) -> dict[str, Any]:
    """Return the settings of provider `rego` over one module."""
    rego = {"paths": ["allow.rego"], "timeoutSeconds": 10, **more.pop("rego", {})}
    return {"name": "rego", "rego": rego, **more}


@pytest.mark.failure("rego-undefined")
def test_a_rule_that_is_undefined(tmp_path: Path) -> None:
    """No value is no verdict, and no verdict is a denial."""
    row = rows()["rego-undefined"]
    files = {"policies.yaml": CUSTOM, "allow.rego": UNDEFINED}
    compatibility = {"compatibility": {"undefinedSamples": True}}
    with serving(tmp_path, files, providers=[provider(rego=compatibility)]) as house:
        assert house.ask(path="/").code == 0
        assert row.answers(house.ask(path="/other"))
        row.is_told(house)
        (tmp_path / "allow.rego").write_text(UNDEFINED + "\ndefault allow := false\n")
        eventually(lambda: house.ask(path="/other"), lambda seen: seen.reason == "custom_denied")


@pytest.mark.failure("rego-runaway")
def test_an_evaluation_that_does_not_end(tmp_path: Path) -> None:
    """It is stopped at its limit; the next request is decided as ever."""
    row = rows()["rego-runaway"]
    files = {"policies.yaml": CUSTOM, "allow.rego": RUNAWAY}
    limit = {"timeoutSeconds": 0.5}
    with serving(tmp_path, files, providers=[provider(rego=limit)]) as house:
        assert row.answers(house.ask(path="/endless"))
        row.is_told(house)
        eventually(lambda: house.ask(path="/"), lambda seen: seen.code == 0)


@pytest.mark.failure("rego-workers-killed")
def test_workers_that_are_killed(tmp_path: Path) -> None:
    """Whoever asks later is decided by processes that took their place."""
    row = rows()["rego-workers-killed"]
    files = {"policies.yaml": CUSTOM, "allow.rego": WALKING}
    with serving(tmp_path, files, providers=[provider()]) as house:
        assert house.ask(path="/a").code == 0
        for number in descendants(os.getpid()):
            os.kill(number, signal.SIGKILL)
        # An input that was not seen before, so that nothing remembered answers.
        eventually(lambda: house.ask(path="/b"), row.answers)
        row.is_told(house)


@pytest.mark.failure("rego-process-hangs")
def test_processes_that_hang(tmp_path: Path) -> None:
    """Nobody waits longer than the time limit; other processes take their place."""
    row = rows()["rego-process-hangs"]
    files = {"policies.yaml": CUSTOM, "allow.rego": WALKING}
    rego = {"timeoutSeconds": 1, "workers": 2}
    others = set(descendants(os.getpid()))
    with serving(tmp_path, files, providers=[provider(rego=rego)]) as house:
        assert house.ask(path="/a").code == 0
        for number in set(descendants(os.getpid())) - others:
            os.kill(number, signal.SIGSTOP)
        assert row.answers(house.ask(path="/b"))
        row.is_told(house)
        paths = itertools.count()
        eventually(lambda: house.ask(path=f"/c/{next(paths)}"), lambda seen: seen.code == 0)


def descendants(process: int) -> list[int]:
    """Return the processes below one that are Python, the furthest first."""
    found: list[int] = []
    for children in Path(f"/proc/{process}/task").glob("*/children"):
        for number in map(int, children.read_text().split()):
            found += [*descendants(number), number]
    return found


@pytest.mark.failure("provider-fails-open")
def test_a_provider_that_was_asked_to_fail_open(tmp_path: Path) -> None:
    """It is passed, counted and on record; without being asked for by name it would deny."""
    row = rows()["provider-fails-open"]
    files = {"policies.yaml": CUSTOM, "allow.rego": UNDEFINED}
    compatibility = {"compatibility": {"undefinedSamples": True}}
    chosen = provider(rego=compatibility, failOpen=True)
    with serving(tmp_path, files, providers=[chosen]) as house:
        assert row.answers(house.ask(path="/other"))
        row.is_told(house)
        eventually(
            house.records,
            lambda seen: any(each.get("failed_open") for each in seen),
        )


@pytest.mark.opa
@pytest.mark.skipif(opa_binary() is None, reason=MISSING)
@pytest.mark.failure("opa-down")
def test_an_opa_server_that_is_down(tmp_path: Path, short_path: Path) -> None:
    """Without its engine a policy denies; once the server is back it decides."""
    row = rows()["opa-down"]
    socket = short_path / "opa.sock"
    (tmp_path / "opa.rego").write_text(ALLOW)
    opa = start_opa(tmp_path, socket)
    try:
        rego = {"engine": "opa", "opa": {"url": f"unix://{socket}", "startSeconds": 20}}
        settings = {"name": "rego", "rego": {**rego, "timeoutSeconds": 5}}
        with serving(tmp_path, {"policies.yaml": CUSTOM}, providers=[settings]) as house:
            is_allowed(house)
            opa.kill()
            opa.wait()
            assert row.answers(house.ask())
            row.is_told(house)
            socket.unlink(missing_ok=True)
            opa = start_opa(tmp_path, socket)
            is_allowed(house)
    finally:
        opa.kill()
        opa.wait()


def is_allowed(house: House) -> None:
    """Wait until the house allows."""
    eventually(house.ask, lambda seen: seen.code == 0)


def start_opa(folder: Path, socket: Path) -> subprocess.Popen[bytes]:
    """Start a real OPA on a Unix socket."""
    binary = opa_binary()
    assert binary is not None
    command = [binary, "run", "--server", "--log-level", "error", "--addr", f"unix://{socket}"]
    return subprocess.Popen([*command, str(folder / "opa.rego")], stderr=sys.stderr)
