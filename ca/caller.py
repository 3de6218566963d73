"""Who asks for an SVID: what an attestor has proven, and nothing the caller only said.

An attestor is a callable that takes one kind of evidence and returns a `Caller`. What a caller may
hold is then settled by registration entries (`ca.entries`), never by the attestor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, TypeVar

from cryptography import x509

from identity.spiffe_id import SpiffeId

_Evidence_contra = TypeVar("_Evidence_contra", contravariant=True)


class Method(StrEnum):
    """How a caller was attested; the value stands in the ledger."""

    UNIX = "unix"
    JOIN_TOKEN = "join_token"  # noqa: S105 - the name of a method
    X509_SVID = "x509_svid"
    K8S_SERVICE_ACCOUNT = "k8s_service_account"
    SOCKET = "socket"
    OPERATOR = "operator"
    AUTHORITY = "authority"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """A caller as proven.

    `selectors` are `kind:key:value` texts, such as `unix:uid:1000` or `k8s:ns:shop`; entries are
    matched against them. `holds` is the SPIFFE ID of the SVID that the caller has shown, for
    renewal, and `leaf` its certificate, which may be denied meanwhile. `granted` is an ID that
    needs no entry: the configuration or the operator gives it. `evidence` goes into the records;
    it never holds a secret.
    """

    method: Method
    selectors: frozenset[str] = frozenset()
    holds: SpiffeId | None = None
    leaf: x509.Certificate | None = field(default=None, repr=False)
    granted: SpiffeId | None = None
    evidence: Mapping[str, str] = field(default_factory=dict)


class Attest(Protocol[_Evidence_contra]):
    """Proves who shows a piece of evidence."""

    def __call__(self, evidence: _Evidence_contra) -> Caller:
        """Return the caller.

        Raises:
            AttestationError: the evidence proves nobody; it carries the named reason.
        """
