"""What a process that looks after workers is told by the one that read the configuration.

Theory of operation. To read and check a configuration takes all that a server consists of, some
80 MB that would then lie idle for months. So `serve` becomes another program, `authz.supervisor`,
in the very same process (`exec`): same number, same parent, same descriptors. What was checked goes
along in a file without a name, so it is what is done, whatever is in the configuration by then.
Signals are held back until that program hears them; none is lost, and none ends it halfway.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Final, NoReturn, Self

PROGRAM: Final = "authz.supervisor"
HEARD: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD})
"""The signals that a supervisor acts on, and that are held back until it does."""
_MARK: Final = "/@folder@"
SOME_FOLDER: Final = Path(_MARK)
"""Stands for the folder that each Envoy has of its own, of which nobody knows the name yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvoyPlan:
    """How servers inside Envoy are started: files, and arguments with `SOME_FOLDER` in them.

    `shares_port` as in `authz.serve.Seat`.
    """

    envoy: str
    library: str
    arguments: Sequence[str]
    shares_port: bool

    def arguments_in(self, folder: Path) -> list[str]:
        """Return the arguments for one with that folder."""
        # WHY without the quotes: it stands in JSON strings, each as the beginning of a path.
        name = json.dumps(str(folder))[1:-1]
        return [each.replace(_MARK, name) for each in self.arguments]


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorPlan:
    """The workers to look after, and how.

    `names` are their seats', one without a name for a server that is alone; `grpc` and `http` are
    addresses as in the configuration; `columns` is the audit folder whose segments get columns.
    Without `envoy` workers listen with grpcio.
    """

    names: Sequence[str]
    grpc: str
    http: str
    drain_seconds: float
    log_level: str
    log_format: str
    columns: str | None
    envoy: EnvoyPlan | None

    def become(self, config: Path) -> NoReturn:
        """Make this process a supervisor that follows the plan."""
        with _file_without_a_name() as file:
            self.write(file)
            sys.stdout.flush()
            sys.stderr.flush()
            os.set_inheritable(file.fileno(), True)
            signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
            # WHY -P: what lies in the folder that the server was started in is nobody's module.
            arguments = [sys.executable, "-P", "-m", PROGRAM, str(config), str(file.fileno())]
            os.execv(sys.executable, arguments)  # noqa: S606 - the very same interpreter

    def write(self, file: IO[bytes]) -> None:
        """Write it into an empty file, and go back to its beginning."""
        file.write(json.dumps(asdict(self)).encode())
        file.seek(0)

    @classmethod
    def take(cls, descriptor: int) -> Self:
        """Return the plan that this process was given, and close its file."""
        with os.fdopen(descriptor, "rb") as file:
            told: dict[str, Any] = json.load(file)
        envoy = told.pop("envoy")
        return cls(**told, envoy=None if envoy is None else EnvoyPlan(**envoy))


def _file_without_a_name() -> IO[bytes]:
    # WHY: where all is read-only, as in many containers, there is no folder for one.
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("plan"), "w+b")
    return tempfile.TemporaryFile()
