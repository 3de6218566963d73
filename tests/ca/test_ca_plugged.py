"""An existing CA plugged in: Istio's layout, Kubernetes' layout, and what cannot sign here."""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID

from ca.authority import AuthorityKeeper, AuthorityPlan
from ca.errors import CaError, PluggedCaError
from ca.issue import SvidRequest, issue_x509_svid
from ca.keys import FileKeyStore
from ca.plugged import load_plugged
from ca.rotation import Rotation
from ca.state import StateFolder
from ca.streams import OpenStreams
from ca.svid import to_pem
from identity.spiffe_id import SpiffeId, TrustDomain

DOMAIN = TrustDomain("example.org")
# Where the tests' clock starts.
START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


class Made:
    """A certificate of somebody else's making, with its key."""

    def __init__(self, name, issuer=None, *, key=None, ca=True, days=300, uri=None, length=None):
        """Make it, signed by `issuer` or by itself; as plain as Istio's samples are."""
        self.key = key or ec.generate_private_key(ec.SECP256R1())
        self.issuer = issuer or self
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer.certificate.subject if issuer else subject)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(START - timedelta(days=1))
            .not_valid_after(START + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=length), critical=True)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=True,
                    content_commitment=False,
                    key_encipherment=False,
                    data_encipherment=False,
                    key_agreement=False,
                    key_cert_sign=ca,
                    crl_sign=False,
                    encipher_only=False,
                    decipher_only=False,
                ),
                critical=True,
            )
        )
        if uri:
            names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
            builder = builder.add_extension(names, critical=False)
        signer = self.issuer.key
        is_edwards = isinstance(signer, ed25519.Ed25519PrivateKey)
        self.certificate = builder.sign(signer, None if is_edwards else hashes.SHA256())

    def key_pem(self, passphrase=None):
        """Return the key, encrypted where there is a passphrase."""
        encryption = (
            serialization.BestAvailableEncryption(passphrase)
            if passphrase
            else serialization.NoEncryption()
        )
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
        )


def _pem(*made):
    return to_pem(tuple(one.certificate for one in made))


def _write(folder, signer, chain, roots, *, kubernetes=False):
    folder.mkdir(exist_ok=True)
    files = {
        "ca-cert.pem": _pem(signer),
        "ca-key.pem": signer.key_pem(),
        "cert-chain.pem": _pem(*chain),
        "root-cert.pem": _pem(*roots),
    }
    if kubernetes:
        files = {
            "tls.crt": _pem(*chain),
            "tls.key": signer.key_pem(),
            "ca.crt": _pem(*roots),
        }
    for name, content in files.items():
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o640)
    return folder


@pytest.fixture
def keeper_on(clock, tmp_path):
    """Open a keeper whose first authority is the CA in a folder."""
    opened = []

    def _open(folder, name="s"):
        state = StateFolder(tmp_path / name)
        opened.append(state)
        plan = AuthorityPlan(
            trust_domain=DOMAIN,
            root_lifetime=timedelta(days=300),
            intermediate_lifetime=timedelta(days=90),
            plugged=lambda: load_plugged(folder, DOMAIN, clock()),
        )
        return AuthorityKeeper(state, FileKeyStore(state.keys_folder), plan, clock)

    yield _open
    for state in opened:
        state.close()


def _issue(keeper, clock):
    request = SvidRequest(
        spiffe_id=SpiffeId.parse("spiffe://example.org/a"), lifetime=timedelta(hours=1)
    )
    return issue_x509_svid(request, keeper.current(), now=clock())


