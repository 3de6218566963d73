"""Revocation lists of every authority of a path, with openssl as the judge."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import grpc
import pytest
from cryptography import x509
from delivering import served
from issuing import make_csr
from spiffe._proto import workload_pb2
from spiffe._proto.workload_pb2_grpc import SpiffeWorkloadAPIStub

from ca.books import open_books
from ca.caller import Caller, Method
from ca.crl import list_issuers
from ca.errors import IssueRefusedError
from ca.keys import FileKeyStore
from ca.ledger import LedgerFilter, format_serial
from ca.revocations import DeniedKind
from ca.settings import CaSettings
from ca.state import Phase
from ca.svid import X509Svid, to_pem
from identity.spiffe_id import SpiffeId

CART = SpiffeId.parse("spiffe://example.org/ns/shop/sa/cart")
MINE = f"unix:uid:{os.getuid()}"
HEADER = (("workload.spiffe.io", "true"),)
DAY = timedelta(days=1)


@dataclass
class Open:
    """A state with its books, and where its lists are published."""

    folder: object
    keeper: object
    books: object

    def issue(self) -> X509Svid:
        """Issue a certificate to cart."""
        return self.books.issuance.issue(CART, Caller(method=Method.OPERATOR, granted=CART))

    def lists(self) -> list[x509.CertificateRevocationList]:
        """The published lists, in their order."""
        text = (self.folder / "s/published/crl.pem").read_bytes()
        end = b"-----END X509 CRL-----\n"
        return [x509.load_pem_x509_crl(each + end) for each in text.split(end)[:-1]]

    def root_key(self):
        """The file of the root's key."""
        return next((self.folder / "s/keys").glob("root-*"))


@pytest.fixture
def opened(keeper_of, tmp_path, clock):
    """Open a state anew: `with opened() as ca`."""

    @contextmanager
    def _opened():
        workload = {"spiffeId": str(CART), "socket": "cart.sock"}
        settings = CaSettings.model_validate(
            {"stateFolder": "s", "trustDomain": "example.org", "workloads": [workload]}
        ).resolved(tmp_path)
        with keeper_of(tmp_path / "s") as keeper, open_books(settings, keeper, clock) as books:
            yield Open(tmp_path, keeper, books)

    return _opened


