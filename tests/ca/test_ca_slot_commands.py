"""`ca init`, `rotate`, `bundle`, `status` and the endpoints, as an operator meets them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import yaml
from click.testing import CliRunner
from cryptography import x509

from authz.commands.ca import ca_group
from identity.bundle_document import parse_bundle
from identity.spiffe_id import TrustDomain
from tests.loopback import free_port

ID = "spiffe://example.org/a"


@pytest.fixture
def config(short_path):
    """A configuration file; `config(key=value)` writes it anew."""
    path = short_path / "ca.yaml"

    def _write(**changes):
        settings = {
            "stateFolder": "state",
            "trustDomain": "example.org",
            "workloads": [{"spiffeId": ID, "socket": "a.sock"}],
            "rotationWaitSeconds": 0,
        }
        path.write_text(yaml.safe_dump(settings | changes))
        return path

    _write()
    _write.path = path
    return _write


def _run(config, *arguments, code=0):
    """Return what a command prints; it must end with `code`."""
    done = CliRunner().invoke(ca_group, [*arguments, "-c", str(config.path)])
    assert done.exit_code == code, done.output + repr(done.exception)
    return done.stdout if code != 2 else done.stderr


def test_a_rotation_by_hand_with_nobody_serving(config):
    """Through the slots by commands alone; each says what it did, the bundle follows."""
    _run(config, "init")
    assert "already" in _run(config, "init", code=2)
    assert "authority 2 is prepared" in _run(config, "rotate", "prepare")
    assert len(_run(config, "bundle", "show").splitlines()) == 2
    assert "authority 2 signs now" in _run(config, "rotate", "activate")
    refusal = _run(config, "rotate", "retire", code=2)
    assert "error: the retired root is still needed" in refusal
    assert "help: wait, or use --force" in refusal
    assert "authority 1 is trusted no more" in _run(config, "rotate", "retire", "--force")
    [line] = _run(config, "bundle", "show").splitlines()
    assert line.startswith("2  active")
    [chain] = (config.path.parent / "state/audit").glob("*.jsonl")
    text = chain.read_text()
    steps = [text.count(f'"step":"{step}"') for step in ("prepare", "activate", "retire")]
    assert steps == [1, 1, 1]
    # Both intermediates that our roots have signed.
    assert text.count('"step":"intermediate"') == 2


def test_the_log_is_no_part_of_an_answer(config):
    """What a command logs goes to standard error: standard output may be a certificate."""
    assert _run(config, "init").startswith("made the authority of example.org, its root ends 20")
    done = CliRunner().invoke(ca_group, ["rotate", "activate", "-c", str(config.path)])
    assert done.stdout == ""
    done = CliRunner().invoke(ca_group, ["rotate", "prepare", "-c", str(config.path)])
    assert done.stdout == "authority 2 is prepared\n"


def test_bundle_in_both_forms(config):
    """PEM for openssl and Envoy, a JWK set for SPIFFE; the same roots, the sequence with them."""
    _run(config, "init")
    _run(config, "rotate", "prepare")
    pem = x509.load_pem_x509_certificates(_run(config, "bundle", "export").encode())
    document = _run(config, "bundle", "export", "--format", "spiffe").encode()
    bundle = parse_bundle(TrustDomain("example.org"), document)
    assert list(bundle.x509_authorities) == pem
    assert bundle.sequence == 2


def test_status_for_people_and_programs(config):
    """Without a process that serves: the authorities, and when each ends."""
    assert "there is no authority" in _run(config, "status", code=2)
    assert not (config.path.parent / "state").exists()
    _run(config, "init")
    status = json.loads(_run(config, "status", "--json"))
    assert (status["state"], status["serving"]) == ("ok", False)
    text = _run(config, "status")
    assert "example.org (not served by any process), ok" in text
    assert status["authorities"][0]["root"]["expiresAt"] in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"svidKey": "ed25519"}, "refused by Envoy and gRPC peers"),
        ({"authorityKey": "rsa-1024"}, "is not known, expected one of"),
        ({"keyPassphraseFile": "absent"}, "is missing"),
        ({"pluggedCa": "absent"}, "is missing"),
        ({"sharedAuthorities": True}, "sharedAuthorities needs keyPassphraseFile"),
        ({"httpListen": "nowhere"}, "must be `host:port`"),
    ],
)
def test_settings_that_are_refused(config, changes, words):
    """What cannot work is said before anything is made."""
    config(**changes)
    assert words in _run(config, "init", code=2)
    assert not (config.path.parent / "state/authority.json").exists()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
@pytest.mark.parametrize("form", ["console", "json"])
def test_a_command_logs_as_a_server_does(config, form):
    """The moment is UTC in RFC 3339's form whoever logs, and the configuration says how."""
    config(log={"format": form})
    done = CliRunner().invoke(ca_group, ["init", "-c", str(config.path)])
    [line] = done.stderr.splitlines()
    if form == "json":
        told = json.loads(line)
        assert ("authority_made", "info") == (told["event"], told["level"])
        moment = told["timestamp"]
    else:
        assert "authority_made" in line
        moment = line.partition(" ")[0]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[0-9:]{8}\.\d+Z", moment), line


