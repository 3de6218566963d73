"""What a command line says when it cannot do its work."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from authz.cli import main
from authz.errors import ListenError
from authz.ports import check_that_it_is_free

_POLICY = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: a, namespace: x}
spec: {}
"""


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def test_a_taken_http_port_is_named(tmp_path: Path) -> None:
    """A port in use ends `serve` with the setting, the address and the reason."""
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies/a.yaml").write_text(_POLICY)
    config = tmp_path / "m.yaml"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        config.write_text(f"listen: {{grpc: '127.0.0.1:0', http: '{where}'}}\n")

        result = _run("serve", "-c", str(config))

    assert 2 == result.exit_code
    assert f"error: `listen.http: {where}` cannot be listened on: Address already" in result.output


@pytest.mark.parametrize(
    ("grpc", "why"),
    [
        ("127.0.0.1:{taken}", "Address already in use"),
        ("192.0.2.1:9191", "Cannot assign requested address"),
        ("unix://{folder}/none/m.sock", "No such file or directory"),
    ],
)
def test_an_address_that_cannot_be_had_is_told_as_the_system_says(
    tmp_path: Path, grpc: str, why: str
) -> None:
    """gRPC gives no reason, so the system is asked for it; Envoy is not started without asking."""
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies/a.yaml").write_text(_POLICY)
    config = tmp_path / "m.yaml"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        grpc = grpc.format(taken=taken.getsockname()[1], folder=tmp_path)
        config.write_text(f"listen: {{grpc: '{grpc}', http: '127.0.0.1:0'}}\n")

        result = _run("serve", "-c", str(config))
        with pytest.raises(ListenError, match=why):
            check_that_it_is_free(grpc)

    assert 2 == result.exit_code
    assert f"error: `{grpc}` cannot be listened on: {why}" == result.output.splitlines()[-1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mesh: [1]", "`mesh`: must be a mapping"),
        ("policies: {paths: {}}", "`policies.paths`: must be a list"),
        ("mesh: {trustDomain: [a]}", "`mesh.trustDomain`: must be a text"),
    ],
)
def test_a_value_of_another_shape_is_told_in_words_of_yaml(
    tmp_path: Path, text: str, said: str
) -> None:
    """A list for a mapping and the like are named without classes of ours."""
    config = tmp_path / "m.yaml"
    config.write_text(f"{text}\n")

    assert f"error: {said} [configuration]" in _run("config", "check", "-c", str(config)).output


def test_an_unwritable_output_is_named_without_a_number(tmp_path: Path) -> None:
    """The path comes first and the reason in words, no errno."""
    result = _run("audit", "export", str(tmp_path), "-o", str(tmp_path / "none/out"))

    assert 2 == result.exit_code
    assert str(tmp_path / "none") in result.output
    assert "Errno" not in result.output


def test_a_failed_export_leaves_the_older_one(tmp_path: Path) -> None:
    """An export that fails neither empties what was there nor leaves a part of its own."""
    older = tmp_path / "out.csv"
    older.write_text("older")

    result = _run("audit", "export", str(tmp_path / "none"), "-o", str(older))

    assert 2 == result.exit_code
    assert "older" == older.read_text()
    assert [older] == list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (["polcy"], "policy"),
        (["policy", "lnt"], "lint"),
        (["audit", "verfy", "log"], "verify"),
        (["ca", "rotate", "prepar"], "prepare"),
        (["policy", "eval", "--polices", "x"], "--policies"),
    ],
)
def test_a_misspelled_word_is_named_with_the_one_that_is_near(
    arguments: list[str], near: str
) -> None:
    """A command or an option that there is none of ends with a usage error that helps."""
    result = _run(*arguments)

    assert 2 == result.exit_code
    assert f"'{near}'" in result.output.splitlines()[-1]


def test_each_configuration_is_checked_as_its_own_kind(tmp_path: Path) -> None:
    """`config check --of ca` takes what the CA takes, and names a wrong key by line and column."""
    config = tmp_path / "ca.yaml"
    config.write_text("stateFolder: s\ntrustDomain: example.org\nworkloadApi: {socket: a}\n")
    assert 0 == _run("config", "check", "--of", "ca", "-c", str(config)).exit_code
    assert 2 == _run("config", "check", "-c", str(config)).exit_code
    config.write_text("stateFolder: s\ntrustDomian: example.org\nworkloadApi: {socket: a}\n")
    found = _run("config", "check", "--of", "ca", "-c", str(config))
    assert 2 == found.exit_code
    assert "ca.yaml:2:1: error: unknown setting `trustDomian`" in found.output
    assert "did you mean `trustDomain`?" in found.output


@pytest.mark.parametrize("charset", ["ascii", "latin-1", "utf-8"])
def test_signs_that_the_output_has_no_bytes_for_are_spelled_out(
    tmp_path: Path, charset: str
) -> None:
    """Where the locale knows no tick a passed test still passes, and says so in other signs."""
    assert 0 == _run("policy", "init", str(tmp_path)).exit_code

    found = CliRunner(charset=charset).invoke(main, ["policy", "test", str(tmp_path)])

    assert 0 == found.exit_code
    tick = "✓" if charset == "utf-8" else "\\u2713"
    assert f"  {tick} the shop front reads orders" in found.output.splitlines()
