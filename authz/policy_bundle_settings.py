"""The `bundles:` section: OPA bundles of policy and data that providers name."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from authz.section import Section
from opa_bridge.bundle_archive import ArchiveLimits
from opa_bridge.bundle_files import read_signing
from opa_bridge.bundle_service import BundleService, check_bundle_url
from opa_bridge.bundle_signature import Signing
from opa_bridge.bundle_watch import Polling, ServedBundle
from opa_bridge.errors import PolicyBundleError

_MOST_BYTES = 1024 * 1024 * 1024

Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512",
    "ES256", "ES384", "ES512", "HS256", "HS384", "HS512",
]  # fmt: skip
"""What OPA signs bundles with."""


class BundleKeySettings(Section):
    """A key that signatures are verified by."""

    id: str = Field(
        default="",
        description="The `kid` (or `keyid`) that the signature names; empty: whatever it names.",
    )
    algorithm: Algorithm = Field(
        description="The only algorithm that this key verifies. HS256 and its like take a secret "
        "that whoever verifies could sign with as well."
    )
    file: Path = Field(
        description="PEM file of the public key or a certificate; for HS256 and its like the "
        "secret. Read anew for every bundle."
    )


class BundleSigningSettings(Section):
    """Who has to have signed a bundle (`.signatures.json`)."""

    keys: tuple[BundleKeySettings, ...] = Field(
        min_length=1, description="One of these has to verify it; two while keys are changed."
    )
    scope: str = Field(default="", description="The `scope` that has to stand in the signature.")

    def read(self) -> Signing:
        """Return the keys, read now.

        Raises:
            PolicyBundleError: a file cannot be read, or its key is unfit.
        """
        return read_signing(
            tuple((key.id, key.algorithm, key.file) for key in self.keys), self.scope
        )


class BundleServiceSettings(Section):
    """An HTTP(S) bundle service. Files are read anew for every request."""

    url: str = Field(description="Its URL, `https://host/path`; the resource follows it.")
    token_file: Path | None = Field(
        default=None, description="File with the bearer token; it goes by https or loopback only."
    )
    ca_file: Path | None = Field(
        default=None, description="Roots for the service's certificate; unset: the system's."
    )
    certificate_file: Path | None = Field(default=None, description="Certificate to show, PEM.")
    key_file: Path | None = Field(default=None, description="Key of that certificate, PEM.")
    timeout_seconds: float = Field(
        default=30.0,
        gt=0,
        le=600,
        description="How long one request may take, a long poll's wait not counted.",
    )

    @model_validator(mode="after")
    def _check(self) -> BundleServiceSettings:
        try:
            check_bundle_url(self.url, has_token=self.token_file is not None)
        except PolicyBundleError as exc:
            raise ValueError(f"{exc}; {exc.help}" if exc.help else str(exc)) from exc
        if self.key_file is not None and self.certificate_file is None:
            raise ValueError("`keyFile` belongs to a `certificateFile`")
        return self


class BundlePollingSettings(Section):
    """Pauses between requests to the service."""

    min_delay_seconds: float = Field(default=60.0, gt=0, description="Shortest pause.")
    max_delay_seconds: float = Field(
        default=120.0,
        gt=0,
        description="Longest pause, also between retries; each pause is drawn between the two.",
    )
    long_polling_seconds: int | None = Field(
        default=None,
        ge=1,
        le=3600,
        description="How long the service may hold a request until there is something new, where "
        "it can; unset: it is not asked to.",
    )

    @model_validator(mode="after")
    def _check(self) -> BundlePollingSettings:
        if self.max_delay_seconds < self.min_delay_seconds:
            raise ValueError("`maxDelaySeconds` is less than `minDelaySeconds`")
        return self


class PolicyBundleSettings(Section):
    """An OPA bundle: from a folder or archive on disk, or from a bundle service."""

    name: str = Field(
        pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$",
        description="The name that providers know it by: lower-case letters, digits and `-`.",
    )
    path: Path | None = Field(
        default=None,
        description="A folder, or a `.tar.gz` as `opa build` makes it; an edit counts soon.",
    )
    service: BundleServiceSettings | None = Field(
        default=None, description="The service that has it, instead of a path."
    )
    resource: str = Field(
        default="",
        pattern=r"^[!-~]*$",
        description="Its path at the service, behind the service's URL. Empty: `bundles/NAME`.",
    )
    signing: BundleSigningSettings | None = Field(
        default=None,
        description="Who has to have signed it. Unset: it must be unsigned, and is believed for "
        "where it comes from.",
    )
    polling: BundlePollingSettings = Field(
        default_factory=BundlePollingSettings, description="How often a service is asked."
    )
    persist: Path | None = Field(
        default=None,
        description="Folder for the last good copy, which serves after a start while the service "
        "is down.",
    )
    max_bytes: int = Field(
        default=64 * 1024 * 1024,
        ge=1024,
        le=_MOST_BYTES,
        description="Largest archive; unpacked it may have four times as many bytes.",
    )

    @field_validator("resource")
    @classmethod
    def _check_resource(cls, value: str) -> str:
        if "#" in value or ".." in value.split("/"):
            raise ValueError("must be a plain path")
        return value

    @model_validator(mode="after")
    def _check_one_source(self) -> PolicyBundleSettings:
        if (self.path is None) == (self.service is None):
            raise ValueError("a bundle has a `path` or a `service`, one of them")
        if self.service is None and (self.resource or self.persist is not None):
            raise ValueError("`resource` and `persist` belong to a `service`")
        return self

    @property
    def limits(self) -> ArchiveLimits:
        """How large it may be."""
        return ArchiveLimits(packed_bytes=self.max_bytes, unpacked_bytes=4 * self.max_bytes)

    @property
    def files(self) -> tuple[Path, ...]:
        """Every path whose edit is a reload."""
        if self.path is None:
            return ()
        keys = () if self.signing is None else self.signing.keys
        return (self.path, *(key.file for key in keys))

    def read_signing(self) -> Signing | None:
        """Return who may sign, read now; None where nobody has to.

        Raises:
            PolicyBundleError: a key file cannot be used.
        """
        return None if self.signing is None else self.signing.read()

    def to_served(self) -> ServedBundle:
        """Return the value a watcher is made with; there is a service."""
        service = self.service
        assert service is not None
        resource = self.resource.lstrip("/") or f"bundles/{self.name}"
        return ServedBundle(
            name=self.name,
            service=BundleService(
                **service.model_dump(exclude={"url"}),
                url=f"{service.url.rstrip('/')}/{resource}",
                max_bytes=self.max_bytes,
            ),
            polling=Polling(**self.polling.model_dump()),
            signing=None if self.signing is None else partial(_read, self.signing),
            limits=self.limits,
        )

    def made_absolute(self, base: Path) -> PolicyBundleSettings:
        """Return the settings with every relative path counted from a folder."""
        changed: dict[str, object] = {
            "path": _below(base, self.path),
            "persist": _below(base, self.persist),
        }
        if self.service is not None:
            files = ("token_file", "ca_file", "certificate_file", "key_file")
            found = {name: _below(base, getattr(self.service, name)) for name in files}
            changed["service"] = self.service.model_copy(update=found)
        if self.signing is not None:
            keys = tuple(
                key.model_copy(update={"file": base / key.file}) for key in self.signing.keys
            )
            changed["signing"] = self.signing.model_copy(update={"keys": keys})
        return self.model_copy(update=changed)


def check_policy_bundles(
    value: tuple[PolicyBundleSettings, ...],
) -> tuple[PolicyBundleSettings, ...]:
    """Refuse two bundles of one name.

    Raises:
        PydanticCustomError: naming the entry at fault.
    """
    names = [each.name for each in value]
    for place, name in enumerate(names):
        if name in names[:place]:
            why = f"bundle `{name}` is defined twice"
            raise PydanticCustomError("bundle", "{why}", {"why": why, "spot": (place,)})
    return value


def _read(signing: BundleSigningSettings) -> Signing:
    return signing.read()


def _below(base: Path, path: Path | None) -> Path | None:
    return None if path is None else base / path
