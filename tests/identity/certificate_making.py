"""Certificates made by recipe, good and bad, for the tests of X.509-SVIDs.

A recipe is a mapping of the keys of `Recipe`; a `Mint` makes the named authorities of a
table once, and leaves on demand. What a builder refuses to build is patched into the bytes
and signed anew, so that the one fault of a certificate is not also a wrong signature.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = datetime(2026, 7, 1, 12, 0, 0, tzinfo=UTC)
DAY = timedelta(days=1)
_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)
_EXTENDED = {
    "server": ExtendedKeyUsageOID.SERVER_AUTH,
    "client": ExtendedKeyUsageOID.CLIENT_AUTH,
    "any": ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
    "code": ExtendedKeyUsageOID.CODE_SIGNING,
}
_HASHES = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a certificate holds; times are days from `NOW`, extensions absent where None."""

    subject: str = ""
    issuer_name: str | None = None
    key: str = "p256"
    hash: str | None = "sha256"
    uris: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    san_critical: bool | None = None
    ca: bool | None = False
    path_length: int | None = None
    usage: tuple[str, ...] | None = ("digital_signature",)
    usage_critical: bool = True
    extended: tuple[str, ...] | None = ("server", "client")
    serial: int | None = None
    begins: float = -1
    ends: float = 1
    permitted: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    identifiers: bool = True
    extra: tuple[Mapping[str, Any], ...] = ()
    patch: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, row: Mapping[str, Any], base: Recipe | None = None) -> Recipe:
        """Return the recipe of a YAML row, over a base."""
        tuples = {
            key: tuple(value) if isinstance(value, list) else value for key, value in row.items()
        }
        if "patch" in tuples:
            tuples["patch"] = tuple(tuple(pair) for pair in tuples["patch"])
        return replace(base or cls(), **tuples)


LEAF = Recipe(uris=("spiffe://example.org/ns/shop/sa/cart",))
AUTHORITY = Recipe(ca=True, usage=("key_cert_sign", "crl_sign"), extended=None, begins=-30, ends=30)


@dataclass(frozen=True)
class Made:
    """A certificate's bytes with its key."""

    der: bytes
    key: Any

    @property
    def certificate(self) -> x509.Certificate:
        """The certificate, where its bytes are one."""
        return x509.load_der_x509_certificate(self.der)

    @property
    def pem(self) -> bytes:
        """The certificate as PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The private key as PEM."""
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )


_KEYS: Mapping[str, Callable[[], Any]] = {
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "p192": lambda: ec.generate_private_key(ec.SECP192R1()),
    "secp256k1": lambda: ec.generate_private_key(ec.SECP256K1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "ed448": ed448.Ed448PrivateKey.generate,
    "dsa": lambda: dsa.generate_private_key(1024),
    "rsa1024": lambda: rsa.generate_private_key(65537, 1024),
    "rsa2048": lambda: rsa.generate_private_key(65537, 2048),
}


def public_of(key: Any) -> Any:
    """Return the public half; `rsa16384` has no other."""
    if key is None:
        return rsa.RSAPublicNumbers(65537, (1 << 16383) + 1).public_key()
    return key.public_key()


def make(
    recipe: Recipe, issuer: Made | None = None, *, key: Any = None, signed_by: Any = None
) -> Made:
    """Return a certificate by recipe, signed by its issuer, or by itself without one."""
    if key is None and recipe.key != "rsa16384":
        key = _KEYS[recipe.key]()
    signer = signed_by or (issuer.key if issuer else key)
    issuer_name = issuer.certificate.subject if issuer else _name(recipe.subject)
    if recipe.issuer_name is not None:
        issuer_name = _name(recipe.issuer_name)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(recipe.subject))
        .issuer_name(issuer_name)
        .public_key(public_of(key))
        .serial_number(recipe.serial or x509.random_serial_number())
        .not_valid_before(NOW + recipe.begins * DAY)
        .not_valid_after(NOW + recipe.ends * DAY)
    )
    for extension, critical in _extensions(recipe, public_of(key), issuer):
        builder = builder.add_extension(extension, critical=critical)
    algorithm = _HASHES.get(recipe.hash or "", hashes.SHA256())
    has_hash = not isinstance(signer, (ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey))
    certificate = builder.sign(signer, algorithm if has_hash else None)
    changes = tuple((bytes.fromhex(old), bytes.fromhex(new)) for old, new in recipe.patch)
    return Made(_signed_anew(certificate, changes, signer, recipe.hash), key)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)] if text else [])


