"""The `providers:` section: the Rego back ends of CUSTOM policies, and what their failure means."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from authz.section import Section
from opa_bridge.compatibility import Compatibility
from opa_bridge.opa_address import OpaServer
from opa_bridge.opa_server import START_SECONDS
from opa_bridge.provider import MAX_BODY_BYTES, ProviderOptions

# BUDGET: Envoy's own default for `ext_authz`; what comes later is not waited for.
TIMEOUT_SECONDS = 0.2
_MOST_BODY_BYTES = 16 * 1024 * 1024


class CompatibilitySettings(Section):
    """Switches for policies that depend on what opa-envoy-plugin does; all off is the safe way."""

    encoded_slash: bool = Field(
        default=False,
        description="`%2F` in a path separates segments of `parsed_path`. Off: such a request "
        "is refused with 400, since the upstream may read it either way.",
    )
    rewrite_target: bool = Field(
        default=False,
        description="`headers` of a result may set `:path`, `:method`, `:authority` and `host`. "
        "Off: an error, since the request would go elsewhere than was decided.",
    )
    append_headers: bool = Field(
        default=False,
        description="Headers of a result are added to those of the same name. Off: they "
        "replace what the client sent.",
    )
    silent_unknown_keys: bool = Field(
        default=False,
        description="Keys of a result that mean nothing are not told of. Off: warned of at "
        "load, and named in the record.",
    )
    undefined_samples: bool = Field(
        default=False,
        description="A policy that is undefined for a sample request loads, and denies what it "
        "is undefined for. Off: it is refused at load.",
    )

    def to_compatibility(self) -> Compatibility:
        """Return the value providers are made with."""
        return Compatibility(**self.model_dump())


class OpaSettings(Section):
    """A real OPA server, with policies of its own. Files are read anew when they change."""

    url: str = Field(
        min_length=1,
        description="`http://host:port`, `https://host:port` (with a path where OPA stands "
        "behind a prefix) or `unix:///path/of/socket`.",
    )
    token_file: Path | None = Field(
        default=None, description="File with the bearer token that OPA asks for."
    )
    ca_file: Path | None = Field(
        default=None, description="Roots for OPA's certificate; unset: the system's."
    )
    certificate_file: Path | None = Field(
        default=None, description="Certificate to show to OPA, PEM."
    )
    key_file: Path | None = Field(default=None, description="Key of that certificate, PEM.")
    start_seconds: float = Field(
        default=START_SECONDS, ge=0, le=600, description="How long to wait for OPA at load."
    )

    def to_server(self) -> OpaServer:
        """Return the value the engine is made with."""
        return OpaServer(**self.model_dump(exclude={"start_seconds"}))


class RegoSettings(Section):
    """A Rego policy and the engine that evaluates it."""

    engine: Literal["embedded", "opa"] = Field(
        default="embedded",
        description="`embedded` evaluates the modules of `paths` or `bundles` itself; `opa` asks "
        "the server of `opa`, which has its own.",
    )
    paths: tuple[Path, ...] = Field(
        default=(),
        description="Files and folders of `.rego` modules; `*_test.rego` is left out.",
    )
    bundles: tuple[str, ...] = Field(
        default=(),
        description="Bundles of `bundles:` instead of `paths` and `data`; several serve together "
        "as one, when their roots do not overlap.",
    )
    entrypoint: str = Field(
        default="envoy/authz/allow",
        description="The rule that is asked, as a path (`package/rule`); its value is a boolean or "
        "an object as opa-envoy-plugin has it.",
    )
    data: tuple[Path, ...] = Field(
        default=(), description="JSON and YAML files merged into Rego's `data` document."
    )
    opa: OpaSettings | None = Field(default=None, description="The server of engine `opa`.")
    timeout_seconds: float = Field(
        default=TIMEOUT_SECONDS,
        gt=0,
        le=60,
        description="Longest evaluation; then it is stopped, and the request denied. The "
        "deadline that Envoy gives a check is a limit as well.",
    )
    workers: int | None = Field(
        default=None,
        ge=1,
        le=64,
        description="Most processes that evaluate (engine `embedded`): two at once, more when "
        "all are busy; unset: four a core, from eight to sixteen.",
    )
    max_body_bytes: int = Field(
        default=MAX_BODY_BYTES,
        ge=0,
        le=_MOST_BODY_BYTES,
        description="Requests with a larger body are refused with 413.",
    )
    proto_descriptor: Path | None = Field(
        default=None,
        description="FileDescriptorSet file: bodies of gRPC requests are parsed with it.",
    )
    skip_request_body_parse: bool = Field(
        default=False, description="No `parsed_body` and no `truncated_body`."
    )
    dry_run: bool = Field(
        default=False,
        description="Its denials are told (record and dynamic metadata) and not enforced, as by "
        "opa-envoy-plugin's `dry-run`; its failures and bad requests are.",
    )
    compatibility: CompatibilitySettings = Field(
        default_factory=CompatibilitySettings,
        description="Ways of opa-envoy-plugin that are not safe.",
    )

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file and folder that is read at load."""
        descriptor = () if self.proto_descriptor is None else (self.proto_descriptor,)
        return (*self.paths, *self.data, *descriptor)

    @model_validator(mode="after")
    def _fits_the_engine(self) -> RegoSettings:
        if self.engine == "embedded" and self.opa is not None:
            raise _wrong("opa", "is for `engine: opa` alone")
        if self.bundles and (self.paths or self.data):
            name = "paths" if self.paths else "data"
            raise _wrong(name, "cannot be had beside `bundles`, which have data of their own")
        if self.engine == "embedded" and not (self.paths or self.bundles):
            raise _wrong("paths", "must have at least 1 entry, or `bundles`")
        if self.engine == "opa" and self.opa is None:
            raise _wrong("opa", "is missing: `engine: opa` needs to know where OPA is")
        if self.engine == "opa" and (self.paths or self.data or self.bundles):
            name = "paths" if self.paths else "data" if self.data else "bundles"
            raise _wrong(name, "is for the embedded engine alone: OPA has its own bundles")
        return self

    def to_options(self) -> ProviderOptions:
        """Return the value providers are made with."""
        opa = self.opa
        return ProviderOptions(
            compatibility=self.compatibility.to_compatibility(),
            proto_descriptor=self.proto_descriptor,
            skip_body=self.skip_request_body_parse,
            max_body_bytes=self.max_body_bytes,
            budget_seconds=self.timeout_seconds,
            start_seconds=START_SECONDS if opa is None else opa.start_seconds,
            workers=self.workers,
            dry_run=self.dry_run,
        )


