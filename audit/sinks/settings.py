"""The `audit.sinks` block of the configuration file."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

_CONFIG = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)


class UploadSettings(BaseModel):
    """A service that takes decisions in the form of OPA's decision logs."""

    model_config = _CONFIG

    name: str = Field(
        pattern=r"^[0-9A-Za-z-]{1,64}$",
        description="Its name in metrics, and in the file that says how far it has the record.",
    )
    url: str = Field(
        description="Where batches are posted: the whole address, for an OPA service mostly "
        "`https://HOST/logs`."
    )
    token_file: Path | None = Field(
        default=None, description="File of a bearer token; read for each batch, so it may rotate."
    )
    ca_file: Path | None = Field(
        default=None, description="Roots (PEM) to trust for it; unset: those of the system."
    )
    certificate_file: Path | None = Field(
        default=None, description="Client certificate (PEM) to show."
    )
    key_file: Path | None = Field(default=None, description="Its private key (PEM).")
    labels: dict[str, str] = Field(
        default_factory=dict, description="Labels of each event, beside `id`, the instance's name."
    )
    max_batch_bytes: int = Field(
        default=32 * 1024, ge=1024, description="Largest body, in gzip, as OPA's own limit."
    )
    delay_milliseconds: int = Field(
        default=1000, ge=0, description="How long decisions gather before a batch leaves."
    )
    timeout_seconds: float = Field(
        default=10.0, gt=0, description="How long one batch may take, its answer included."
    )
    min_retry_seconds: float = Field(
        default=1.0,
        gt=0,
        description="Pause after a failure; it doubles with each, half of it left to chance.",
    )
    max_retry_seconds: float = Field(default=60.0, gt=0, description="Longest pause.")

    @model_validator(mode="after")
    def _is_whole(self) -> UploadSettings:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("`url` must be an `http` or `https` address")
        if parts.username is not None or parts.password is not None:
            raise ValueError("`url` must not hold a password: name a `tokenFile`")
        secret = self.token_file is not None
        if secret and parts.scheme != "https" and not _is_loopback(parts.hostname):
            raise ValueError("a token is sent over `https` only")
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("`certificateFile` and `keyFile` belong together")
        return self

    def made_absolute(self, base: Path) -> UploadSettings:
        """Return the settings with relative paths counted from `base`."""
        names = ("token_file", "ca_file", "certificate_file", "key_file")
        found = {name: getattr(self, name) for name in names}
        return self.model_copy(
            update={name: base / path for name, path in found.items() if path is not None}
        )


class SinkSettings(BaseModel):
    """Where the record goes beside its files; each sink follows them at its own pace."""

    model_config = _CONFIG

    stdout: bool = Field(
        default=False, description="Write each line of the record to standard output as well."
    )
    uploads: tuple[UploadSettings, ...] = Field(
        default=(), description="Services that are sent the decisions."
    )

    @model_validator(mode="after")
    def _names_differ(self) -> SinkSettings:
        names = [each.name for each in self.uploads]
        if len(set(names)) < len(names) or (self.stdout and "stdout" in names):
            raise ValueError("two sinks have the same name")
        return self


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
