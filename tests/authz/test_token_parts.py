"""The `identity` settings become parts that judge tokens, or are refused with the reason."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import yaml
from checking import MemoryRecorder, ask, make_authorizer, make_message
from click.testing import CliRunner
from pydantic import ValidationError

from audit.document import document_from_record
from audit.redact import Redactor
from authz.cli import main
from authz.config_file import load_settings
from authz.identity_settings import IdentitySettings
from authz.token_parts import build_token_parts
from identity.errors import KeySourceError
from identity.jwt_rule import JwtRule
from identity.jwt_verify import TokenRefusal, VerifiedToken
from identity.token_status import TokenStatus
from tests.loopback import http_server

OPAQUE = {"issuer": "https://opaque.example", "clientId": "meshwarden"}


@pytest.fixture
def endpoint() -> Iterator[str]:
    """An introspection endpoint on loopback that calls every token active."""

    class Handler(BaseHTTPRequestHandler):
        """Answers every question alike."""

        def do_POST(self) -> None:
            """Answer one question."""
            self.rfile.read(int(self.headers["content-length"]))
            body = json.dumps({"active": True, "sub": "alice"}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Keep quiet."""

    with http_server(Handler) as server:
        yield f"http://127.0.0.1:{server.server_port}/introspect"


@pytest.mark.parametrize("allowed", [True, False])
def test_opaque_tokens_from_a_file(tmp_path: Path, endpoint: str, allowed: bool) -> None:
    """A configuration file makes an issuer that is asked; the guard holds for it as well."""
    (tmp_path / "secret").write_text("s3cret\n")
    config = tmp_path / "meshwarden.yaml"
    provider = {**OPAQUE, "endpoint": endpoint, "clientSecretFile": "secret"}
    identity = {"jwks": {"allowLoopback": allowed}, "introspection": [provider]}
    config.write_text(json.dumps({"identity": identity}))
    parts = build_token_parts(load_settings(config).identity)
    try:
        rule = JwtRule(issuer=OPAQUE["issuer"])
        verdict = parts.verify("opaque-token", rule, lambda: None, 1_800_000_000)
    finally:
        parts.close()
    if allowed:
        assert isinstance(verdict, VerifiedToken)
        assert verdict.payload == {"iss": OPAQUE["issuer"], "sub": "alice"}
    else:
        assert isinstance(verdict, TokenRefusal)
        assert verdict.status is TokenStatus.INTROSPECTION_FAILED
        assert "loopback" in verdict.detail


def test_secret_from_the_environment() -> None:
    """The secret may be in the environment; one that is missing or empty is told by its place."""
    settings = IdentitySettings.model_validate(
        {"introspection": [OPAQUE | {"endpoint": "https://o.example/i", "clientSecretEnv": "SEC"}]}
    )
    build_token_parts(settings, {"SEC": "s3cret"}).close()
    for environment in ({}, {"SEC": ""}):
        with pytest.raises(KeySourceError, match="`SEC` holds no client secret"):
            build_token_parts(settings, environment)


def test_secret_file_that_cannot_be_read(tmp_path: Path) -> None:
    """A file that is not there, or no text, is named; what is in it is not."""
    (tmp_path / "binary").write_bytes(b"\xff\xfes3cret")
    for name in ("none", "binary"):
        provider = OPAQUE | {"endpoint": "https://o/", "clientSecretFile": str(tmp_path / name)}
        settings = IdentitySettings.model_validate({"introspection": [provider]})
        with pytest.raises(KeySourceError, match="cannot be read") as raised:
            build_token_parts(settings, {})
        assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"endpoint": "http://opaque.example/i"}, "https"),
        ({"endpoint": "ftp://opaque.example/i"}, "https"),
        ({"endpoint": "opaque"}, "https"),
        ({"clientSecretEnv": ""}, "one of `clientSecretFile` and `clientSecretEnv`"),
        ({"clientSecretFile": "x"}, "one of `clientSecretFile` and `clientSecretEnv`"),
        ({"authMethod": "none"}, "client_secret_basic"),
        ({"issuer": ""}, "at least 1"),
    ],
)
def test_settings_that_are_refused(change: dict[str, Any], why: str) -> None:
    """A token is sent nowhere but over TLS, and never without a secret."""
    provider = OPAQUE | {"endpoint": "https://o.example/i", "clientSecretEnv": "SEC"} | change
    with pytest.raises(ValidationError, match=why):
        IdentitySettings.model_validate({"introspection": [provider]})


