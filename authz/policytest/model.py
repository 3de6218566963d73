"""The test file: `*.policytest.yaml`, checked as strictly as the configuration."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, Field, model_validator

from authz.mesh_settings import MeshSettings
from authz.peer_settings import Mappings
from authz.policy_bundle_settings import PolicyBundleSettings, check_policy_bundles
from authz.provider_settings import (
    ProviderSettings,
    check_bundle_names,
    check_providers,
    check_somebody_decides,
)
from authz.section import Section
from policies.decision import Effect, Reason, ShadowOutcome

_DURATION = re.compile(r"(-?)([0-9]+)([smhd])", re.ASCII)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DEFAULT_CLOCK = datetime(2026, 1, 15, 10, tzinfo=UTC)


def _check_duration(text: str) -> str:
    if not _DURATION.fullmatch(text):
        raise ValueError("must be a duration such as `5m` or `-1h`")
    return text


Duration = Annotated[str, AfterValidator(_check_duration)]
"""A signed whole number with one of the units s, m, h, d."""


def to_seconds(text: str) -> int:
    """Return the seconds that the checked text of a duration spells, however many."""
    match = _DURATION.fullmatch(text)
    assert match is not None
    sign, number, unit = match.groups()
    return int(sign + number) * _UNITS[unit]


class TestMetadata(Section):
    """The name of the file's cases in reports."""

    __test__ = False
    name: str = Field(description="Name of the suite.")


class PolicySources(Section):
    """What is tested; paths count from the test file's folder."""

    istio: tuple[Path, ...] = Field(description="Istio policy files and folders.")
    providers: Annotated[tuple[ProviderSettings, ...], AfterValidator(check_providers)] = Field(
        default=(), description="Extension providers of CUSTOM policies, as in meshwarden.yaml."
    )

    bundles: Annotated[tuple[PolicyBundleSettings, ...], AfterValidator(check_policy_bundles)] = (
        Field(default=(), description="OPA bundles that providers name, each from a `path`.")
    )

    @model_validator(mode="after")
    def _somebody_decides(self) -> PolicySources:
        check_somebody_decides(self.istio, self.providers, "istio")
        check_bundle_names(self.providers, [each.name for each in self.bundles])
        if any(each.service is not None for each in self.bundles):
            raise ValueError("a test asks no bundle service; give the bundle a `path`")
        return self


class WorkloadFixture(Section):
    """A workload that requests go to."""

    namespace: str = Field(min_length=1, description="Its namespace.")
    service_account: str = Field(default="default", description="Its service account.")
    labels: dict[str, str] = Field(default_factory=dict, description="Its labels.")
    port: int = Field(default=8080, ge=1, le=65535, description="The port that is called.")
    service: str | None = Field(
        default=None,
        pattern=r"^(((Service|ServiceEntry)/)?[^/]+/[^/]+)?$",
        description="For mesh mode `waypoint`: the service that is asked for, as "
        "`[Service/|ServiceEntry/]namespace/name`; empty: the route serves no service.",
    )


class IdentityFixture(Section):
    """A peer: a SPIFFE ID (any certificate text will do), or plaintext."""

    spiffe: str = Field(default="", description="The principal Envoy reports.")
    plaintext: bool = Field(default=False, description="No client certificate.")
    ip: str = Field(default="10.0.0.1", description="Address of the connection.")

    @model_validator(mode="after")
    def _one_of(self) -> IdentityFixture:
        if bool(self.spiffe) == self.plaintext:
            raise ValueError("exactly one of `spiffe` and `plaintext: true` must be set")
        return self


class TokenFixture(Section):
    """A token, minted by a throw-away issuer whose key every rule's issuer is given."""

    from_: str = Field(default="", alias="from", description="Another token that this one varies.")
    issuer: str | None = Field(default=None, description="The `iss` claim.")
    sub: str | None = Field(default=None, description="The `sub` claim.")
    aud: str | tuple[str, ...] | None = Field(default=None, description="The `aud` claim.")
    claims: dict[str, Any] = Field(default_factory=dict, description="Further claims.")
    exp: Duration | None = Field(default=None, description="Expiry from the clock; default `1h`.")
    nbf: Duration | None = Field(default=None, description="Not before, from the clock.")
    tamper: Literal["", "signature", "key", "payload"] = Field(
        default="",
        description="`signature`: cut; `key`: signed by a stranger; `payload`: changed after.",
    )


