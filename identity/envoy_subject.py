"""The subject of a certificate, spelled as Envoy spells it.

Envoy's RBAC compares the subject as text, so the text must be its text: RFC 2253 with
BoringSSL's names for attributes and its escapes.

Spec: RFC 2253 §2; BoringSSL `X509_NAME_print_ex` with `XN_FLAG_RFC2253`.
"""

from __future__ import annotations

from typing import Final

from cryptography import x509

# What BoringSSL calls attributes. One it has no name for stands by its number, and its value
# as the hex of its DER.
_SHORT_NAMES: Final = {
    "2.5.4.3": "CN",
    "2.5.4.4": "SN",
    "2.5.4.5": "serialNumber",
    "2.5.4.6": "C",
    "2.5.4.7": "L",
    "2.5.4.8": "ST",
    "2.5.4.9": "street",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
    "2.5.4.12": "title",
    "2.5.4.13": "description",
    "2.5.4.15": "businessCategory",
    "2.5.4.17": "postalCode",
    "2.5.4.20": "telephoneNumber",
    "2.5.4.41": "name",
    "2.5.4.42": "GN",
    "2.5.4.43": "initials",
    "2.5.4.44": "generationQualifier",
    "2.5.4.45": "x500UniqueIdentifier",
    "2.5.4.46": "dnQualifier",
    "2.5.4.65": "pseudonym",
    "2.5.4.97": "organizationIdentifier",
    "0.9.2342.19200300.100.1.1": "UID",
    "0.9.2342.19200300.100.1.25": "DC",
    "1.2.840.113549.1.9.1": "emailAddress",
    "1.2.840.113549.1.9.2": "unstructuredName",
    "1.2.840.113549.1.9.8": "unstructuredAddress",
}
_ESCAPED: Final = frozenset(b',+"\\<>;')
_HASH, _SPACE, _DELETE = 0x23, 0x20, 0x7F


def subject_text(name: x509.Name) -> str:
    """Return the name as Envoy prints it; an empty name is the empty text.

    Raises:
        ValueError: a value cannot be encoded in the type it says it has.
    """
    # RFC 2253 §2.1: "starting with the last element of the sequence".
    return ",".join("+".join(_attribute(each) for each in rdn) for rdn in reversed(name.rdns))


def common_names(name: x509.Name) -> tuple[str, ...]:
    """Return the values of the name's CN attributes."""
    found = name.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return tuple(each.value for each in found if isinstance(each.value, str))


def _attribute(attribute: x509.NameAttribute[str | bytes]) -> str:
    dotted = attribute.oid.dotted_string
    short = _SHORT_NAMES.get(dotted)
    if short is None or isinstance(attribute.value, bytes):
        return f"{short or dotted}=#{_der(attribute).hex().upper()}"
    return f"{short}={_escaped(attribute.value.encode())}"


def _escaped(value: bytes) -> str:
    """Return the text with RFC 2253's escapes, everything outside printable ASCII as `\\XX`."""
    last = len(value) - 1
    pieces = []
    for place, byte in enumerate(value):
        if byte < _SPACE or byte >= _DELETE:
            pieces.append(f"\\{byte:02X}")
            continue
        # §2.4: "a space or `#` character occurring at the beginning", "a space at the end".
        is_edge = (place == 0 and byte in (_HASH, _SPACE)) or (place == last and byte == _SPACE)
        pieces.append(("\\" if is_edge or byte in _ESCAPED else "") + chr(byte))
    return "".join(pieces)


def _der(attribute: x509.NameAttribute[str | bytes]) -> bytes:
    """Return the DER of a value, by way of the encoding of a whole name."""
    return _last_value(x509.Name([attribute]).public_bytes())


def _last_value(der: bytes) -> bytes:
    """Return the value in `SEQUENCE { SET { SEQUENCE { OID, value } } }`."""
    for _ in range(3):
        der = der[_header_size(der) :]
    return der[_header_size(der) + der[1] :]


def _header_size(der: bytes) -> int:
    """Return how many bytes tag and length take."""
    return 2 if der[1] < 0x80 else 2 + (der[1] & 0x7F)
