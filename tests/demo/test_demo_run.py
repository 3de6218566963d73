"""The demo, run as a person runs it: its table, its failures, its edits, its end."""

from __future__ import annotations

import os
import re
import select
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from examples.demo.cases import load_plan
from examples.demo.client import Answer, send
from examples.demo.loopback import LOOPBACK

pytestmark = [
    pytest.mark.envoy,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
]

_ROOT = Path(__file__).parents[2]
_SECONDS = 20.0
_LAST_LINE = "Ctrl-C ends everything."
_DECISION_ID = "x-meshwarden-decision-id"


@dataclass
class KeptDemo:
    """A demo that stays up, and the authorizer that a test started in its place."""

    process: subprocess.Popen[str]
    output: str
    state: Path
    restarted: subprocess.Popen[bytes] | None = field(default=None)

    def ask(self, peer: str, method: str, target: str) -> Answer:
        """Send a request through the listener that was printed for an identity."""
        found = re.search(rf"curl -i http://{LOOPBACK}:(\d+)/\S*    # {peer}$", self.output, re.M)
        assert found is not None, self.output
        return send(int(found[1]), method, target)

    def readyz(self) -> Answer:
        """Ask the authorizer whether it is ready."""
        found = re.search(rf"{LOOPBACK}:(\d+)/readyz", self.output)
        assert found is not None, self.output
        return send(int(found[1]), "GET", "/readyz")

    def printed(self, label: str) -> str:
        """Return what was printed behind a label of the places."""
        found = re.search(rf"^{label}: +(.+?)(?:    \(.*)?$", self.output, re.M)
        assert found is not None, self.output
        return found[1]


def _start(*options: str, temporary: str = "") -> subprocess.Popen[str]:
    """Start the demo as `make demo` does; `temporary` takes what a killed one leaves."""
    return subprocess.Popen(
        [sys.executable, "-m", "examples.demo", *options],
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TMPDIR": temporary} if temporary else None,
    )


def _read_until(process: subprocess.Popen[str], last: str) -> str:
    """Return the output up to a line; an end before it fails with what there was."""
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith(last):
            return "".join(lines)
    pytest.fail("the demo ended early:\n" + "".join(lines))


def _descendants(pid: int) -> set[int]:
    """Return the ids of every process below one."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = {
            int(child) for task in tasks for child in (task / "children").read_text().split()
        }
    except FileNotFoundError:
        return set()
    return children.union(*(_descendants(child) for child in children))


def _wait_gone(pids: set[int]) -> set[int]:
    """Return those of the processes that do not end in time."""
    left = set()
    for pid in pids:
        try:
            watched = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        if not select.select([watched], [], [], _SECONDS)[0]:
            left.add(pid)
        os.close(watched)
    return left


def _eventually(check: Callable[[], bool]) -> bool:
    """Return whether the check comes true in time."""
    deadline = time.monotonic() + _SECONDS
    pause = threading.Event()
    while not check():
        if time.monotonic() > deadline:
            return False
        pause.wait(0.05)
    return True


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeptDemo]:
    """A demo that stays up for every test of this module; Ctrl-C ends it."""
    state = tmp_path_factory.mktemp("demo") / "state"
    process = _start("--keep", "--state", str(state))
    kept = None
    try:
        kept = KeptDemo(process, _read_until(process, _LAST_LINE), state)
        yield kept
    finally:
        if kept is not None and kept.restarted is not None:
            kept.restarted.terminate()
            kept.restarted.wait(_SECONDS)
        started = _descendants(process.pid)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=_SECONDS)
        # Ctrl-C leaves no process behind, and it is the way to end a demo that stays up.
        assert not _wait_gone(started)
        assert process.returncode == 0


def test_every_row_is_as_expected(demo: KeptDemo) -> None:
    """The table has no mismatch, and the record of the run is intact."""
    count = len(load_plan().cases)

    assert f"{count} requests, all as expected" in demo.output
    assert "not as expected" not in demo.output
    assert "intact" in demo.output


def test_the_certificates_came_over_sds(demo: KeptDemo) -> None:
    """Envoy's own pages name the SVIDs of all workloads."""
    for path in ("shop/sa/web", "shop/sa/orders", "jobs/sa/batch", "elsewhere/sa/intruder"):
        assert f"spiffe://demo.meshwarden.test/ns/{path}" in demo.output