class RequestFixture(Section):
    """The request; `path` is as Envoy forwards it, with query."""

    method: str = Field(default="GET", description="The method.")
    path: str = Field(default="/", description="Path and query.")
    host: str = Field(default="test.local", description="The authority.")
    headers: dict[str, str | tuple[str, ...]] = Field(
        default_factory=dict, description="Headers; a list is a repeated header."
    )
    body: str = Field(default="", description="The body, where Envoy sends it along.")
    json_: Any = Field(
        default=None, alias="json", description="The body as JSON; sets `content-type` as well."
    )

    @property
    def has_body(self) -> bool:
        """Whether there is a body."""
        return bool(self.body) or "json_" in self.model_fields_set

    @model_validator(mode="after")
    def _one_body(self) -> RequestFixture:
        if self.body and "json_" in self.model_fields_set:
            raise ValueError("at most one of `body` and `json` may be set")
        return self


class HeaderExpectation(Section):
    """What an allowed request carries upstream, what a client is answered with."""

    upstream: dict[str, str] = Field(default_factory=dict, description="Set on the request.")
    removed: tuple[str, ...] = Field(default=(), description="Removed from the request.")
    response: dict[str, str] = Field(default_factory=dict, description="Set on the response.")


class Expectation(Section):
    """What must hold; what is not written is not looked at."""

    decision: Effect = Field(description="`allow` or `deny`.")
    status: int | None = Field(default=None, description="HTTP status of a denial.")
    reason: Reason | None = Field(default=None, description="The reason code.")
    policy: str | None = Field(
        default=None,
        description="The deciding policy `namespace/name`, or its rule `namespace/name#0`; "
        "empty: none decided.",
    )
    body_contains: str | None = Field(default=None, description="Part of a denial's body.")
    headers: HeaderExpectation = Field(
        default_factory=HeaderExpectation, description="Headers that must be set or removed."
    )
    shadow: dict[str, ShadowOutcome] = Field(
        default_factory=dict, description="Outcome by dry-run policy `namespace/name`."
    )
    audited_by: tuple[str, ...] | None = Field(
        default=None, description="The AUDIT rules that matched, exactly."
    )
    audit: dict[str, Any] = Field(
        default_factory=dict,
        description="Fields of the audit record as it would be written; keys that are not named "
        "are not looked at.",
    )


class Defaults(Section):
    """What a case need not repeat."""

    from_: str = Field(default="", alias="from", description="Identity of the peer.")
    to: str = Field(default="", description="Workload that is called.")
    token: str | None = Field(default=None, description="Token that is carried.")


class Case(Section):
    """One request and what must come of it."""

    name: str = Field(min_length=1, description="What the case shows.")
    from_: str | None = Field(default=None, alias="from", description="Identity of the peer.")
    to: str | None = Field(default=None, description="Workload that is called.")
    token: str | None = Field(default=None, description="Token carried as a bearer.")
    request: RequestFixture = Field(default_factory=RequestFixture, description="The request.")
    expect: Expectation = Field(description="What must hold.")
    skip: str = Field(default="", description="Why the case is not run for now; it is counted.")


Texts = str | tuple[str, ...]
"""One text or several."""

AXES = ("from", "to", "token", "method", "path", "host")
"""What a matrix may vary, in the order of its cells."""