def test_the_least_severe_level_counts_for_commands_too(config):
    """What the configuration does not want told is not."""
    config(log={"level": "error"})
    assert CliRunner().invoke(ca_group, ["init", "-c", str(config.path)]).stderr == ""


def test_an_existing_ca_comes_through_the_slots(config):
    """A plugged CA whose key is encrypted with the configured passphrase is taken in."""
    folder = config.path.parent
    (folder / "passphrase").write_bytes(b"p" * 32)
    (folder / "passphrase").chmod(0o600)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
        + ["-days", "30", "-subj", "/CN=plugged", "-passout", "pass:" + "p" * 32]
        + ["-addext", "keyUsage=critical,keyCertSign", "-keyout", "tls.key", "-out", "tls.crt"],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    (folder / "ca.crt").write_bytes((folder / "tls.crt").read_bytes())
    assert b"ENCRYPTED" in (folder / "tls.key").read_bytes()
    _run(config, "init")
    config(keyPassphraseFile="passphrase")
    assert "authority 2 is prepared" in _run(config, "rotate", "prepare", "--plugged", str(folder))
    _run(config, "rotate", "activate")
    assert json.loads(_run(config, "status", "--json"))["authorities"][1]["plugged"]
    for path in (folder / "state/keys").iterdir():
        if path.name.startswith("plugged"):
            assert b"ENCRYPTED" in path.read_bytes()


def test_a_state_that_another_serves_not(config):
    """A damaged state is named, and nothing is made in its place."""
    _run(config, "init")
    manifest = config.path.parent / "state/authority.json"
    manifest.write_text("{}")
    assert "cannot be read at" in _run(config, "status", code=2)
    assert manifest.read_text() == "{}"


def test_a_process_that_serves(config):
    """The commands reach a CA that runs; its endpoints tell the same; SIGTERM ends it."""
    address = f"127.0.0.1:{free_port()}"
    config(httpListen=address, log={"format": "json"})
    command = [str(Path(sys.executable).parent / "meshwarden"), "ca", "serve", "-c", config.path]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stderr:
                if json.loads(line)["event"] == "ca_ready":
                    break
            assert "authority 2 is prepared" in _run(config, "rotate", "prepare")
            assert "authority 2 signs now" in _run(config, "rotate", "activate")
            status = json.loads(_run(config, "status", "--json"))
            assert status["serving"]
            with httpx.Client(base_url=f"http://{address}", trust_env=False) as client:
                ready = client.get("/readyz")
                metrics = client.get("/metrics").text
            assert (ready.status_code, ready.json()["state"]) == (200, "ok")
            assert 'expiry_seconds{authority="1",phase="retired",tier="root"}' in metrics
            assert 'expiry_seconds{authority="2",phase="active",tier="intermediate"}' in metrics
            assert "meshwarden_ca_bundle_sequence 2.0" in metrics
            assert "meshwarden_ca_renewals_late_total 0.0" in metrics
        finally:
            process.terminate()
            process.communicate(timeout=20)
    assert process.returncode == 0
    assert not json.loads(_run(config, "status", "--json"))["serving"]