@pytest.mark.parametrize("kubernetes", [False, True], ids=["istio", "kubernetes"])
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_it_signs(keeper_on, clock, tmp_path, depth, kubernetes):
    """Signed by the root itself, or through one or two intermediates, openssl takes the leaf."""
    made = [Made("root")]
    for level in range(depth):
        made.append(Made(f"level {level}", made[-1]))
    signer, root = made[-1], made[0]
    folder = _write(tmp_path / "ca", signer, made[::-1], [root], kubernetes=kubernetes)
    keeper = keeper_on(folder)
    svid = _issue(keeper, clock)
    assert keeper.roots == (root.certificate,)
    assert svid.chain[1:] == tuple(one.certificate for one in made[:0:-1])
    if shutil.which("openssl"):
        (tmp_path / "root.pem").write_bytes(_pem(root))
        (tmp_path / "leaf.pem").write_bytes(to_pem(svid.chain[:1]))
        (tmp_path / "between.pem").write_bytes(to_pem(svid.chain[1:]))
        command = ["openssl", "verify", "-attime", str(int(clock.now.timestamp()))]
        command += ["-CAfile", "root.pem"]
        command += ["-untrusted", "between.pem"] if depth else []
        done = subprocess.run(
            [*command, "leaf.pem"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def test_rotation_to_another(keeper_on, clock, tmp_path):
    """A second plugged CA goes through the slots and brings all its roots."""
    one, two, more = Made("one"), Made("two"), Made("more")
    keeper = keeper_on(_write(tmp_path / "ca1", Made("a", one), [], [one]))
    rotation = Rotation(keeper, OpenStreams(), clock, timedelta(0))
    folder = _write(tmp_path / "ca2", Made("b", two), [], [two, more])
    rotation.prepare(load_plugged(folder, DOMAIN, clock()))
    assert keeper.roots == tuple(m.certificate for m in (one, two, more))
    rotation.activate()
    assert _issue(keeper, clock).chain[1].issuer == two.certificate.subject
    rotation.retire(force=True)
    assert keeper.roots == (two.certificate, more.certificate)
    assert len(list((tmp_path / "s/keys").iterdir())) == 1


def test_a_new_intermediate_of_the_same_root_needs_no_wait(keeper_on, clock, tmp_path):
    """The offline root signed a new intermediate: everybody knows that root already."""
    root = Made("root")
    keeper = keeper_on(_write(tmp_path / "ca1", Made("a", root), [], [root]))
    rotation = Rotation(keeper, OpenStreams(), clock, timedelta(days=1))
    folder = _write(tmp_path / "ca2", Made("b", root), [], [root])
    sequence = keeper.sequence
    rotation.prepare(load_plugged(folder, DOMAIN, clock()))
    rotation.activate()
    assert keeper.sequence == sequence
    assert _issue(keeper, clock).chain[1].subject.rfc4514_string() == "CN=b"


def test_age_does_not_replace_it(keeper_on, clock, tmp_path):
    """Near its end a plugged CA is neither renewed nor replaced by one of our own."""
    root = Made("root")
    keeper = keeper_on(_write(tmp_path / "ca", Made("a", root, days=90), [], [root]))
    before = keeper.current().intermediate
    clock.now += timedelta(days=89)
    Rotation(keeper, OpenStreams(), clock, timedelta(0)).advance()
    assert keeper.current().intermediate == before
    assert len(keeper.slots) == 1


def _cases():
    root = Made("root")
    edwards = ed25519.Ed25519PrivateKey.generate()
    yield "no CA", Made("a", root, ca=False), [], [root], "is not a CA's"
    yield "path length", Made("a", Made("m", root, length=0)), [], [root], "does not lead"
    middle = Made("m", root, length=0)
    yield "too deep", Made("a", middle), [middle], [root], "path length 0 is exceeded"
    yield "gap", Made("a", Made("m", root)), [], [root], "does not lead to a root"
    yield "other root", Made("a", root), [], [Made("root")], "does not lead to a root"
    yield "expired", Made("a", root, days=0), [], [root], "is not in its validity"
    foreign = Made("a", root, uri="spiffe://other.org")
    yield "other trust domain", foreign, [], [root], "does not name `spiffe://example.org`"
    yield "Ed25519", Made("a", root, key=edwards), [], [root], "refused by Envoy and gRPC"
    anchor = Made("m", root)
    yield "anchor below a root", Made("a", anchor), [], [anchor], "is not self-signed"


@pytest.mark.parametrize(
    ("signer", "chain", "roots", "words"), [pytest.param(*c[1:], id=c[0]) for c in _cases()]
)
def test_what_cannot_sign_here(clock, tmp_path, signer, chain, roots, words):
    """A CA whose leaves a peer would refuse is refused when it is plugged in."""
    clock.now += timedelta(hours=1)
    with pytest.raises(CaError, match=words):
        load_plugged(_write(tmp_path / "ca", signer, chain, roots), DOMAIN, clock())


def test_files_that_cannot_be_used(clock, tmp_path):
    """A missing file, another's key, nonsense, and a key that everybody may read are named."""
    root = Made("root")

    def refused(words):
        with pytest.raises(CaError, match=words):
            load_plugged(folder, DOMAIN, clock())

    folder = _write(tmp_path / "ca", root, [], [root])
    (folder / "ca-key.pem").write_bytes(Made("b").key_pem())
    refused("is not the key of `ca-cert.pem`")
    (folder / "ca-key.pem").write_bytes(root.key_pem(b"p" * 30))
    refused("is encrypted and no passphrase")
    load_plugged(folder, DOMAIN, clock(), b"p" * 30)
    (folder / "ca-key.pem").chmod(0o644)
    refused("has mode 0644, open to all users")
    (folder / "ca-key.pem").unlink()
    refused("`.*ca-key.pem` is missing")
    (folder / "root-cert.pem").write_text("no")
    refused("does not hold PEM certificates")
    with pytest.raises(PluggedCaError, match="tls.crt` is missing"):
        load_plugged(tmp_path / "empty", DOMAIN, clock())
