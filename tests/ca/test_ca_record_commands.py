"""The command lines of the records, on a state nobody serves and through a CA that runs."""

from __future__ import annotations

import asyncio
import json
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from issuing import make_csr

from audit.verify import verify_folder
from authz.commands.ca import ca_group

CART = "spiffe://cluster.local/ns/shop/sa/cart"
CONFIG = {
    "stateFolder": "state",
    "trustDomain": "cluster.local",
    "workloads": [
        {"spiffeId": CART, "socket": "cart.sock"},
        {"spiffeId": "spiffe://cluster.local/ns/shop/sa/pay", "socket": "pay.sock"},
    ],
}


@pytest.fixture
def config(tmp_path) -> Path:
    """A configuration file; YAML reads JSON."""
    path = tmp_path / "ca.yaml"
    path.write_text(json.dumps(CONFIG))
    return path


def run(config: Path, *words: str) -> Result:
    """Run `meshwarden ca WORDS` on a configuration."""
    group, rest = (words[:2], words[2:]) if words[0] == "entries" else (words[:1], words[1:])
    return CliRunner().invoke(ca_group, [*group, "-c", str(config), *rest])


def succeed(config: Path, *words: str) -> str:
    """Run a command that must succeed; return what it says."""
    done = run(config, *words)
    assert done.exit_code == 0, done.output
    return done.output


def listed(config: Path, *words: str) -> list[dict[str, object]]:
    """What `ca list --json` lists."""
    return json.loads(succeed(config, "list", "--json", *words))


def test_entries_are_added_listed_and_removed(config):
    """An entry is there until it is removed; one that makes no sense ends with exit code 2."""
    succeed(config, "init")
    words = ("--spiffe-id", CART, "--selector", "unix:uid:1000", "--entry-id", "cart")
    succeed(config, "entries", "add", *words, "--lifetime", "60", "--dns-name", "cart.shop")
    [entry] = json.loads(succeed(config, "entries", "list", "--json"))
    assert (entry["entryId"], entry["selectors"]) == ("cart", ["unix:uid:1000"])
    assert (entry["lifetimeSeconds"], entry["dnsNames"]) == (60, ["cart.shop"])
    assert "cart  " in succeed(config, "entries", "list")

    again = run(config, "entries", "add", *words)
    assert (again.exit_code, "already" in again.output) == (2, True)
    strange = run(
        config, "entries", "add", "--spiffe-id", "spiffe://x/y", "--selector", "unix:uid:1"
    )
    assert (strange.exit_code, "trust domain" in strange.output) == (2, True)

    succeed(config, "entries", "remove", "cart")
    assert json.loads(succeed(config, "entries", "list", "--json")) == []
    assert run(config, "entries", "remove", "cart").exit_code == 2


