"""The subject of a certificate, spelled as Envoy spells it.

Envoy's RBAC compares the subject as text, so the text must be its text: RFC 2253 with
BoringSSL's names for attributes and its escapes.

Spec: RFC 2253 §2; BoringSSL `X509_NAME_print_ex` with `XN_FLAG_RFC2253`.
"""

from __future__ import annotations

from typing import Final

from cryptography import x509

# What BoringSSL calls attributes, by their last number: asked of an Envoy 1.40, for each
# number there is. One it has no name for stands by its number, its value as the hex of its DER.
_NAMES: Final = {
    "2.5.4": (
        "3=CN 4=SN 5=serialNumber 6=C 7=L 8=ST 9=street 10=O 11=OU 12=title 13=description "
        "14=searchGuide 15=businessCategory 16=postalAddress 17=postalCode 18=postOfficeBox "
        "19=physicalDeliveryOfficeName 20=telephoneNumber 21=telexNumber "
        "22=teletexTerminalIdentifier 23=facsimileTelephoneNumber 24=x121Address "
        "25=internationaliSDNNumber 26=registeredAddress 27=destinationIndicator "
        "28=preferredDeliveryMethod 29=presentationAddress 30=supportedApplicationContext "
        "31=member 32=owner 33=roleOccupant 34=seeAlso 35=userPassword 36=userCertificate "
        "37=cACertificate 38=authorityRevocationList 39=certificateRevocationList "
        "40=crossCertificatePair 41=name 42=GN 43=initials 44=generationQualifier "
        "45=x500UniqueIdentifier 46=dnQualifier 47=enhancedSearchGuide 48=protocolInformation "
        "49=distinguishedName 50=uniqueMember 51=houseIdentifier 52=supportedAlgorithms "
        "53=deltaRevocationList 54=dmdName 65=pseudonym 72=role"
    ),
    "1.2.840.113549.1.9": (
        "1=emailAddress 2=unstructuredName 3=contentType 4=messageDigest 5=signingTime "
        "6=countersignature 7=challengePassword 8=unstructuredAddress "
        "9=extendedCertificateAttributes 14=extReq 15=SMIME-CAPS 16=SMIME 20=friendlyName "
        "21=localKeyID"
    ),
    "0.9.2342.19200300.100.1": (
        "1=UID 2=textEncodedORAddress 3=mail 4=info 5=favouriteDrink 6=roomNumber 7=photo "
        "8=userClass 9=host 10=manager 11=documentIdentifier 12=documentTitle "
        "13=documentVersion 14=documentAuthor 15=documentLocation 20=homeTelephoneNumber "
        "21=secretary 22=otherMailbox 23=lastModifiedTime 24=lastModifiedBy 25=DC 26=aRecord "
        "27=pilotAttributeType27 28=mXRecord 29=nSRecord 30=sOARecord 31=cNAMERecord "
        "37=associatedDomain 38=associatedName 39=homePostalAddress 40=personalTitle "
        "41=mobileTelephoneNumber 42=pagerTelephoneNumber 43=friendlyCountryName "
        "45=organizationalStatus 46=janetMailbox 47=mailPreferenceOption 48=buildingName "
        "49=dSAQuality 50=singleLevelQuality 51=subtreeMinimumQuality "
        "52=subtreeMaximumQuality 53=personalSignature 54=dITRedirect 55=audio "
        "56=documentPublisher"
    ),
}
_SHORT_NAMES: Final = {
    f"{arc}.{number}": name
    for arc, row in _NAMES.items()
    for number, _, name in (each.partition("=") for each in row.split())
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