def _extensions(recipe: Recipe, public: Any, issuer: Made | None) -> Any:
    """Yield each extension with its criticality."""
    names: list[x509.GeneralName] = [
        x509.UniformResourceIdentifier._init_without_validation(uri) for uri in recipe.uris
    ]
    names += [x509.DNSName._init_without_validation(name) for name in recipe.dns]
    if names:
        critical = not recipe.subject if recipe.san_critical is None else recipe.san_critical
        yield x509.SubjectAlternativeName(names), critical
    if recipe.ca is not None:
        yield x509.BasicConstraints(ca=recipe.ca, path_length=recipe.path_length), True
    if recipe.usage is not None:
        bits = {name: name in recipe.usage for name in _USAGES}
        yield x509.KeyUsage(**bits), recipe.usage_critical
    if recipe.extended is not None:
        yield x509.ExtendedKeyUsage([_EXTENDED[name] for name in recipe.extended]), False
    if recipe.permitted or recipe.excluded:
        yield x509.NameConstraints(_subtrees(recipe.permitted), _subtrees(recipe.excluded)), True
    if recipe.identifiers:
        yield x509.SubjectKeyIdentifier.from_public_key(public), False
        above = public_of(issuer.key) if issuer else public
        yield x509.AuthorityKeyIdentifier.from_issuer_public_key(above), False
    for each in recipe.extra:
        value = bytes(each["fill"]) if "fill" in each else bytes.fromhex(each["value"])
        oid = x509.ObjectIdentifier(each["oid"])
        yield x509.UnrecognizedExtension(oid, value), each.get("critical", False)


def _subtrees(texts: tuple[str, ...]) -> list[x509.GeneralName] | None:
    """Return name constraints written `uri:host` or `dns:name`."""
    kinds = {"uri": x509.UniformResourceIdentifier, "dns": x509.DNSName}
    split = [text.partition(":") for text in texts]
    return [kinds[kind](value) for kind, _, value in split] or None


_RSA_WITH = {"sha1": (b"\x05", hashes.SHA1()), "md5": (b"\x04", hashes.MD5())}
_RSA_SHA256 = bytes.fromhex("2a864886f70d01010b")


def _signed_anew(
    certificate: x509.Certificate,
    changes: tuple[tuple[bytes, bytes], ...],
    signer: Any,
    hash_name: str | None,
) -> bytes:
    """Return the certificate with bytes of it exchanged (of one length), validly signed."""
    der = certificate.public_bytes(serialization.Encoding.DER)
    tbs = certificate.tbs_certificate_bytes
    algorithm: Any = certificate.signature_hash_algorithm
    end = len(der) - len(_tagged(3, b"\0" + certificate.signature))
    identifier = der[der.index(tbs) + len(tbs) : end]
    if hash_name in _RSA_WITH:
        last, algorithm = _RSA_WITH[hash_name]
        changes = (*changes, (_RSA_SHA256, _RSA_SHA256[:-1] + last))
        identifier = identifier.replace(_RSA_SHA256, _RSA_SHA256[:-1] + last)
    elif not changes:
        return der
    for old, new in changes:
        assert len(old) == len(new), "a patch keeps the length"
        assert old in tbs, f"{old.hex()} is not in the certificate"
        tbs = tbs.replace(old, new)
    if isinstance(signer, rsa.RSAPrivateKey):
        signature = signer.sign(tbs, padding.PKCS1v15(), algorithm)
    else:
        signature = signer.sign(tbs, ec.ECDSA(algorithm))
    return _tagged(0x30, tbs + identifier + _tagged(3, b"\0" + signature))


def _tagged(tag: int, content: bytes) -> bytes:
    """Return a DER value."""
    size = len(content)
    if size < 128:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


@dataclass
class Mint:
    """Makes the authorities of a table by name, each once."""

    table: Mapping[str, Mapping[str, Any]]
    made: dict[str, Made] = field(default_factory=dict)

    def authority(self, name: str) -> Made:
        """Return the authority of that name."""
        if name not in self.made:
            row = dict(self.table[name])
            issuer, twin = row.pop("issuer", None), row.pop("key_of", None)
            recipe = Recipe.of({"subject": name, **row}, AUTHORITY)
            self.made[name] = make(
                recipe,
                self.authority(issuer) if issuer else None,
                key=self.authority(twin).key if twin else None,
            )
        return self.made[name]

    def leaf(self, row: Mapping[str, Any], issuer: str) -> Made:
        """Return a leaf over the good one."""
        fields = dict(row)
        twin = fields.pop("key_of", None)
        forged_by = fields.pop("forged_by", None)
        return make(
            Recipe.of(fields, LEAF),
            self.authority(issuer),
            key=self.authority(twin).key if twin else None,
            signed_by=self.authority(forged_by).key if forged_by else None,
        )
