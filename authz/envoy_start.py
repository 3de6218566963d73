"""Servers inside Envoy, started as they were planned.

Theory of operation. Envoy loads pyvoy's module, and that an interpreter, whose library is
loaded before all else. That interpreter has this one's path, with `authz/embedded` before it.
Signals to end are kept from Envoy, which would end at once: they are for the process
that started it, and the leash passes them on.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Final

import authz
from authz.envoy_place import (
    CERTIFICATE_SECRET,
    LENT_VARIABLES,
    ROOTS_SECRET,
    EnvoyPlace,
    secret_file,
)
from authz.ports import check_that_it_is_free
from authz.server_folder import ServerFolder
from authz.supervisor_plan import EnvoyPlan
from authz.worker_process import StartWorker

_PACKAGE: Final = Path(authz.__file__).parent
# WHY: Envoy's allocator keeps what is freed by core where it may use the kernel's restartable
# sequences, which the C library takes for itself unless it is told not to; else by thread, each of
# them more and more for the better part of an hour.
_BY_CORE: Final = "glibc.pthread.rseq=0"
_KEPT_FROM_ENVOY: Final = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


def envoy_worker(plan: EnvoyPlan, config: Path, grpc: str, folder: ServerFolder) -> StartWorker:
    """Return what starts servers inside Envoy; each has a folder of its own in `folder`.

    What it returns raises ListenError where somebody listens on `grpc` already, and the port is
    not one to share.
    """
    numbers = count(1)

    def start(name: str, leash: int) -> subprocess.Popen[bytes]:
        if not plan.shares_port:
            check_that_it_is_free(grpc)
        place = EnvoyPlace(
            config=str(config.resolve()),
            worker=name,
            leash=leash,
            folder=str(folder.path / str(next(numbers))),
            executable=sys.executable,
            lent={each: os.environ.get(each) for each in LENT_VARIABLES},
        )
        _lay_out(place)
        command = [plan.envoy, *plan.arguments_in(Path(place.folder))]
        return _start(command, plan.library, place, folder.descriptor)

    return start


def _lay_out(place: EnvoyPlace) -> None:
    """Make the folders, and files of no secrets: Envoy begins with none that are not there."""
    Path(place.folder).mkdir(mode=0o700)
    place.secrets.mkdir(mode=0o700)
    for name in (CERTIFICATE_SECRET, ROOTS_SECRET):
        secret_file(place.secrets, name).write_text('{"resources": []}', "utf-8")


def _start(
    command: Sequence[str], library: str, place: EnvoyPlace, held: int
) -> subprocess.Popen[bytes]:
    embedded = _PACKAGE / "embedded"
    path = [str(embedded), str(_PACKAGE.parent), *(each for each in sys.path if each)]
    environment = {
        **os.environ,
        "GLIBC_TUNABLES": ":".join(filter(None, (os.environ.get("GLIBC_TUNABLES"), _BY_CORE))),
        "LD_PRELOAD": library,
        "PYTHONHOME": f"{sys.prefix}{os.pathsep}{sys.exec_prefix}",
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(path)),
        **place.to_environment(),
    }
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _KEPT_FROM_ENVOY)
    try:
        return subprocess.Popen(
            command,
            pass_fds=[place.leash, held],
            env=environment,
            # WHY: pyvoy puts the working folder on the path; nothing of this one is a surprise.
            cwd=embedded,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
