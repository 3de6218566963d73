"""`listen.tls`: the certificate that the gRPC listener shows, and who may ask it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from authz.section import Section
from identity.errors import SpiffeIdError
from identity.spiffe_id import SpiffeId

_ANY_BELOW = "/*"


def _check_client(text: str) -> str:
    """Return a SPIFFE ID, or one that ends in `/*`, if it is well formed."""
    try:
        SpiffeId.parse(text.removesuffix(_ANY_BELOW))
    except SpiffeIdError as exc:
        raise ValueError(str(exc)) from exc
    return text


class ListenTlsSettings(Section):
    """TLS of the gRPC listener; both files may be replaced under way."""

    certificate_file: Path = Field(
        description="Certificate to show with its chain, PEM; looked at with each new connection, "
        "so that it may be replaced under way, as `meshwarden ca agent` does."
    )
    key_file: Path = Field(description="Its private key, PEM, not encrypted.")
    client_ca_file: Path | None = Field(
        default=None,
        description="Roots of clients' certificates, PEM; then every client has to show one. "
        "Unset: clients are not asked for any.",
    )
    client_ids: tuple[Annotated[str, AfterValidator(_check_client)], ...] = Field(
        default=(),
        description="SPIFFE IDs of clients that may ask; `spiffe://DOMAIN/PATH/*` stands for all "
        "below. Others are answered PERMISSION_DENIED. Empty: whoever `clientCaFile` vouches for.",
    )

    @model_validator(mode="after")
    def _ids_need_roots(self) -> Self:
        if self.client_ids and self.client_ca_file is None:
            raise ValueError("`clientIds` needs `clientCaFile`: without it nobody has to show one")
        return self

    def made_absolute(self, base: Path) -> Self:
        """Return the same with its files below `base`, where they are not absolute."""
        roots = self.client_ca_file
        return self.model_copy(
            update={
                "certificate_file": base / self.certificate_file,
                "key_file": base / self.key_file,
                "client_ca_file": None if roots is None else base / roots,
            }
        )

    def may_ask(self, spiffe_id: str) -> bool:
        """Return whether a client of this verified SPIFFE ID (empty: it has none) may ask."""
        if not self.client_ids:
            return True
        return any(
            spiffe_id.startswith(each.removesuffix("*")) and spiffe_id != each.removesuffix("*")
            if each.endswith(_ANY_BELOW)
            else spiffe_id == each
            for each in self.client_ids
        )
