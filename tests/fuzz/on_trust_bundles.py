"""Trust bundles: a document is read, or refused by name, and what was read is written the same."""

from __future__ import annotations

import base64
import json
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from identity.bundle_document import encode_bundle, load_bundle
from identity.bundle_watch import WatchTimes
from identity.spiffe_id import TrustDomain
from identity.trust_bundle import BundleError
from tests.fuzz.choices import Choices
from tests.fuzz.on_certificates import make_certificate
from tests.fuzz.target import Target

_DOMAIN = TrustDomain("example.org")
_TIMES = WatchTimes()
_EC = {
    "kty": "EC",
    "crv": "P-256",
    "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
    "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
}
_ROOT = make_certificate(is_authority=True)
_LEAF = make_certificate(is_authority=False)
_ENTRIES: tuple[Any, ...] = (
    {"use": "x509-svid", "kty": "EC", "x5c": [base64.b64encode(_ROOT).decode()]},
    {"use": "x509-svid", "kty": "EC", "x5c": [base64.b64encode(_LEAF).decode()]},
    {"use": "jwt-svid", "kid": "a", **_EC},
    *(5, None, [], {}, {"use": "wit-svid"}),
)
_MEMBERS = ("use", "kty", "kid", "crv", "x", "y", "n", "e", "d", "p", "q", "alg", "x5c", "key_ops")
_VALUES: tuple[Any, ...] = (
    *(None, True, 5, -1, 1.5, 10**400, "", "AQAB", "_" * 20_000, "\ud800", [], ["AA"], {}, [[]]),
    *("x509-svid", "jwt-svid", "RSA", "EC", "OKP", "oct", "P-384", "RS256", "ES256", "none"),
)
_NUMBERS: tuple[Any, ...] = (0, 1, 2**64, 10**400, -1, 1.5, True, None, "5", [], 10**4000)


def _run(data: bytes) -> None:
    choices = Choices(data)
    raw = choices.rest() if choices.is_yes() else _document(choices)
    try:
        bundle = load_bundle(_DOMAIN, raw)
    except BundleError:
        return
    assert bundle.trust_domain == _DOMAIN
    assert all(_is_authority(each) for each in bundle.x509_authorities)
    assert all(each.kid and not hasattr(each.key, "sign") for each in bundle.jwt_authorities)
    seconds = _TIMES.interval_of(_Remote(), bundle)
    assert _TIMES.shortest_seconds <= seconds <= _TIMES.longest_seconds
    again = load_bundle(_DOMAIN, encode_bundle(bundle))
    assert again.x509_authorities == bundle.x509_authorities
    assert [each.key for each in again.jwt_authorities] == [
        each.key for each in bundle.jwt_authorities
    ]
    assert (again.sequence, again.refresh_hint_seconds, again.notes) == (
        bundle.sequence,
        bundle.refresh_hint_seconds,
        (),
    )


class _Remote:
    """A source that is fetched."""

    trust_domain, name, is_remote, given = _DOMAIN, "x", True, None

    def load(self, held: object) -> Any:
        raise BundleError("never")


def _is_authority(certificate: x509.Certificate) -> bool:
    extension = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    return extension.value.ca


def _document(choices: Choices) -> bytes:
    entries = []
    for _ in range(choices.number(4)):
        entry = choices.pick(_ENTRIES)
        if isinstance(entry, dict):
            for _ in range(choices.number(3)):
                entry = entry | {choices.pick(_MEMBERS): choices.pick(_VALUES)}
            if choices.number(4) == 3 and "x5c" in entry:
                entry = entry | {"x5c": [base64.b64encode(choices.edited(_ROOT)).decode()]}
        entries.append(entry)
    document: dict[str, Any] = {"keys": entries}
    for name in ("spiffe_sequence", "spiffe_refresh_hint"):
        if choices.is_yes():
            document[name] = choices.pick(_NUMBERS)
    return choices.edited(json.dumps(document).encode(), 1 + choices.number(2))


def _seeds() -> list[bytes]:
    pem = x509.load_der_x509_certificate(_ROOT).public_bytes(serialization.Encoding.PEM)
    whole = json.dumps({"keys": _ENTRIES[:3], "spiffe_sequence": 5}).encode()
    deep = b'{"keys":[{"use":"jwt-svid","kid":"a","x":' + b"[" * 400 + b"]" * 400 + b"}]}"
    return [b"\x01" + each for each in (pem, whole, deep, b"{}", b'{"keys":[]}')] + [
        bytes([0, 2, first, 1, member, 1, second])
        for first in range(3)
        for member, second in ((0, 3), (4, 5), (9, 2))
    ]


TARGET = Target(run=_run, seeds=_seeds, words=('"use"', '"x509-svid"', '"jwt-svid"', '"x5c"'))