def test_one_provider_for_an_issuer() -> None:
    """Two providers of one issuer leave open which is asked, so they are refused."""
    provider = OPAQUE | {"endpoint": "https://o.example/i", "clientSecretEnv": "SEC"}
    with pytest.raises(ValidationError, match="stands there twice"):
        IdentitySettings.model_validate({"introspection": [provider, provider]})


def test_defaults_refuse_loopback() -> None:
    """Nothing is fetched from loopback unless the configuration says so."""
    settings = IdentitySettings()
    assert settings.jwks.to_address_rules().why_refused("127.0.0.1")
    assert not settings.jwks.to_address_rules().why_refused("10.0.0.1")
    networks = IdentitySettings.model_validate({"jwks": {"refusedNetworks": ["10.0.0.0/8"]}})
    assert networks.jwks.to_address_rules().why_refused("::ffff:10.0.0.1")


@pytest.mark.parametrize("where", ["header", "param"])
def test_opaque_token_through_the_whole_walk(endpoint: str, where: str) -> None:
    """An opaque token is a request principal that policies see, and no record holds the token."""
    provider = OPAQUE | {"endpoint": endpoint, "clientSecretEnv": "SEC"}
    settings = IdentitySettings.model_validate(
        {"jwks": {"allowLoopback": True}, "introspection": [provider]}
    )
    parts = build_token_parts(settings, {"SEC": "s3cret-client"})
    principals = [f"{OPAQUE['issuer']}/alice"]
    specs: list[dict[str, Any]] = [
        {"kind": "RequestAuthentication", "jwtRules": [{"issuer": OPAQUE["issuer"]}]},
        {"rules": [{"from": [{"source": {"requestPrincipals": principals}}]}]},
    ]
    recorder = MemoryRecorder()
    authorizer = make_authorizer(specs, recorder, verify_token=parts.verify)
    token = "2YotnFZFEjr1zCsicMWpAA~handle"
    message = (
        make_message(authorization=f"Bearer {token}")
        if where == "header"
        else make_message(path=f"/x?access_token={token}")
    )
    try:
        answers = [
            ask(authorizer, message).status.code,
            ask(authorizer, make_message()).status.code,
        ]
    finally:
        parts.close()
    assert answers == [0, 7]
    lines = [
        json.dumps(document_from_record(each, node="n", redactor=Redactor()))
        for each in recorder.records
    ]
    assert "alice" in lines[0]
    assert [each for each in (token, "2YotnF", "s3cret-client") if each in "".join(lines)] == []


def test_envoy_waits_longer_than_the_authorizer(tmp_path: Path) -> None:
    """The printed filter's timeout covers the longest wait for an issuer."""
    config = tmp_path / "m.yaml"
    provider = OPAQUE | {"endpoint": "https://o/i", "clientSecretEnv": "S", "timeoutSeconds": 2.5}
    for identity, expected in (({}, "0.2s"), ({"introspection": [provider]}, "2.6s")):
        config.write_text(json.dumps({"identity": identity}))
        result = CliRunner().invoke(main, ["envoy-config", "-c", str(config)])
        assert result.exit_code == 0
        (filter_,) = yaml.safe_load(result.output)["http_filters"]
        timeout = filter_["typed_config"]["grpc_service"]["timeout"]
        assert float(timeout.rstrip("s")) == float(expected.rstrip("s"))
