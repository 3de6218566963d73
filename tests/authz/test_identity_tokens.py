"""`meshwarden identity inspect-token` and `fetch-jwks`: step by step, silent on secrets."""

from __future__ import annotations

import http.server
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm

from authz.cli import main
from authz.commands.identity import identity_group
from tests.loopback import http_server

ISSUER = "https://issuer.example"
AT = "2026-01-01T00:00:00"
NOW = 1_767_225_600
CLAIMS = {"iss": ISSUER, "sub": "alice", "aud": "shop", "exp": NOW + 600}
KEY = ec.generate_private_key(ec.SECP256R1())
STRANGER = ec.generate_private_key(ec.SECP256R1())
PUBLIC = {**ECAlgorithm.to_jwk(KEY.public_key(), as_dict=True), "kid": "k1", "use": "sig"}
PRIVATE = {**ECAlgorithm.to_jwk(KEY, as_dict=True), "kid": "k2"}


def mint(key: ec.EllipticCurvePrivateKey = KEY, **claims: Any) -> str:
    """Return a token of `ISSUER`."""
    return jwt.encode({**CLAIMS, **claims}, key, "ES256", headers={"kid": "k1"})


def run(*arguments: str, stdin: str | bytes = "") -> Result:
    """Run `meshwarden identity ...`."""
    return CliRunner().invoke(main, ["identity", *arguments], input=stdin)


@pytest.fixture
def jwks(tmp_path: Path) -> str:
    """A file with the issuer's key set."""
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": [PUBLIC]}))
    return str(path)


def test_good_token(jwks: str) -> None:
    """A good token is verified, and every step says so."""
    options = ["--jwks", jwks, "--issuer", ISSUER, "--audience", "shop", "--at", AT]
    result = run("inspect-token", "-", *options, stdin=f"Authorization: Bearer {mint()}\n")
    assert result.exit_code == 0
    assert "FAIL" not in result.output
    assert result.output.count("  ok ") == 7
    assert "=> verified" in result.output


@pytest.mark.parametrize(
    ("token", "options", "step", "status"),
    [
        (mint(exp=NOW - 61), [], "expiry", "expired"),
        (mint(nbf=NOW + 61), [], "not before", "not_yet_valid"),
        (mint(iss="https://other"), [], "issuer", "unknown_issuer"),
        (mint(), ["--audience", "api"], "audience", "audience_not_allowed (403"),
        (mint(STRANGER), [], "signature", "bad_signature"),
        (jwt.encode(CLAIMS, KEY, "ES256", headers={"kid": "x"}), [], "keys", "key_mismatch"),
        (jwt.encode(CLAIMS, None, "none"), [], "form", "bad_format"),
        ("opaque", [], "form", "bad_format"),
        ("", [], "form", "bad_format"),
    ],
)
def test_refused_token(jwks: str, token: str, options: list[str], step: str, status: str) -> None:
    """A bad token is refused, and the step that fails says why."""
    options = [*options, "--jwks", jwks, "--issuer", ISSUER, "--at", str(NOW)]
    result = run("inspect-token", "-", *options, stdin=token)
    assert result.exit_code == 1
    failed = [line for line in result.output.splitlines() if line.startswith("  FAIL")]
    assert any(line.startswith(f"  FAIL {step}") for line in failed)
    assert f"=> refused: {status}" in result.output


def test_nothing_secret_is_shown(jwks: str) -> None:
    """Neither signature nor secrets, keys and tokens among the claims are ever printed."""
    inner = mint(sub="inner")
    secrets = {"client_secret": "hunter2", "cnf": {"jwk": {"k": "c2VjcmV0", "d": "ZA-ZA"}}}
    header = {"kid": "k1", "jwk": PRIVATE, "x5u": "https://x.example/", "\x1b[2J": "boo"}
    token = jwt.encode(CLAIMS | secrets | {"act": [inner]}, KEY, "ES256", headers=header)
    for more in ([], ["--json"]):
        result = run("inspect-token", "-", "--jwks", jwks, "--at", AT, *more, stdin=token)
        assert result.exit_code == 0
        hidden = [token.split(".")[2], inner, inner.split(".")[2], "hunter2", "c2VjcmV0", "ZA-ZA"]
        assert [each for each in (*hidden, PRIVATE["d"], "\x1b") if each in result.output] == []
        assert "x5u" in result.output