def test_plaintext_is_denied_for_its_missing_peer_and_not_for_its_port(demo: KeptDemo) -> None:
    """On one port, plaintext gets what is open to all, and nothing that needs a peer."""
    assert demo.ask("plaintext", "GET", "/status").status == 200
    refused = demo.ask("plaintext", "GET", "/orders")

    assert refused.status == 403
    assert _DECISION_ID in refused.headers


def test_an_edited_policy_counts_and_a_broken_one_does_not(demo: KeptDemo) -> None:
    """An edit changes the next decisions; a broken edit changes none and is named by file:line."""
    file = demo.state / "policies" / "orders-access.yaml"
    text = file.read_text(encoding="utf-8")
    assert demo.ask("web", "GET", "/orders").status == 200
    try:
        file.write_text(text.replace('"/orders", "/orders/*"', '"/orders/*"'), encoding="utf-8")
        assert _eventually(lambda: demo.ask("web", "GET", "/orders").status == 403)

        file.write_text(text.replace("action: ALLOW", "action: ALOW", 1), encoding="utf-8")
        assert _eventually(lambda: "orders-access.yaml:" in demo.readyz().body)
        assert re.search(r"orders-access\.yaml:\d+", demo.readyz().body)
        assert demo.ask("web", "GET", "/orders").status == 403
        assert demo.ask("web", "GET", "/orders/17").status == 200
    finally:
        file.write_text(text, encoding="utf-8")
    assert _eventually(lambda: demo.ask("web", "GET", "/orders").status == 200)


@pytest.mark.failure("authorizer-killed")
def test_a_killed_authorizer_means_no_entry_until_it_is_back(demo: KeptDemo) -> None:
    """Envoy denies while nobody decides, and serves again after a restart without being touched."""
    assert demo.ask("web", "GET", "/orders").status == 200
    killed = int(demo.printed("Fail closed").split()[-1])
    os.kill(killed, signal.SIGKILL)
    assert not _wait_gone({killed})

    refused = demo.ask("web", "GET", "/orders")
    assert refused.status == 403
    assert _DECISION_ID not in refused.headers
    assert demo.process.poll() is None

    command = shlex.split(demo.printed("Start it again"))
    demo.restarted = subprocess.Popen(
        command, cwd=_ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    assert _eventually(lambda: demo.ask("web", "GET", "/orders").status == 200)
    assert demo.ask("intruder", "GET", "/orders").status == 403

    verify = subprocess.run(
        shlex.split(demo.printed("Verify it")), cwd=_ROOT, capture_output=True, check=False
    )
    assert verify.returncode == 0, verify.stdout


def test_a_killed_demo_leaves_no_process_behind() -> None:
    """What a demo started ends with it, even when it cannot clean up after itself."""
    # A short name: the demo's Unix sockets are in there.
    with tempfile.TemporaryDirectory(prefix="mw-") as folder:
        process = _start("--keep", temporary=folder)
        try:
            _read_until(process, _LAST_LINE)
            started = _descendants(process.pid)
        finally:
            process.kill()
            process.communicate(timeout=_SECONDS)
        left = _wait_gone(started)

    assert len(started) >= 4
    assert not left


def test_an_interrupt_while_it_starts_leaves_nothing_behind() -> None:
    """Ctrl-C before everything is up ends what is up by then."""
    process = _start()
    try:
        _read_until(process, "  ")
        assert _eventually(lambda: bool(_descendants(process.pid)))
        started = _descendants(process.pid)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=_SECONDS)
    finally:
        process.kill()

    assert process.returncode != 0
    assert not _wait_gone(started)