def _verdict(ca: Open, svid: X509Svid, clock) -> str:
    """What openssl says of a chain when every list of its path is asked."""
    for name, content in (
        ("roots", to_pem(ca.keeper.roots)),
        ("chain", to_pem(svid.chain[1:])),
        ("leaf", to_pem(svid.chain[:1])),
    ):
        (ca.folder / f"{name}.pem").write_bytes(content)
    command = ["openssl", "verify", "-x509_strict", "-crl_check_all", "-CRLfile"]
    command += ["s/published/crl.pem", "-attime", f"{clock().timestamp():.0f}"]
    command += ["-CAfile", "roots.pem", "-untrusted", "chain.pem", "leaf.pem"]
    done = subprocess.run(command, cwd=ca.folder, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_a_verifier_that_asks_for_every_list(opened, clock):
    """A leaf holds, a revoked leaf does not, nor does any leaf of a revoked intermediate."""
    with opened() as ca:
        ca.books.publish()
        good, bad = ca.issue(), ca.issue()
        assert "leaf.pem: OK" in _verdict(ca, good, clock)
        ca.books.desk.revoke(DeniedKind.SERIAL, format_serial(bad.leaf.serial_number))
        assert "certificate revoked" in _verdict(ca, bad, clock)
        assert "leaf.pem: OK" in _verdict(ca, good, clock)
        ca.keeper.prepare()
        ca.keeper.activate()
        ca.books.record_intermediates()
        ca.books.publish()
        new = ca.issue()
        assert "leaf.pem: OK" in _verdict(ca, good, clock)
        assert "leaf.pem: OK" in _verdict(ca, new, clock)
        # The list of the authority that signs no more names what it signed still.
        assert "certificate revoked" in _verdict(ca, bad, clock)
        old = good.chain[1]
        ca.books.desk.revoke(DeniedKind.SERIAL, format_serial(old.serial_number))
        assert "certificate revoked" in _verdict(ca, good, clock)
        assert "leaf.pem: OK" in _verdict(ca, new, clock)


def _numbers(ca: Open) -> list[int]:
    """The numbers of the published lists."""
    kind = x509.CRLNumber
    return [each.extensions.get_extension_for_class(kind).value.crl_number for each in ca.lists()]


def test_the_lists_of_an_older_ledger_have_greater_numbers(opened, tmp_path):
    """An older ledger numbers the next list of an issuer after its last; a strange file is none."""
    with opened() as ca:
        ca.books.publish()
    copy = (tmp_path / "s/ledger.db").read_bytes()
    with opened() as ca:
        for _ in range(5):
            ca.books.publish()
        last = _numbers(ca)
    for path in (tmp_path / "s").glob("ledger.db*"):
        path.unlink()
    (tmp_path / "s/ledger.db").write_bytes(copy)
    with opened() as ca:
        for content in (None, b"-----BEGIN X509 CRL-----\nA\n"):
            if content is not None:
                (tmp_path / "s/published/crl.pem").write_bytes(content)
            ca.books.publish()
            numbers = _numbers(ca)
            assert all(new > old for new, old in zip(numbers, last, strict=True))
            last = numbers


def test_intermediates_are_on_record_once(opened):
    """Each intermediate of our roots has a row and a line, a start later no second one."""
    for _ in range(2):
        with opened() as ca:
            found = ca.books.desk.find(LedgerFilter(kinds=("authority",)))
            serials = [format_serial(slot.intermediate.serial_number) for slot in ca.keeper.slots]
            assert [row.serial for row in found] == serials
            assert found[0].spiffe_id == "spiffe://example.org"
    lines = "".join(path.read_text() for path in (ca.folder / "s/audit").glob("*.jsonl"))
    assert lines.count('"step":"intermediate"') == 1


def test_what_signs_now_is_not_revoked(opened):
    """The serials and keys of the active authority are refused, with what to do instead."""
    with opened() as ca:
        authority = ca.keeper.current()
        [row] = ca.books.desk.find(LedgerFilter(kinds=("authority",)))
        for kind, value in (
            (DeniedKind.SERIAL, row.serial),
            (DeniedKind.SERIAL, format_serial(authority.root.serial_number)),
            (DeniedKind.KEY, row.spki_sha256),
        ):
            with pytest.raises(IssueRefusedError, match="signs now") as caught:
                ca.books.desk.revoke(kind, value)
            assert "rotate first" in caught.value.help
        ca.books.desk.revoke(DeniedKind.SPIFFE_ID, "spiffe://example.org")
        assert [list(each) for each in ca.lists()] == [[], []]


def test_an_offline_roots_list_stays_until_its_end(opened, clock):
    """With the root's key away its last list is published on, as long as it is good."""
    with opened() as ca:
        ca.books.publish()
        leaves, roots = ca.lists()
        assert roots.issuer == ca.keeper.current().root.subject
        intermediate = ca.keeper.current().intermediate
        assert roots.next_update_utc == intermediate.not_valid_after_utc
        ca.root_key().rename(ca.folder / "offline.pem")
    clock.now += DAY
    with opened() as ca:
        ca.books.publish()
        again, kept = ca.lists()
        assert kept == roots
        assert again.next_update_utc == leaves.next_update_utc + DAY
        numbers = [
            each.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
            for each in (leaves, roots, again)
        ]
        assert numbers == sorted(set(numbers))
        assert ca.books.publish_error == ""
        (ca.folder / "s/published/crl.pem").write_bytes(b"nonsense")
        ca.books.publish()
        assert len(ca.lists()) == 1


def test_lists_of_whom_nobody_would_take_one(opened, keeper_of, tmp_path, clock, monkeypatch):
    """An authority without the usage cRLSign gives out no list, a plugged-in one's root neither."""
    with opened() as ca:
        keys = FileKeyStore(tmp_path / "s/keys")
        slot = ca.keeper.in_phase(Phase.ACTIVE)
        assert len(list_issuers((slot,), keys, clock())) == 2
        usage = slot.intermediate.extensions.get_extension_for_class(x509.KeyUsage).value
        monkeypatch.setattr(type(usage), "crl_sign", False)
        assert list_issuers((slot,), keys, clock()) == ()


def test_streams_carry_the_lists(tmp_path):
    """A client of the Workload API gets the lists with its SVID, and a new one at a revocation."""
    with served(tmp_path) as command:
        command("entries", "add", "--spiffe-id", str(CART), "--selector", MINE)
        (tmp_path / "x.csr").write_bytes(make_csr())
        with grpc.insecure_channel(f"unix://{tmp_path / 'run/api.sock'}") as channel:
            stub = SpiffeWorkloadAPIStub(channel)
            svids = stub.FetchX509SVID(workload_pb2.X509SVIDRequest(), metadata=HEADER)
            bundles = stub.FetchX509Bundles(workload_pb2.X509BundlesRequest(), metadata=HEADER)
            first = next(svids)
            assert list(next(bundles).crl) == list(first.crl)
            roots = x509.load_der_x509_certificate(first.svids[0].bundle)
            issuers = [x509.load_der_x509_crl(each).issuer for each in first.crl]
            assert issuers[1] == roots.subject
            words = ("sign-csr", "--spiffe-id", "spiffe://example.org/x", str(tmp_path / "x.csr"))
            command(*words)
            listed = json.loads(command("list", "--json", "--spiffe-id", "spiffe://example.org/x"))
            command("revoke", listed[0]["serial"])
            for stream in (svids, bundles):
                crl = x509.load_der_x509_crl(next(stream).crl[0])
                assert format_serial(crl[0].serial_number) == listed[0]["serial"]
            svids.cancel()
            bundles.cancel()
