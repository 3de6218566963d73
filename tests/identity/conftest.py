"""Throw-away keys, minted tokens and a real Envoy for the tests of `identity`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from joserfc import jwk, jws

from tests.jwt_authn import requirement_of
from tests.waiting import envoy_ports

NOW = 1_800_000_000
ISSUER = "https://issuer.example"


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The private keys of the tests, by name; `public` is the set an issuer would publish."""

    keys: Mapping[str, Any]
    issuer: str = ISSUER
    now: int = NOW

    def public(self, *names: str) -> str:
        """Return the JWK set of the named keys, or of all but the symmetric one and `stranger`."""
        chosen = names or tuple(name for name in self.keys if name not in ("oct", "stranger"))
        return json.dumps({"keys": [self.public_key(name) for name in chosen]})

    def public_key(self, name: str) -> dict[str, Any]:
        """Return one public JWK; the symmetric key has no public half and is returned whole."""
        key = self.keys[name]
        return dict(key.as_dict(private=name == "oct")) | {"kid": name}

    def inline(self) -> str:
        """Return a set an operator could write inline: all public keys and the symmetric one."""
        names = [name for name in self.keys if name != "stranger"]
        return self.public(*names)

    def sign(self, name: str, alg: str, header: Mapping[str, Any], payload: bytes) -> str:
        """Return a compact JWS over any bytes, with the header fields given."""
        registry = jws.JWSRegistry(algorithms=[alg], strict_check_header=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `EdDSA` is an old name, and the one Envoy knows.
            return jws.serialize_compact(
                {"alg": alg} | dict(header), payload, self.keys[name], registry=registry
            )

    def mint(self, name: str = "rsa", alg: str = "RS256", **claims: Any) -> str:
        """Return a good token of `ISSUER`, with claims replaced, or left out where None."""
        body = {"iss": ISSUER, "sub": "alice", "aud": "shop", "exp": NOW + 600} | claims
        payload = json.dumps({key: value for key, value in body.items() if value is not None})
        return self.sign(name, alg, {"kid": name, "typ": "JWT"}, payload.encode())


@pytest.fixture(scope="session")
def ring() -> KeyRing:
    """One key of each kind, made for this run."""
    return KeyRing(
        {
            "rsa": jwk.RSAKey.generate_key(2048),
            "stranger": jwk.RSAKey.generate_key(2048),
            "p256": jwk.ECKey.generate_key("P-256"),
            "p384": jwk.ECKey.generate_key("P-384"),
            "p521": jwk.ECKey.generate_key("P-521"),
            "ed25519": jwk.OKPKey.generate_key("Ed25519"),
            "oct": jwk.OctKey.generate_key(512),
        }
    )


@dataclass(frozen=True, slots=True)
class EnvoyAnswer:
    """What a real Envoy said to one request, and the request headers that it passed on."""

    status: int
    body: str
    www_authenticate: str | None
    upstream: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class JwtEnvoy:
    """A running Envoy with a `jwt_authn` filter; the path prefix `/<rules>` picks the rules."""

    client: httpx.Client

    def ask(self, url: str, headers: list[tuple[str, str]], method: str = "GET") -> EnvoyAnswer:
        """Send one request and return the answer."""
        answer = self.client.request(method, url, headers=headers)
        upstream = {
            name[len("seen-") :]: value
            for name, value in answer.headers.items()
            if name.startswith("seen-")
        }
        return EnvoyAnswer(
            answer.status_code, answer.text, answer.headers.get("www-authenticate"), upstream
        )


def envoy_config(
    providers: Mapping[str, Any], groups: Mapping[str, list[str]], seen: list[str], folder: Path
) -> str:
    """Return a static configuration in the shape Istio builds (reference 7.4)."""
    rules = [
        {"match": {"prefix": f"/{group}/"}, "requires": requirement_of(names)}
        for group, names in groups.items()
    ]
    authn = {"providers": providers, "rules": rules, "bypass_cors_preflight": True}
    filters = [
        _filter("jwt_authn", "jwt_authn.v3.JwtAuthentication", **authn),
        _filter("router", "router.v3.Router"),
    ]
    added = [
        {"header": {"key": f"seen-{name.strip(':')}", "value": f"%REQ({name})%"}} for name in seen
    ]
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network"
        ".http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "t",
        "normalize_path": True,
        "http_filters": filters,
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        {
                            "match": {"prefix": "/"},
                            "direct_response": {"status": 200},
                            "response_headers_to_add": added,
                        }
                    ],
                }
            ]
        },
    }
    listener = {
        "name": "main",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": manager,
                    }
                ]
            }
        ],
    }
    return json.dumps(
        {
            "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
            "static_resources": {"listeners": [listener]},
        }
    )


def _filter(name: str, kind: str, **fields: Any) -> dict[str, Any]:
    """Return one HTTP filter entry."""
    config = {"@type": f"type.googleapis.com/envoy.extensions.filters.http.{kind}", **fields}
    return {"name": f"envoy.filters.http.{name}", "typed_config": config}


def start_envoy(config: str, folder: Path) -> tuple[subprocess.Popen[str], str]:
    """Start Envoy on a free port and return it with its base URL, once it listens."""
    binary = shutil.which("envoy", path=str(Path(sys.executable).parent)) or shutil.which("envoy")
    if binary is None:
        pytest.fail("envoy is not installed")
    (folder / "envoy.json").write_text(config)
    command = [binary, "-c", str(folder / "envoy.json"), "--concurrency", "1"]
    command += ["--use-dynamic-base-id", "--log-level", "warning", "--admin-address-path"]
    command += [str(folder / "admin")]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=folder
    )
    output: list[str] = []
    reader = threading.Thread(target=_drain, args=(process, output), daemon=True)
    reader.start()
    try:
        port = envoy_ports(process, folder, ["main"])["main"]
    except AssertionError as exc:
        process.kill()
        reader.join(5)
        pytest.fail(f"{exc}{''.join(output)[:500]}")
    return process, f"http://127.0.0.1:{port}"


def _drain(process: subprocess.Popen[str], output: list[str]) -> None:
    """Keep what Envoy writes, so that its pipe never fills."""
    assert process.stderr is not None
    output.extend(process.stderr)


@pytest.fixture(scope="session")
def run_envoy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return a function that starts an Envoy and gives its base URL; all are ended with the run."""
    running: list[subprocess.Popen[str]] = []

    def run(config: str) -> str:
        process, base = start_envoy(config, tmp_path_factory.mktemp("envoy"))
        running.append(process)
        return base

    yield run
    for process in running:
        process.terminate()
        process.wait(10)
        if process.stderr is not None:
            process.stderr.close()


@pytest.fixture(scope="session")
def launch_envoy(run_envoy: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return a function that starts one Envoy with a `jwt_authn` filter."""
    clients: list[httpx.Client] = []

    def launch(
        providers: Mapping[str, Any], groups: Mapping[str, list[str]], seen: list[str]
    ) -> JwtEnvoy:
        folder = tmp_path_factory.mktemp("config")
        base = run_envoy(envoy_config(providers, groups, seen, folder))
        client = httpx.Client(base_url=base, timeout=10, trust_env=False)
        clients.append(client)
        return JwtEnvoy(client)

    yield launch
    for client in clients:
        client.close()
