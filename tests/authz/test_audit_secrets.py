"""Secrets of many requests are found nowhere in anything that is written.

`MESHWARDEN_AUDIT_SECRETS` says how many requests; fewer where it says nothing.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import jwt
import pytest
import yaml
from checking import make_message
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from jwt.algorithms import ECAlgorithm

from audit.chain import list_segments, read_raw_lines
from audit.compressing import compress_closed
from audit.database import duckdb
from authz.cli import main
from authz.grpc_server import SERVICE
from tests.loopback import EAGER, free_port

sys.path.insert(0, str(Path(__file__).parents[1] / "audit"))
from decision_log_service import Service, serving

from tests.serving_here import served_here

_REQUESTS = int(os.environ.get("MESHWARDEN_AUDIT_SECRETS", "2000"))
_TOKENS = 200
_ISSUER = "https://issuer.example"
_MARK = "s3cr3t"
_KEY = ec.generate_private_key(ec.SECP256R1())
_JWKS = {"keys": [{**ECAlgorithm.to_jwk(_KEY.public_key(), as_dict=True), "kid": "k1"}]}
_POLICIES = [
    {
        "apiVersion": "security.istio.io/v1",
        "kind": "RequestAuthentication",
        "metadata": {"name": "tokens", "namespace": "shop"},
        "spec": {"jwtRules": [{"issuer": _ISSUER, "jwks": json.dumps(_JWKS)}]},
    },
    {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "readers", "namespace": "shop"},
        "spec": {
            "action": "ALLOW",
            "rules": [
                {
                    "from": [{"source": {"requestPrincipals": ["*"]}}],
                    "to": [{"operation": {"methods": ["GET"]}}],
                }
            ],
        },
    },
]


def _mint(number: int) -> str:
    """Return a token whose claims hold secrets, each third of them signed by a stranger."""
    claims = {
        "iss": _ISSUER,
        "sub": f"user-{number}",
        "exp": int(time.time()) + 3600,
        "api_key": f"{_MARK}-claim-{number}",
        "nested": {"password": f"{_MARK}-nested-{number}"},
        "groups": [f"token={_MARK}-group-{number}", "readers"],
    }
    key = _KEY if number % 3 else ec.generate_private_key(ec.SECP256R1())
    return jwt.encode(claims, key, "ES256", headers={"kid": "k1"})


def _message(number: int, token: str) -> CheckRequest:
    """Return a request that bears secrets wherever one may stand."""
    secret = f"{_MARK}-{number}"
    # A parameter `access_token` is where a token is looked for: such a request has a bad one.
    name = "api_token" if number % 5 else "access_token"
    message = make_message(
        method="GET" if number % 2 else "POST",
        path=f"/orders/{number}?{name}={secret}&page=1&%70assword={secret}#sig={secret}",
        authorization=f"Bearer {token}",
        cookie=f"session={secret}; theme=dark",
        x_api_key=secret,
        x_custom=secret,
        referer=f"https://user:{secret}@shop.example/?client_secret={secret}",
        user_agent=f"curl token={secret}",
        x_forwarded_for="10.0.0.1",
    )
    http = message.attributes.request.http
    http.body = json.dumps({"password": secret})
    http.raw_body = json.dumps({"card": secret}).encode()
    return message


def _configure(folder: Path, service: Service, port: int) -> Path:
    (folder / "policies.yaml").write_text(yaml.safe_dump_all(_POLICIES))
    settings: dict[str, Any] = {
        "listen": {
            "grpc": f"unix://{folder}/grpc.sock",
            "http": f"127.0.0.1:{port}",
            # Each request must be decided, however slow the machine is.
            "overloadMilliseconds": 0,
        },
        "policies": {"paths": ["policies.yaml"]},
        "workload": {"namespace": "shop"},
        "log": {"level": "debug", "format": "json"},
        "audit": {
            "folder": "log",
            "maxSegmentBytes": 4 << 20,
            "queueWaitMilliseconds": 10_000,
            "sinks": {"uploads": [{"name": "dl", "url": service.url, "delayMilliseconds": 50}]},
        },
    }
    path = folder / "meshwarden.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def _ask_all(socket_path: Path) -> set[str]:
    """Send every request over a few connections; return the reasons of the answers."""
    tokens = [_mint(number) for number in range(_TOKENS)]
    with grpc.insecure_channel(f"unix://{socket_path}", EAGER) as channel:
        grpc.channel_ready_future(channel).result(timeout=30)
        check = channel.unary_unary(f"/{SERVICE}/Check")

        def ask(number: int) -> str:
            raw = check(_message(number, tokens[number % _TOKENS]).SerializeToString(), timeout=30)
            return str(CheckResponse.FromString(raw).dynamic_metadata["reason"])

        with ThreadPoolExecutor(4) as callers:
            return set(callers.map(ask, range(_REQUESTS)))


def _outputs(log: Path, folder: Path) -> list[tuple[str, bytes]]:
    """Return what is asked of the record afterwards, in every form."""
    commands = [
        ["audit", "verify", str(log)],
        ["audit", "query", str(log), "--limit", "20000", "--format", "json"],
        ["audit", "query", str(log), "--limit", "20000", "--format", "csv"],
        ["audit", "tail", str(log), "-n", "1000"],
        ["policy", "shadow", "report", "--audit", str(log)],
    ]
    for format_ in ("csv", "json", "jsonl", "html", "md", "parquet"):
        target = str(folder / f"export.{format_}")
        commands.append(["audit", "export", str(log), "--format", format_, "-o", target])
    found = []
    for command in commands:
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 0, (command, result.output[:400])
        found.append((" ".join(command[:2]), result.output.encode()))
    rows = duckdb.read_parquet(str(folder / "export.parquet")).fetchall()
    assert len(rows) == _REQUESTS
    found.append(("parquet", repr(rows).encode()))
    return found


def test_secrets_of_many_requests_are_found_nowhere(
    short_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not in segments, compressed or not, uploads, reports, answers to questions, logs, metrics."""
    port = free_port()
    with serving(Service()) as service, served_here(_configure(short_path, service, port)):
        reasons = _ask_all(short_path / "grpc.sock")
        metrics = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).content
    assert {"allow_rule_matched", "no_allow_rule_matched", "token_invalid"} <= reasons
    assert len(service.events()) == _REQUESTS
    log = short_path / "log"
    assert sum(b'"kind":"decision"' in raw for _, p in list_segments(log)
               for raw in read_raw_lines(p)) == _REQUESTS  # fmt: skip
    texts = [("metrics", metrics), *_outputs(log, short_path)]
    texts += [("upload", gzip.decompress(body)) for body in service.bodies]
    texts.append(("log", "".join(capfd.readouterr()).encode()))
    texts += [(path.name, path.read_bytes()) for path in _written(short_path)]
    compress_closed(log, list_segments(log)[-1][0])
    for _, path in list_segments(log):
        texts.append((path.name, b"".join(read_raw_lines(path))))
    print(f"\n{_REQUESTS} requests: {len(texts)} outputs, {sum(len(t) for _, t in texts)} bytes")
    for name, text in texts:
        for needle in _needles():
            at = text.find(needle)
            assert at < 0, (name, needle, text[max(0, at - 120) : at + 40])


def _needles() -> list[bytes]:
    """Return the mark as it may be written: plain, in base64 at any offset, and tokens' heads."""
    shifted = [base64.b64encode(b"x" * at + _MARK.encode())[4:-4] for at in range(3)]
    return [_MARK.encode(), b"eyJ", *(each for each in shifted if len(each) >= 4)]


def _written(folder: Path) -> list[Path]:
    """Return every file that is there but for those that the test wrote itself."""
    own = {"policies.yaml", "meshwarden.yaml"}
    return [path for path in folder.rglob("*") if path.is_file() and path.name not in own]
