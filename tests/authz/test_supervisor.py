"""What `serve` becomes to look after workers: the same process, small, with no signal lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.config_file import load_settings
from authz.errors import ListenError
from authz.supervising import plan_supervisor
from authz.supervisor_plan import SOME_FOLDER, EnvoyPlan, SupervisorPlan
from tests.loopback import free_port
from tests.waiting import until

POLICY = """apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: all, namespace: shop}
spec: {rules: [{}]}
"""
# What a server consists of, and a supervisor must never hold.
HEAVY = {
    "cryptography",
    "envoy",
    "google",
    "grpc",
    "httpx",
    "pydantic",
    "rich",
    "structlog",
    "yaml",
}
SERVE = "from authz.cli import main; main(['serve', '-c', sys.argv[1]])"
# Told to end when there is no way back, and before anybody hears of it. Nothing can be written.
TOLD_EARLY = f"""
import os, signal, sys, tempfile
tempfile.tempdir = "/nowhere"
execv = os.execv
def tell_and_go_on(*arguments):
    os.kill(os.getpid(), signal.{{signal}})
    execv(*arguments)
os.execv = tell_and_go_on
{SERVE}
"""
# A process that is given the orphans of its descendants, as the first one of a container is.
ADOPTS = f"""
import ctypes, os, sys
assert not ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
if os.fork() == 0:
    if os.fork():
        os._exit(0)
    os.read(int(sys.argv[2]), 1)
    os._exit(0)
os.close(int(sys.argv[2]))
{SERVE}
"""


def write_configuration(folder: Path, **listen: object) -> Path:
    """Write what a server needs, alone inside Envoy unless it is told otherwise."""
    (folder / "policy.yaml").write_text(POLICY)
    addresses = {each: f"127.0.0.1:{free_port()}" for each in ("grpc", "http")}
    configuration = {
        "listen": {**addresses, "server": "envoy", **listen},
        "policies": {"paths": [str(folder / "policy.yaml")]},
        "workload": {"namespace": "shop"},
        "audit": {"folder": str(folder / "audit")},
    }
    path = folder / "serve.json"
    path.write_text(json.dumps(configuration))
    return path


def command_line(process: int) -> bytes:
    """Return the command line of a process as it is now."""
    return Path(f"/proc/{process}/cmdline").read_bytes()


def children(process: int) -> list[int]:
    """Return the ids of a process's children."""
    told = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(each) for each in told.split()]


def state(process: int) -> str:
    """Return the letter of a process's state, nothing where there is no such process."""
    try:
        told = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return told.rpartition(")")[2].split()[0]


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("listen", [{}, {"server": "grpcio", "workers": 2}])
def test_a_signal_on_the_way_is_heard(
    number: str, listen: dict[str, object], tmp_path: Path
) -> None:
    """Told to end between the two programs, it starts, drains and ends as ever."""
    config = write_configuration(tmp_path, **listen)
    script = TOLD_EARLY.format(signal=number)

    ended = subprocess.run(
        [sys.executable, "-c", script, str(config)],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )

    assert (0, True) == (ended.returncode, "stopped" in ended.stderr), ended.stderr


def test_orphans_are_let_go_of(tmp_path: Path) -> None:
    """As the first process of a container it is given orphans; none stays when it has ended."""
    config = write_configuration(tmp_path)
    reading, writing = os.pipe()
    with (tmp_path / "log").open("wb") as log:
        served = subprocess.Popen(
            [sys.executable, "-c", ADOPTS, str(config), str(reading)],
            pass_fds=[reading],
            stderr=log,
        )
    os.close(reading)
    try:
        until(lambda: "serving" in (tmp_path / "log").read_text())
        # The child in between ended long ago; its own child is there yet, beside Envoy.
        until(lambda: len(children(served.pid)) == 2)
        assert {"S"} == {state(each) for each in children(served.pid)} - {"R", "D"}

        os.close(writing)
        until(lambda: len(children(served.pid)) == 1)
        envoy = children(served.pid)[0]

        # Its own are still waited for, and replaced.
        os.kill(envoy, signal.SIGKILL)
        until(lambda: (tmp_path / "log").read_text().count("serving ") == 2)
        assert "code=-9" in (tmp_path / "log").read_text()
    finally:
        served.terminate()
        assert 0 == served.wait(60)