class ProviderSettings(Section):
    """A provider that CUSTOM policies name, or that is asked where none does."""

    name: str = Field(
        pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$",
        description="The name in `spec.provider.name`: lower-case letters, digits and `-`.",
    )
    rego: RegoSettings = Field(description="The Rego policy that decides.")
    default: bool = Field(
        default=False,
        description="Asked about every request that no CUSTOM policy sends to another provider, "
        "whatever its workload: as opa-envoy-plugin is. One provider at most. DENY and ALLOW "
        "policies count as well.",
    )
    fail_open: bool = Field(
        default=False,
        description="Let requests past this provider when it gives no verdict: it failed, was "
        "out of time or is undefined. Whoever can make the policy fail is let in then; warned "
        "of at load, counted and recorded. DENY and ALLOW policies count as ever.",
    )

    def made_absolute(self, base: Path) -> ProviderSettings:
        """Return the settings with every relative path counted from a folder."""
        rego = self.rego
        changed: dict[str, object] = {
            "paths": tuple(base / each for each in rego.paths),
            "data": tuple(base / each for each in rego.data),
            "proto_descriptor": _below(base, rego.proto_descriptor),
        }
        if rego.opa is not None:
            files = ("token_file", "ca_file", "certificate_file", "key_file")
            found = {name: _below(base, getattr(rego.opa, name)) for name in files}
            changed["opa"] = rego.opa.model_copy(update=found)
        return self.model_copy(update={"rego": rego.model_copy(update=changed)})


def check_providers(value: tuple[ProviderSettings, ...]) -> tuple[ProviderSettings, ...]:
    """Return providers that go together; raise what pydantic reports where they do not."""
    names = [each.name for each in value]
    for index, each in enumerate(value):
        if each.name in names[:index]:
            raise _wrong(index, f"provider `{each.name}` is defined twice")
        first = next((other.name for other in value[:index] if other.default), None)
        if each.default and first is not None:
            raise _wrong(index, f"`{first}` is the default provider already", "default")
    return value


def check_somebody_decides(
    paths: Sequence[Path], providers: Sequence[ProviderSettings], place: str, *below: str
) -> None:
    """Raise what pydantic reports where there is neither a policy nor a default provider."""
    # INVARIANT: an authorizer without policies lets everybody in, so nobody may begin one
    # by an empty list.
    if not paths and not any(each.default for each in providers):
        raise _wrong(place, "must have at least 1 entry, or a provider be the default", *below)


def check_bundle_names(providers: Sequence[ProviderSettings], bundles: Sequence[str]) -> None:
    """Raise what pydantic reports where a provider names a bundle that is not configured."""
    for index, each in enumerate(providers):
        for name in each.rego.bundles:
            if name not in bundles:
                near = difflib.get_close_matches(name, bundles, n=1)
                hint = f"did you mean `{near[0]}`?" if near else "define it under `bundles:`"
                why = f"no bundle `{name}` is configured; {hint}"
                raise _wrong("providers", why, index, "rego", "bundles")


def _wrong(place: str | int, why: str, *below: str | int) -> PydanticCustomError:
    """Return the error of one setting among several that have to go together."""
    return PydanticCustomError("provider", "{why}", {"why": why, "spot": (place, *below)})


def _below(base: Path, path: Path | None) -> Path | None:
    return None if path is None else base / path
