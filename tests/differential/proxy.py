"""The one Envoy of a run: it stays up while policy sets come and go as listeners."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from examples.demo.processes import Process, Supervisor
from tests.differential.listeners import Plain, bootstrap
from tests.differential.wire import Door

_READY_SECONDS = 30.0
# Far from 127.0 and 127.1, from which requests come.
_FIRST_OCTET = 128
_LOG = ("--log-level", "warning", "--disable-hot-restart", "--concurrency", "1")
_DRAIN = ("--drain-time-s", "1", "--drain-strategy", "immediate")


class SharedDoorError(Exception):
    """Two listeners share an address: what they answer cannot be told apart."""


class EnvoyProxy:
    """A running Envoy. `push` replaces all its listeners."""

    def __init__(self, folder: Path, supervisor: Supervisor, ports: Mapping[str, int]) -> None:
        """Start it without listeners and wait until its admin page answers."""
        self._lds = folder / "lds.json"
        self._next = folder / "lds.next"
        admin = folder / "admin"
        self._lds.write_text(_resources([], 0))
        (folder / "envoy.json").write_text(json.dumps(bootstrap(str(self._lds), ports)))
        beside = str(Path(sys.executable).parent)
        binary = shutil.which("envoy", path=beside) or shutil.which("envoy")
        if binary is None:
            raise FileNotFoundError("envoy is not installed")
        command = [binary, "-c", str(folder / "envoy.json"), "--admin-address-path", str(admin)]
        self._process: Process = supervisor.start("envoy", [*command, *_LOG, *_DRAIN])
        self._generation = 0
        self._places = 0
        self._client = httpx.Client(timeout=10, trust_env=False)
        self._admin = self._process.wait_until(
            lambda: f"http://{admin.read_text().strip()}" if _has_text(admin) else None,
            seconds=_READY_SECONDS,
        )
        self._process.wait_until(lambda: self._updates() or None, seconds=_READY_SECONDS)

    def push(self, listeners: Sequence[Plain]) -> tuple[dict[str, Door], dict[str, str]]:
        """Put these listeners in place of all others.

        Return the doors by listener name, and for each listener that Envoy refuses the reason.
        """
        self._generation += 1
        listeners = [self._placed(each) for each in listeners]
        seen = self._updates()
        self._next.write_text(_resources(listeners, self._generation))
        self._next.replace(self._lds)
        self._process.wait_until(
            lambda: True if self._updates() > seen else None, seconds=_READY_SECONDS
        )
        refused = self._refused()
        wanted = {each["name"] for each in listeners} - refused.keys()
        doors = self._process.wait_until(lambda: self._doors(wanted), seconds=_READY_SECONDS)
        return doors, refused

    def _placed(self, listener: Plain) -> Plain:
        """Return the listener on a loopback address that none had before.

        WHY: a listener that asks for any port of the address of one that is draining is
        given that one's socket; two of them would then answer in each other's place.
        """
        self._places += 1
        low = self._places.to_bytes(3, "big")
        ipv4 = f"127.{_FIRST_OCTET + low[0]}.{low[1]}.{low[2]}"
        return {
            **listener,
            "address": {"socket_address": {"address": ipv4, "port_value": 0}},
            "additional_addresses": [
                {"address": {"socket_address": {"address": "::1", "port_value": 0}}}
            ],
            "enable_reuse_port": False,
        }

    def close(self) -> None:
        """Close the client of the admin page."""
        self._client.close()

    def _updates(self) -> int:
        """Return how many listener updates were taken or refused."""
        try:
            text = self._client.get(f"{self._admin}/stats?filter=listener_manager.lds.update_").text
        except httpx.HTTPError:
            return 0
        counts = dict(line.split(": ") for line in text.splitlines() if ": " in line)
        prefix = "listener_manager.lds.update_"
        return sum(int(counts.get(prefix + name, 0)) for name in ("success", "rejected"))

    def _refused(self) -> dict[str, str]:
        """Return the listeners in error, with Envoy's words."""
        url = f"{self._admin}/config_dump?resource=dynamic_listeners"
        found: dict[str, str] = {}
        for each in self._client.get(url).json().get("configs", []):
            error = each.get("error_state")
            if error:
                found[each.get("name", "")] = error.get("details", "")
        return found

    def _doors(self, wanted: set[str]) -> dict[str, Door] | None:
        """Return where the wanted listeners listen, None while one is missing."""
        statuses = self._client.get(f"{self._admin}/listeners?format=json").json()
        found = {
            each["name"]: Door(
                ipv4=_place(each["local_address"]),
                ipv6=_place(each["additional_local_addresses"][0]),
            )
            for each in statuses.get("listener_statuses", [])
            if each["name"] in wanted
        }
        if found.keys() != wanted:
            return None
        places = [place for door in found.values() for place in (door.ipv4, door.ipv6)]
        if len(places) != len(set(places)):
            raise SharedDoorError("two listeners were given one port")
        return found


def _has_text(path: Path) -> bool:
    return path.exists() and bool(path.read_text().strip())


def _place(address: Mapping[str, Any]) -> tuple[str, int]:
    socket_address = address["socket_address"]
    return socket_address["address"], socket_address["port_value"]


def _resources(listeners: Sequence[Plain], generation: int) -> str:
    return json.dumps({"version_info": str(generation), "resources": list(listeners)})