def test_sign_issue_list_and_revoke(config, tmp_path):
    """What is signed is listed by ID, serial and time; what is revoked is published both ways."""
    succeed(config, "init")
    (tmp_path / "csr.pem").write_bytes(make_csr("spiffe://cluster.local/x"))
    csr = str(tmp_path / "csr.pem")
    chain = succeed(config, "sign-csr", "--spiffe-id", "spiffe://cluster.local/x", csr)
    assert len(x509.load_pem_x509_certificates(chain.encode())) == 2
    refused = run(config, "sign-csr", "--spiffe-id", "spiffe://cluster.local/y", csr)
    assert (refused.exit_code, "the CSR names" in refused.output) == (2, True)
    too_long = ("--lifetime", "315360000", csr)
    refused = run(config, "sign-csr", "--spiffe-id", "spiffe://cluster.local/x", *too_long)
    assert (refused.exit_code, "over the limit" in refused.output) == (2, True)

    out = tmp_path / "out"
    out.mkdir()
    words = ("--spiffe-id", "spiffe://cluster.local/z", "--dns-name", "z.shop")
    succeed(config, "issue", *words, "--out", str(out))
    assert stat.S_IMODE((out / "tls.key").stat().st_mode) == 0o600
    leaf = x509.load_pem_x509_certificates((out / "tls.crt").read_bytes())[0]
    serial = f"{leaf.serial_number:040x}"

    assert [row["spiffeId"] for row in listed(config)] == [
        "spiffe://cluster.local/z",
        "spiffe://cluster.local/x",
    ]
    assert [row["serial"] for row in listed(config, "--serial", serial.upper())] == [serial]
    assert len(listed(config, "--spiffe-id", "spiffe://cluster.local/x", "--in-force")) == 1
    assert listed(config, "--until", "2020-01-01T00:00:00Z") == []
    assert run(config, "list", "--since", "yesterday").exit_code == 2
    assert run(config, "list", "--serial", "xyz").exit_code == 2

    succeed(config, "revoke", "--reason", "keyCompromise", serial)
    _check_published(tmp_path, out, leaf)
    succeed(config, "revoke", "--kind", "id", "spiffe://cluster.local/x")
    denied = run(config, "sign-csr", "--spiffe-id", "spiffe://cluster.local/x", csr)
    assert (denied.exit_code, "is denied" in denied.output) == (2, True)
    succeed(config, "revoke", "--lift", "--kind", "id", "spiffe://cluster.local/x")
    succeed(config, "sign-csr", "--spiffe-id", "spiffe://cluster.local/x", csr)
    assert run(config, "revoke", "--lift", serial).exit_code == 2
    assert run(config, "revoke", "ff").exit_code == 2
    assert verify_folder(tmp_path / "state" / "audit").intact


def _check_published(folder: Path, out: Path, leaf: x509.Certificate) -> None:
    """Hold the deny list and the CRL against the revoked certificate, openssl as judge."""
    published = folder / "state" / "published"
    document = json.loads((published / "deny-list.json").read_text())
    assert [each["value"] for each in document["denied"]] == [f"{leaf.serial_number:040x}"]
    crl = x509.load_pem_x509_crl((published / "crl.pem").read_bytes())
    assert crl.get_revoked_certificate_by_serial_number(leaf.serial_number) is not None
    if shutil.which("openssl") is None:
        return
    chain = x509.load_pem_x509_certificates((out / "tls.crt").read_bytes())
    (out / "chain.pem").write_bytes(
        b"".join(c.public_bytes(serialization.Encoding.PEM) for c in chain[1:])
    )
    command = ["openssl", "verify", "-CAfile", str(folder / "state" / "bundle.pem")]
    command += ["-untrusted", str(out / "chain.pem")]
    leaf_file = str(out / "tls.crt")
    good = subprocess.run([*command, leaf_file], capture_output=True, text=True, check=False)
    assert good.returncode == 0, good.stderr
    command += ["-crl_check", "-CRLfile", str(published / "crl.pem"), leaf_file]
    revoked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "certificate revoked" in revoked.stdout + revoked.stderr


def test_a_running_ca_is_asked_and_its_own_issuances_are_on_record(config, tmp_path, serving):
    """The same commands reach a CA that serves; what it issued over SDS is in the list."""

    async def ask() -> tuple[list[dict[str, object]], str]:
        async with serving(workloads=CONFIG["workloads"]):
            found = await asyncio.to_thread(listed, config)
            words = ("token", "--spiffe-id", "spiffe://cluster.local/new")
            return found, await asyncio.to_thread(succeed, config, *words)

    found, token = asyncio.run(ask())
    assert {row["spiffeId"] for row in found} == {row["spiffeId"] for row in CONFIG["workloads"]}
    assert {row["method"] for row in found} == {"socket"}
    assert len(token.strip()) > 40
    report = verify_folder(tmp_path / "state" / "audit")
    assert report.intact
    assert token.strip() not in "".join(
        path.read_text() for path in (tmp_path / "state" / "audit").glob("*.jsonl")
    )
