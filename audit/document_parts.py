"""The parts of a written record, schema version 1."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

STRICT = ConfigDict(extra="forbid")
"""No field that is not named."""
Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Time = Annotated[
    str,
    Field(
        pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$",
        description="RFC 3339, UTC, always with microseconds: texts sort as times do",
    ),
]
Count = Annotated[int, Field(ge=0)]


@with_config(STRICT)
class MappedPart(TypedDict):
    """The words of policies for a workload that is not of Kubernetes."""

    mapping: str
    namespace: str
    service_account: str
    labels: dict[str, str]


@with_config(STRICT)
class PeerPart(TypedDict):
    """The peer, and what proves it; `mapped` is what a mapping made of a name not of Kubernetes."""

    principal: str
    spiffe_id: str | None
    proof: NotRequired[str]
    mapped: NotRequired[MappedPart]


@with_config(STRICT)
class SubjectPart(TypedDict):
    """The subject of a verified token, with the selected claims."""

    issuer: str | None
    sub: str | None
    claims: dict[str, Any]


@with_config(STRICT)
class DestinationPart(TypedDict):
    """The workload that was asked about."""

    namespace: str
    service_account: str
    labels: dict[str, str]
    port: int


@with_config(STRICT)
class SourcePart(TypedDict):
    """Where the connection came from."""

    address: str


@with_config(STRICT)
class RequestPart(TypedDict):
    """The request; secrets in `path` and `headers` are masked."""

    id: str
    method: str
    host: str
    path: str
    protocol: str
    headers: dict[str, list[str]]
    size: Annotated[int, Field(ge=-1, description="bytes seen by Envoy; -1: unknown")]


@with_config(STRICT)
class DecisionPart(TypedDict):
    """The answer and its cause."""

    effect: Literal["allow", "deny"]
    reason: str
    layer: str
    http_status: int
    policy: Annotated[str | None, Field(description="namespace/name of the deciding policy")]
    rule: Annotated[int | None, Field(description="index in the policy's rules, from 0")]
    place: Annotated[str, Field(description="file:line of the deciding rule, or empty")]
    detail: str
    near_miss: Annotated[str, Field(description="what nearly allowed, and what was missing")]


@with_config(STRICT)
class FailedOpenPart(TypedDict):
    """A provider that gave no verdict and was passed all the same."""

    provider: str
    reason: str
    error: str


@with_config(STRICT)
class ShadowPart(TypedDict):
    """What a policy that is not enforced would have answered."""

    policy: Annotated[
        str,
        Field(description="namespace/name; `together`: every dry-run policy; `candidate`: the set"),
    ]
    action: str
    matched: str | None
    effect: str
    outcome: str
    detail: str
    would: NotRequired[Annotated[DecisionPart, Field(description="the answer, where it differs")]]
    revision: NotRequired[Annotated[str, Field(description="digest of the candidate set")]]
    rules: NotRequired[Annotated[int, Field(description="how many rules the policy has")]]