class Cells(Section):
    """Cells of a matrix: those that have one of the values on every axis that is written."""

    from_: Texts | None = Field(default=None, alias="from", description="Identities.")
    to: Texts | None = Field(default=None, description="Workloads.")
    token: str | tuple[str | None, ...] | None = Field(
        default=None, description="Tokens; null where it is written: none is carried."
    )
    method: Texts | None = Field(default=None, description="Methods.")
    path: Texts | None = Field(default=None, description="Paths.")
    host: Texts | None = Field(default=None, description="Hosts.")

    def on(self, axis: str) -> tuple[str | None, ...] | None:
        """Return the values on an axis, None where it is not written."""
        field = "from_" if axis == "from" else axis
        if field not in self.model_fields_set:
            return None
        found = getattr(self, field)
        return found if isinstance(found, tuple) else (found,)


class Matrix(Section):
    """The product of lists. What `allow` does not list must be denied."""

    name: str = Field(min_length=1, description="What the matrix shows.")
    from_: tuple[str, ...] = Field(
        default=(), alias="from", description="Identities; empty: the default one."
    )
    to: tuple[str, ...] = Field(default=(), description="Workloads; empty: the default one.")
    token: tuple[str | None, ...] = Field(
        default=(), description="Tokens, null for none; empty: the default one."
    )
    method: tuple[str, ...] = Field(default=(), description="Methods; empty: the request's.")
    path: tuple[str, ...] = Field(default=(), description="Paths; empty: the request's.")
    host: tuple[str, ...] = Field(default=(), description="Hosts; empty: the request's.")
    request: RequestFixture = Field(
        default_factory=RequestFixture, description="What all requests have in common."
    )
    allow: tuple[Cells, ...] = Field(description="The cells that must be allowed.")
    status: dict[str, int] = Field(
        default_factory=dict,
        description="HTTP status of the denied cells that have this value on an axis; the first "
        "that fits holds.",
    )
    skip: str = Field(default="", description="Why no cell is run for now; they are counted.")

    def on(self, axis: str) -> tuple[str | None, ...]:
        """Return the values on an axis; none where it is not varied."""
        found: tuple[str | None, ...] = getattr(self, "from_" if axis == "from" else axis)
        return found

    @model_validator(mode="after")
    def _cells_are_of_the_matrix(self) -> Matrix:
        # A value that no cell has would be a cell that nobody tests.
        for cells in self.allow:
            for axis in AXES:
                for value in cells.on(axis) or ():
                    if value not in self.on(axis):
                        raise ValueError(
                            f"`allow` names {_quoted(value)}, which the matrix does not have "
                            f"under `{axis}`"
                        )
        known = {value for axis in AXES for value in self.on(axis)}
        for value in self.status:
            if value not in known:
                raise ValueError(f"`status` names {_quoted(value)}, which the matrix does not have")
        return self


def _quoted(value: str | None) -> str:
    return "no token (null)" if value is None else f"`{value}`"


class PolicyTestFile(Section):
    """A whole test file."""

    api_version: Literal["policy.test/v1"] = Field(description="Version of this format.")
    kind: Literal["PolicyTest"] = Field(description="Kind of document.")
    metadata: TestMetadata = Field(description="Name of the suite.")
    policies: PolicySources = Field(description="What is tested.")
    mesh: MeshSettings = Field(default_factory=MeshSettings, description="As in meshwarden.yaml.")
    mappings: Mappings = Field(default=(), description="As `identity.mappings` in meshwarden.yaml.")
    clock: AwareDatetime = Field(
        default=_DEFAULT_CLOCK, description="The time of every request, with its zone."
    )
    workloads: dict[str, WorkloadFixture] = Field(description="Workloads by name.")
    identities: dict[str, IdentityFixture] = Field(description="Peers by name.")
    tokens: dict[str, TokenFixture] = Field(default_factory=dict, description="Tokens by name.")
    defaults: Defaults = Field(default_factory=Defaults, description="What cases need not repeat.")
    cases: tuple[Case, ...] = Field(default=(), description="The cases.")
    matrices: tuple[Matrix, ...] = Field(
        default=(), description="Products of lists in which all that is not listed is denied."
    )

    @model_validator(mode="after")
    def _tests_something(self) -> PolicyTestFile:
        if not (self.cases or self.matrices):
            raise ValueError("at least one of `cases` and `matrices` must have an entry")
        return self
