"""From a leaf to an authority of one bundle: RFC 5280 path validation without a host name.

Theory of operation. `cryptography.x509.verification` builds and checks the path: order,
signatures, times, cA and path length, name constraints on DNS, IP and mail names, unknown
critical extensions, an allow-list of signature algorithms, and budgets against chains made
to cost. It fits with these additions, each because measured:
- its default leaf policy is the web's (AKI demanded, EKU of one kind, never critical), so
  the leaf has a policy of its own here and SPIFFE's rules are checked before;
- it does not look at the leaf's key, at the size of an RSA key beyond the least, at serial
  number zero, nor at policy constraints, so these are checked here;
- it knows neither URI nor directory name constraints and refuses chains that have them:
  such a chain is refused here too, by name (X509-SVID §4.2 lets it);
- it counts self-issued certificates against the path length: stricter than the RFC.
There is no revocation: a trust bundle has no room for it (X509-SVID §6).

Spec: X509-SVID §5.1; RFC 5280 §6.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtensionOID
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from identity.certificate_reading import ReadCertificate, read_parts
from identity.errors import CertificateError
from identity.svid_fault import SvidFault, SvidRefusal

# RFC 7518 §3.3 and SP 800-57 agree on the least; the most bounds what one check may cost.
MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 8192
# BUDGET: trust domains have one to three tiers of authorities.
MAX_INTERMEDIATES: Final = 8
_CURVES: Final = ("secp256r1", "secp384r1", "secp521r1")
_LONGEST_DETAIL: Final = 200
_POLICY_EXTENSIONS: Final = (ExtensionOID.POLICY_CONSTRAINTS, ExtensionOID.INHIBIT_ANY_POLICY)

# An authority with an extended key usage must have clientAuth in it, as Go and BoringSSL hold.
_AUTHORITY_POLICY: Final = ExtensionPolicy.webpki_defaults_ca()
# RFC 5280 §4.2.1.1, .2 and §4.2.2.1: these are never critical; §4.2.1.10: name constraints
# "MUST be used only in a CA certificate". What is SPIFFE's own stands in `x509_svid`.
_LEAF_POLICY: Final = (
    ExtensionPolicy.permit_all()
    .may_be_present(x509.AuthorityInformationAccess, Criticality.NON_CRITICAL, None)
    .may_be_present(x509.AuthorityKeyIdentifier, Criticality.NON_CRITICAL, None)
    .may_be_present(x509.SubjectKeyIdentifier, Criticality.NON_CRITICAL, None)
    .require_not_present(x509.NameConstraints)
)
# The verifier tells its reasons in prose; these pieces of it have a code of their own.
_REASONS: Final = (
    ("not valid at validation time", SvidFault.SIGNING_CERTIFICATE),
    ("ame constraint", SvidFault.NAME_CONSTRAINT),
    ("nameConstraints", SvidFault.NAME_CONSTRAINT),
    ("algorithm", SvidFault.ALGORITHM),
    ("critical extensions", SvidFault.CRITICAL_EXTENSION),
    ("incorrect criticality", SvidFault.CRITICAL_EXTENSION),
    ("keyCertSign", SvidFault.SIGNING_CERTIFICATE),
    ("2.5.29.15", SvidFault.SIGNING_CERTIFICATE),
    ("2.5.29.19", SvidFault.SIGNING_CERTIFICATE),
    ("basicConstraints", SvidFault.SIGNING_CERTIFICATE),
    ("path length", SvidFault.SIGNING_CERTIFICATE),
    ("EKU", SvidFault.SIGNING_CERTIFICATE),
    ("too weak", SvidFault.ALGORITHM),
)


@dataclass(frozen=True, slots=True)
class VerifiedPath:
    """The certificates from the leaf to the authority that vouches for it, leaf first."""

    certificates: tuple[ReadCertificate, ...]

    @property
    def authorities(self) -> tuple[ReadCertificate, ...]:
        """The signing certificates, the bundle's own last."""
        return self.certificates[1:]


def verify_path(
    leaf: ReadCertificate,
    intermediates: Sequence[ReadCertificate],
    store: Store,
    at: datetime,
    *,
    max_intermediates: int = MAX_INTERMEDIATES,
) -> VerifiedPath | SvidRefusal:
    """Return the path from `leaf` to a certificate of `store` that holds at `at`, or why none.

    An intermediate with a key that is not accepted is left out, as if it were not there.
    """
    usable = [each.certificate for each in intermediates if key_fault(each) is None]
    verifier = (
        PolicyBuilder()
        .store(store)
        .time(at)
        .max_chain_depth(max_intermediates)
        .extension_policies(ca_policy=_AUTHORITY_POLICY, ee_policy=_LEAF_POLICY)
        .build_client_verifier()
    )
    try:
        found = verifier.verify(leaf.certificate, usable).chain
        path = VerifiedPath(tuple(read_parts(each) for each in found))
    except VerificationError as exc:
        return _refusal_of(str(exc))
    except (CertificateError, ValueError, x509.DuplicateExtension) as exc:
        return SvidRefusal(SvidFault.MALFORMED, _one_clause(str(exc)))
    return _first_fault(path) or path


def key_fault(certificate: ReadCertificate) -> str | None:
    """Return what is wrong with the public key, or None: RSA of 2048 to 8192 bits, P-256 to -521.

    WHY no Ed25519: neither Envoy nor gRPC takes such a peer (measured), nor does the verifier.
    """
    match certificate.public_key:
        case rsa.RSAPublicKey(key_size=bits):
            if MIN_RSA_BITS <= bits <= MAX_RSA_BITS:
                return None
            return f"an RSA key of {bits} bits is not accepted"
        case ec.EllipticCurvePublicKey(curve=curve):
            return None if curve.name in _CURVES else f"the curve {curve.name} is not accepted"
        case other:
            kind = type(other).__name__.removesuffix("PublicKey")
            return f"a key of kind {kind} is not accepted"


def _first_fault(path: VerifiedPath) -> SvidRefusal | None:
    """Return what the verifier let pass and we do not."""
    for each in path.certificates:
        why = key_fault(each)
        if why is not None:
            return SvidRefusal(SvidFault.ALGORITHM, why)
        # RFC 5280 §4.1.2.2: "The serial number MUST be a positive integer".
        if each.serial_number <= 0:
            return SvidRefusal(SvidFault.SERIAL_NUMBER, "a serial number is not positive")
        # RFC 5280 §6.1: policies are part of validation; we evaluate none, so none may bind us.
        if any(extension.oid in _POLICY_EXTENSIONS for extension in each.extensions):
            return SvidRefusal(SvidFault.POLICY_CONSTRAINT, "a path demands certificate policies")
    return None


def _refusal_of(reason: str) -> SvidRefusal:
    """Return the verifier's reason under a code of ours."""
    fault = next((code for piece, code in _REASONS if piece in reason), SvidFault.UNTRUSTED)
    return SvidRefusal(fault, _one_clause(reason))


def _one_clause(text: str) -> str:
    """Return a foreign message as one printable clause: it may quote the certificate."""
    bare = text.partition(" (encountered")[0].partition(": AlgorithmIdentifier")[0]
    for prefix in ("validation failed: ", "candidates exhausted: "):
        bare = bare.removeprefix(prefix)
    bare = bare[:1].lower() + bare[1:]
    clean = "".join(char if char.isascii() and char.isprintable() else "?" for char in bare)
    return clean[:_LONGEST_DETAIL] or "no path to an authority of the bundle holds"