def test_workers_end_when_it_is_killed(tmp_path: Path) -> None:
    """Nobody looks after them any more: they drain and end, and so does what makes columns."""
    config = write_configuration(tmp_path, server="grpcio", workers=2)
    told = json.loads(config.read_text())
    told["audit"]["columns"] = True
    config.write_text(json.dumps(told))
    with (tmp_path / "log").open("wb") as log:
        served = subprocess.Popen(
            [sys.executable, "-m", "authz", "serve", "-c", str(config)], stderr=log
        )
    try:
        until(lambda: "workers=2" in (tmp_path / "log").read_text())
        started = children(served.pid)
        assert 3 == len(started)
    finally:
        served.kill()
        served.wait()

    until(lambda: not any(state(each) not in {"", "Z"} for each in started))
    verify = [sys.executable, "-m", "authz", "audit", "verify", str(tmp_path / "audit")]
    assert not subprocess.run(verify, capture_output=True, timeout=60, check=False).returncode


def test_it_is_the_same_process_and_small(tmp_path: Path) -> None:
    """Whoever started it sees the same number, parent of Envoy; nothing of a server is imported."""
    served = subprocess.Popen(
        [sys.executable, "-m", "authz", "serve", "-c", str(write_configuration(tmp_path))],
        stderr=subprocess.DEVNULL,
    )
    try:
        # Before it is that program, it may ask others for parts of Envoy.
        until(lambda: b"authz.supervisor" in command_line(served.pid))
        until(lambda: bool(children(served.pid)))
        told = command_line(served.pid)
    finally:
        served.terminate()
        assert 0 == served.wait(60)
    script = (
        "import sys, authz.supervisor; print(*{each.partition('.')[0] for each in sys.modules})"
    )
    imported = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )

    assert b"authz.supervisor" in told
    assert not HEAVY & set(imported.stdout.split())


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)


@given(
    names=st.lists(TEXTS, min_size=1, max_size=3),
    seconds=st.floats(0, 1e6),
    texts=st.tuples(*[TEXTS] * 4),
    columns=st.none() | TEXTS,
    envoy=st.none() | st.lists(TEXTS, max_size=3),
)
def test_a_plan_arrives_as_it_was_made(
    names: list[str],
    seconds: float,
    texts: tuple[str, str, str, str],
    columns: str | None,
    envoy: list[str] | None,
) -> None:
    """Whatever stands in it, the other program reads what was checked."""
    plan = SupervisorPlan(
        names=names,
        grpc=texts[0],
        http=texts[1],
        drain_seconds=seconds,
        log_level="info",
        log_format="json",
        columns=columns,
        envoy=None
        if envoy is None
        else EnvoyPlan(envoy=texts[2], library=texts[3], arguments=envoy, shares_port=True),
    )
    with tempfile.TemporaryFile() as file:
        plan.write(file)
        assert plan == SupervisorPlan.take(os.dup(file.fileno()))


@given(name=TEXTS)
def test_each_envoy_is_told_its_own_folder(name: str) -> None:
    """A folder of any name takes its place in the configuration, which stays JSON."""
    socket = str(SOME_FOLDER / "admin")
    plan = EnvoyPlan(
        envoy="", library="", arguments=["-c", json.dumps([socket])], shares_port=False
    )
    folder = Path("/", name)

    option, configuration = plan.arguments_in(folder)

    assert ("-c", [f"{folder}/admin"]) == (option, json.loads(configuration))


def test_what_cannot_be_looked_after_is_told_before(tmp_path: Path) -> None:
    """A port that cannot be shared is refused while the process is what it was."""
    config = write_configuration(tmp_path, grpc="unix:///run/checks.sock")
    with pytest.raises(ListenError, match="share a port"):
        plan_supervisor(load_settings(config), 2)
