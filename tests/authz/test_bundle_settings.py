"""Trust bundles in the configuration: read with their files, or refused with their line."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from authz.bundle_parts import build_bundle_watch, shown_bundle, watch_bundles
from authz.config_file import load_settings
from authz.metrics import Metrics
from identity.bundle_watch import WatchTimes
from identity.spiffe_id import TrustDomain
from identity.svid_fault import SvidFault
from identity.trust_bundle import BundleError
from policies.diagnostic import LoadError

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "identity-svids.md").read_text("utf-8")
CASES = yaml.safe_load(Path(__file__).with_name("bundle_settings.yaml").read_text("utf-8"))


def root_pem(name: str) -> bytes:
    """A self-signed authority of that name."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject)
    builder = builder.public_key(key.public_key()).serial_number(1)
    builder = builder.not_valid_before(now).not_valid_after(now + timedelta(days=1))
    builder = builder.add_extension(x509.BasicConstraints(True, None), critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["note"].replace(" ", "-"))
def test_settings(case: dict[str, Any], tmp_path: Path) -> None:
    """A section is read, or each of its faults is told with file and line."""
    path = tmp_path / "meshwarden.yaml"
    path.write_text(case["yaml"])
    if "want" not in case:
        load_settings(path)
        return
    with pytest.raises(LoadError) as caught:
        load_settings(path)
    found = [str(each) for each in caught.value.diagnostics]
    assert len(case["want"]) == len(found)
    assert all(str(path) in text for text in found)
    assert all(any(piece in text for text in found) for piece in case["want"]), found


def test_bundles_are_there_before_anything_serves(tmp_path: Path) -> None:
    """Files and first bundles count from the configuration's folder and are read at once."""
    path = tmp_path / "meshwarden.yaml"
    path.write_text(CASES[1]["yaml"] + "      # nothing is fetched here\n")
    (tmp_path / "roots.pem").write_bytes(root_pem("own"))
    identity = load_settings(path).identity

    watch = build_bundle_watch(identity)

    own = watch.current().bundle_for(TrustDomain("own.example"))
    assert own is not None
    assert len(own.x509_authorities) == 1
    assert watch.current().bundle_for(TrustDomain("web.example")) is None
    assert watch.current().bundle_for(TrustDomain("other.example")) is None
    assert [each.source for each in watch.status()] == [
        "https://web.example/bundle",
        "https://own.example/bundle",
        "https://own.example/other",
    ]


def test_intermediates_help_and_are_no_authorities(tmp_path: Path) -> None:
    """A file of intermediates stands beside the bundle, not in it."""
    path = tmp_path / "meshwarden.yaml"
    path.write_text(CASES[0]["yaml"])
    (tmp_path / "roots.pem").write_bytes(root_pem("root"))
    (tmp_path / "between.pem").write_bytes(root_pem("between"))

    found = build_bundle_watch(load_settings(path).identity).current()

    bundle = found.bundle_for(TrustDomain("example.org"))
    assert bundle is not None
    assert (len(bundle.x509_authorities), len(bundle.intermediates)) == (1, 1)
    assert bundle.x509_authorities != bundle.intermediates


def test_the_pages_example_loads(tmp_path: Path) -> None:
    """What docs/identity-svids.md shows is a configuration."""
    [example] = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / "meshwarden.yaml").write_text(example)

    bundles = load_settings(tmp_path / "meshwarden.yaml").identity.trust_bundles

    assert [each.trust_domain for each in bundles] == ["cluster.local", "partner.example"]


def test_the_page_explains_every_fault() -> None:
    """Whoever reads a code in the record finds it in docs/identity-svids.md, and nothing older."""
    rows = re.findall(r"^\| (`[^|]+) \|", PAGE, flags=re.MULTILINE)
    codes = [code for row in rows for code in re.findall(r"`(\w+)`", row)]

    assert sorted(SvidFault) == sorted(codes)


def test_what_operators_see(tmp_path: Path) -> None:
    """`/readyz` and `/metrics` tell of every trust domain whether its peers can be believed."""
    path = tmp_path / "meshwarden.yaml"
    path.write_text(CASES[1]["yaml"])
    (tmp_path / "roots.pem").write_bytes(root_pem("own"))
    watch, metrics = build_bundle_watch(load_settings(path).identity), Metrics()

    watch_bundles(metrics, watch)

    shown = [shown_bundle(each) for each in watch.status()]
    assert [(each["trust_domain"], each["ready"]) for each in shown] == [
        ("web.example", False),
        ("own.example", True),
        ("other.example", False),
    ]
    assert b"\nmeshwarden_trust_bundles_missing 2.0\n" in metrics.text()
    assert b"\nmeshwarden_trust_bundles_failing 0.0\n" in metrics.text()


@pytest.mark.parametrize("number", [0, 1])
def test_a_file_that_is_not_there(tmp_path: Path, number: int) -> None:
    """A bundle that cannot be read ends the start, with the path in the message."""
    path = tmp_path / "meshwarden.yaml"
    path.write_text(CASES[number]["yaml"])

    with pytest.raises(BundleError, match=r"roots\.pem. cannot be read"):
        build_bundle_watch(load_settings(path).identity)


def test_the_defaults_are_those_of_the_watch(tmp_path: Path) -> None:
    """What the documentation calls a default is what `identity` does by itself."""
    path = tmp_path / "meshwarden.yaml"
    path.write_text("{}")

    assert WatchTimes() == load_settings(path).identity.bundle_refresh.to_watch_times()
