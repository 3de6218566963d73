"""The certificates of the trial: one authority, one server, and clients of every shape.

Not our own CA's work: it refuses, rightly, half of the shapes that are needed here.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.differential.model import NO_CERTIFICATE, PLAINTEXT


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a client's certificate says of itself."""

    uris: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    subject: str = ""
    emails: tuple[str, ...] = ()


def _spiffe(path: str) -> Shape:
    return Shape(uris=(f"spiffe://{path}",))


CLIENTS: dict[str, Shape] = {
    "sleep": _spiffe("cluster.local/ns/foo/sa/sleep"),
    "httpbin": _spiffe("cluster.local/ns/foo/sa/httpbin"),
    "bar-sleep": _spiffe("cluster.local/ns/bar/sa/sleep"),
    "td1-sleep": _spiffe("td1/ns/foo/sa/sleep"),
    "td1-bar": _spiffe("td1/ns/bar/sa/web"),
    "td2-sleep": _spiffe("td2.example/ns/foo/sa/sleep"),
    "old-td": _spiffe("old-td/ns/foo-ns/sa/sleep"),
    "ns-ns": _spiffe("td1/ns/ns/sa/sleep"),
    "ns-sa": _spiffe("td1/ns/sa/sa/sa"),
    "deep": _spiffe("td1/region/eu/ns/foo/team/x/sa/sleep/extra"),
    "no-sa": _spiffe("td1/ns/foo"),
    "short": _spiffe("td1/web"),
    "root-td": _spiffe("td1"),
    "dotted": _spiffe("td1.example/ns/fooXbar/sa/a.b"),
    "dot-ns": _spiffe("td1.example/ns/foo.bar/sa/aXb"),
    "upper": _spiffe("TD1/ns/FOO/sa/Sleep"),
    "http-uri": Shape(uris=("https://td1/ns/foo/sa/sleep",)),
    "dns-only": Shape(dns=("sleep.foo.svc.cluster.local", "other.example")),
    "uri-dns": Shape(uris=("spiffe://td1/ns/foo/sa/sleep",), dns=("sleep.foo.svc",)),
    "two-uris": Shape(uris=("spiffe://td1/ns/bar/sa/web", "spiffe://td1/ns/foo/sa/sleep")),
    "subject-only": Shape(subject="spiffe://td1/ns/foo/sa/sleep"),
    "dns-subject": Shape(dns=("x.example",), subject="spiffe://td1/ns/bar/sa/web"),
    "email-only": Shape(emails=("sleep@foo.example",)),
    "email-subject": Shape(emails=("a@foo.example",), subject="spiffe://td1/ns/foo/sa/sleep"),
    "comma": _spiffe('td1/ns/foo,bar/sa/a"b'),
    "two-lines": _spiffe("td1/ns/foo/sa/two\nlines"),
    "star": _spiffe("td1/ns/*/sa/sleep"),
    "escaped": _spiffe("td1/ns/fo%6f/sa/sleep"),
    "trailing": _spiffe("td1/ns/foo/sa/sleep/"),
    "upper-scheme": Shape(uris=("SPIFFE://td1/ns/foo/sa/sleep",)),
    "spiffe-dns": Shape(dns=("spiffe://td1/ns/foo/sa/sleep",)),
    "nameless": Shape(),
}
PEERS: tuple[str, ...] = (PLAINTEXT, NO_CERTIFICATE, *CLIENTS)

_YEAR = dt.timedelta(days=365)


class Identities:
    """The files of every certificate, and the client's TLS contexts."""

    def __init__(self, folder: Path) -> None:
        """Issue everything into `folder`."""
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "differential root")])
        self._root = self._sign(name, name, self._key, ca=True, shape=Shape())
        self.root_pem = _pem(self._root)
        (folder / "root.pem").write_text(self.root_pem)
        server = Shape(uris=("spiffe://cluster.local/ns/foo/sa/default",), dns=("server.example",))
        self.server_chain, self.server_key = self._issue("server", server)
        self._contexts = {name: self._context(name) for name in (*CLIENTS, NO_CERTIFICATE)}

    def context(self, peer: str) -> ssl.SSLContext:
        """Return the TLS context of a client."""
        return self._contexts[peer]

    def _context(self, peer: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(self._folder / "root.pem")
        if peer in CLIENTS:
            chain, key = self._issue(peer, CLIENTS[peer])
            path = self._folder / f"{peer}.pem"
            path.write_text(chain + key)
            context.load_cert_chain(path)
        return context

    def _issue(self, name: str, shape: Shape) -> tuple[str, str]:
        """Return certificate and key as PEM texts."""
        key = ec.generate_private_key(ec.SECP256R1())
        common = shape.subject or ""
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)] if common else [])
        leaf = self._sign(subject, self._root.subject, key, ca=False, shape=shape)
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return _pem(leaf), private.decode()

    def _sign(
        self,
        subject: x509.Name,
        issuer: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        *,
        ca: bool,
        shape: Shape,
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _YEAR)
            .not_valid_after(now + _YEAR)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(u) for u in shape.uris]
        names += [x509.DNSName(name) for name in shape.dns]
        names += [x509.RFC822Name(name) for name in shape.emails]
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256())


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def is_ipv6(address: str) -> bool:
    """Whether an address text is of IPv6."""
    return ipaddress.ip_address(address).version == 6