def test_rules_of_policies(tmp_path: Path, jwks: str) -> None:
    """Each rule of the policies judges the token, and is named by where it stands."""
    inline = json.dumps({"keys": [PUBLIC]})
    policy = tmp_path / "ra.yaml"
    policy.write_text(
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\n"
        "metadata: {name: web, namespace: shop}\nspec:\n  jwtRules:\n"
        f"  - {{issuer: '{ISSUER}', jwks: '{inline}', audiences: [api]}}\n"
        f"  - {{issuer: '{ISSUER}', jwks: '{inline}', audiences: [shop]}}\n"
    )
    result = run("inspect-token", "-", "--policies", str(policy), "--at", AT, stdin=mint())
    assert result.exit_code == 0
    assert f"in shop/web ({policy}:6)" in result.output
    assert "=> refused: audience_not_allowed (403" in result.output
    assert "=> verified" in result.output
    mixed = run("inspect-token", "-", "--policies", str(policy), "--jwks", jwks, stdin=mint())
    assert mixed.exit_code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect-token", "/nonexistent"],
        ["inspect-token", "-", "--jwks", "/nonexistent"],
        ["inspect-token", "-", "--jwks", "/dev/null"],
        ["inspect-token", "-", "--at", "yesterday"],
        ["inspect-token", "-", "--policies", "/nonexistent"],
        ["fetch-jwks"],
        ["fetch-jwks", "https://a.example", "--issuer", "https://b.example"],
        ["fetch-jwks", "ftp://a.example"],
        ["fetch-jwks", "http://169.254.169.254/", "--allow-loopback"],
        ["fetch-jwks", "http://127.0.0.1:1/"],
    ],
)
def test_what_cannot_be_done(arguments: list[str]) -> None:
    """What cannot be judged or fetched ends with 2 and one clause, without a traceback."""
    result = run(*arguments, stdin=mint())
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    assert isinstance(result.exception, SystemExit)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(raw=st.binary(max_size=120))
def test_any_bytes(jwks: str, raw: bytes) -> None:
    """Any bytes for a token are refused, and never an exception."""
    result = run("inspect-token", "-", "--jwks", jwks, "--at", AT, stdin=raw)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)


@pytest.fixture
def publisher() -> Iterator[Any]:
    """A server on loopback whose `answers` map paths to documents."""

    class Handler(http.server.BaseHTTPRequestHandler):
        """Answers from the server's table."""

        def do_GET(self) -> None:
            """Answer one request."""
            body = json.dumps(self.server.answers.get(self.path)).encode()  # type: ignore[attr-defined]
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("cache-control", "public, max-age=300")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Keep quiet."""

    with http_server(Handler) as server:
        server.url = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
        server.answers = {}  # type: ignore[attr-defined]
        yield server


def test_fetch_by_discovery(publisher: Any) -> None:
    """The key set is found through the issuer, with what is used of it and what is not."""
    publisher.answers["/.well-known/openid-configuration"] = {
        "issuer": publisher.url,
        "jwks_uri": publisher.url + "/keys",
    }
    odd = {**PUBLIC, "kid": "\x1b[31m", "use": "enc"}
    publisher.answers["/keys"] = {"keys": [PUBLIC, PRIVATE, odd, {"kty": "oct", "k": "c2VjcmV0"}]}
    arguments = ["fetch-jwks", "--issuer", publisher.url, "--allow-loopback"]
    result = run(*arguments)
    assert result.exit_code == 0
    assert f"{publisher.url}/keys" in result.output
    assert "fresh for 300 s" in result.output
    assert 'used     "k1" EC P-256, verifies ES256' in result.output
    assert result.output.count("note ") == 3
    assert not any(each in result.output for each in (PRIVATE["d"], "c2VjcmV0", "\x1b"))
    (used,) = json.loads(run(*arguments, "--json").output)["used"]
    assert (used["kid"], used["algorithms"], len(used["thumbprint"])) == ("k1", ["ES256"], 43)
    token = jwt.encode({**CLAIMS, "iss": publisher.url}, KEY, "ES256", headers={"kid": "k1"})
    options = ["--issuer", publisher.url, "--allow-loopback", "--at", AT]
    assert run("inspect-token", "-", *options, stdin=token).exit_code == 0


def test_fetch_without_usable_key(publisher: Any) -> None:
    """A set without a usable key ends with 1, and says what that means."""
    publisher.answers["/keys"] = {"keys": [PRIVATE]}
    result = run("fetch-jwks", publisher.url + "/keys", "--allow-loopback")
    assert result.exit_code == 1
    assert "every token of this issuer is refused" in result.output


def test_the_page_shows_what_there_is() -> None:
    """Each command line of docs/identity-tokens.md names a command and options that exist."""
    page = (Path(__file__).resolve().parents[2] / "docs/identity-tokens.md").read_text("utf-8")
    lines = re.findall(r"^meshwarden identity (\S+)(.*)$", page, flags=re.MULTILINE)
    assert {name for name, _ in lines} == {"inspect-token", "fetch-jwks"}
    for name, rest in lines:
        command = identity_group.commands[name]
        known = {option for parameter in command.params for option in parameter.opts}
        assert set(re.findall(r"--[a-z]+", rest)) <= known
