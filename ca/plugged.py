"""An existing CA to sign with: read from its folder, judged, and never written to.

Two layouts are known: Istio's `cacerts` (`ca-cert.pem`, `ca-key.pem`, `cert-chain.pem`,
`root-cert.pem`) and that of a Kubernetes TLS secret (`tls.crt`, `tls.key`, `ca.crt`).
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from ca.errors import PluggedCaError, StateError, SvidInvalidError
from ca.files import read_file
from ca.keys import read_private_key
from ca.making import PluggedAuthority
from ca.validate import verify_authority
from identity.spiffe_id import TrustDomain

# BUDGET: a signer, and what leads up to its root; SPIRE and Istio know no deeper chains.
_MAX_PATH = 5


def load_plugged(
    folder: Path, trust_domain: TrustDomain, now: datetime, passphrase: bytes | None = None
) -> PluggedAuthority:
    """Return the CA in `folder`, when it may sign for `trust_domain` at `now`.

    Raises:
        PluggedCaError: a file is missing or wrong, or the CA may not sign our leaves.
    """
    if (folder / "ca-cert.pem").exists():
        names = ("ca-cert.pem", "ca-key.pem", "root-cert.pem")
        chain = _certificates(folder / "cert-chain.pem", is_needed=False)
    else:
        names, chain = ("tls.crt", "tls.key", "ca.crt"), ()
    signer, *above = _certificates(folder / names[0])
    roots = _certificates(folder / names[2])
    path = _path(signer, (*above, *chain), roots)
    key_pem = _read(folder / names[1], is_secret=True)
    key = read_private_key(key_pem, passphrase, f"key file `{folder / names[1]}`")
    if key.public_key() != signer.public_key():
        raise PluggedCaError(f"`{folder / names[1]}` is not the key of `{names[0]}`")
    _verify(path, roots, trust_domain, now)
    more = tuple(dict.fromkeys(root for root in roots if root != path[-1]))
    return PluggedAuthority(path=path, key=key, more_roots=more)


def _path(
    signer: x509.Certificate, above: Iterable[x509.Certificate], roots: tuple[x509.Certificate, ...]
) -> tuple[x509.Certificate, ...]:
    """Return the certificates from the signer up to and including its root."""
    path, candidates = [signer], (*roots, *above)
    while path[-1] not in roots:
        issuer = next((c for c in candidates if c not in path and _issued(c, path[-1])), None)
        if issuer is None or len(path) >= _MAX_PATH:
            raise PluggedCaError(
                "the signer's chain does not lead to a root in the folder",
                help="put every certificate between them into cert-chain.pem, lowest first",
            )
        path.append(issuer)
    return tuple(path)


def _verify(
    path: tuple[x509.Certificate, ...],
    roots: tuple[x509.Certificate, ...],
    trust_domain: TrustDomain,
    now: datetime,
) -> None:
    """Refuse a CA whose leaves a peer would refuse."""
    try:
        for below, certificate in enumerate(path):
            verify_authority(certificate, f"spiffe://{trust_domain}", below=below)
        for root in roots:
            verify_authority(root, f"spiffe://{trust_domain}", below=0)
    except SvidInvalidError as exc:
        raise PluggedCaError(f"the plugged-in CA cannot sign here: {exc}") from exc
    if any(not _issued(root, root) for root in roots):
        # Envoy's SPIFFE validator takes no intermediate as an anchor.
        raise PluggedCaError("a root of the plugged-in CA is not self-signed")
    for certificate in path:
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            raise PluggedCaError(
                f"`{certificate.subject.rfc4514_string()[:128]}` is not in its validity"
            )


def _issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    """Return whether `issuer` is named in, and signed, `certificate`."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _certificates(path: Path, *, is_needed: bool = True) -> tuple[x509.Certificate, ...]:
    """Return the PEM certificates of a file, at least one where the file is needed."""
    pem = _read(path, is_needed=is_needed)
    if not pem and not is_needed:
        return ()
    try:
        return tuple(x509.load_pem_x509_certificates(pem))
    except ValueError:
        raise PluggedCaError(f"`{path}` does not hold PEM certificates") from None


def _read(path: Path, *, is_secret: bool = False, is_needed: bool = True) -> bytes:
    """Return a file's content, empty where it may be missing and is."""
    try:
        content = read_file(path, is_secret=is_secret)
    except StateError as exc:
        raise PluggedCaError(str(exc), help=exc.help) from exc
    if content is None and is_needed:
        raise PluggedCaError(f"`{path}` is missing", help="see pluggedCa in the configuration")
    return content or b""
