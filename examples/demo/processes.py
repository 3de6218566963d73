"""The processes of the demo: start them, wait until they serve, end all of them.

Rules this file keeps: every process has its own session, so Ctrl-C reaches the
demo alone; every process ends when the demo ends, however that happens.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

_Answer = TypeVar("_Answer")
_LEASH: Final = Path(__file__).with_name("leash.py")
_PROBE_SECONDS: Final = 0.03
# BUDGET: a process that drains has this long before it is killed.
_STOP_SECONDS: Final = 5.0
_TAIL_LINES: Final = 25


class DemoError(Exception):
    """The demo cannot go on; the message is for the person who started it."""


class Process:
    """A child process with a log file; `ended` is set as soon as it is gone."""

    def __init__(
        self, name: str, command: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None
    ) -> None:
        """Start the command, its output going to `log`."""
        self.name = name
        self.command = tuple(command)
        self.log = log
        self.ended = threading.Event()
        leash = [sys.executable, "-S", "-E", str(_LEASH), str(os.getpid())]
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                [*leash, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if env is None else {**os.environ, **env},
                start_new_session=True,
            )
        threading.Thread(target=self._watch, name=f"watch-{name}", daemon=True).start()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """The exit code, negative for a signal, None while it runs."""
        return self._popen.poll()

    def wait_until(self, probe: Callable[[], _Answer | None], *, seconds: float) -> _Answer:
        """Return the first answer of `probe` that is not None.

        Raises:
            DemoError: the process ended, or gave no answer in time.
        """
        deadline = time.monotonic() + seconds
        while (answer := probe()) is None:
            # Its end wakes us at once; a socket that opens later sends no event.
            if self.ended.wait(_PROBE_SECONDS):
                raise DemoError(f"{self.name} ended with {self.exit_code}\n{self.tail()}")
            if time.monotonic() > deadline:
                raise DemoError(f"{self.name} is not ready after {seconds:.0f} s\n{self.tail()}")
        return answer

    def tail(self) -> str:
        """The last lines of its log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(f"    {line}" for line in lines[-_TAIL_LINES:])

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to the process and to what it started."""
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            return

    def _watch(self) -> None:
        """Reap the process and say that it is gone."""
        self._popen.wait()
        self.ended.set()


class Supervisor:
    """Everything that was started; leaving the context ends it in reverse order."""

    def __init__(self, logs: Path) -> None:
        """Keep the folder for log files."""
        self._logs = logs
        self._started: list[Process] = []

    def start(
        self, name: str, command: Sequence[str], *, env: Mapping[str, str] | None = None
    ) -> Process:
        """Start a process that will not outlive this supervisor."""
        process = Process(name, command, log=self._logs / f"{name}.log", env=env)
        self._started.append(process)
        return process

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_all()

    def stop_all(self) -> None:
        """Ask every process to end, last one first, and kill what does not."""
        for process in reversed(self._started):
            process.signal_group(signal.SIGTERM)
            # The authorizer's record is drained only after the Envoys that ask it are gone.
            process.ended.wait(_STOP_SECONDS)
        for process in self._started:
            process.signal_group(signal.SIGKILL)
            process.ended.wait(_STOP_SECONDS)
        self._started.clear()
