"""The verdict on a request, and the seams through which verdicts come.

A Decision is built by the code that decided and carries its cause; nothing is
reconstructed later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Protocol

from policies.request import Request


class Effect(StrEnum):
    """The verdict itself."""

    ALLOW = "allow"
    DENY = "deny"


class Layer(StrEnum):
    """Which part of the walk decided."""

    REQUEST = "request"
    PEER_AUTHENTICATION = "peer_authentication"
    REQUEST_AUTHENTICATION = "request_authentication"
    CUSTOM = "CUSTOM"
    DENY = "DENY"
    ALLOW = "ALLOW"
    DEFAULT = "default"
    INTERNAL = "internal"


class Reason(StrEnum):
    """Why; stable codes for records, metrics and tests."""

    ALLOW_RULE_MATCHED = "allow_rule_matched"
    NO_ALLOW_POLICY = "no_allow_policy"
    NO_ALLOW_RULE_MATCHED = "no_allow_rule_matched"
    DENY_RULE_MATCHED = "deny_rule_matched"
    CUSTOM_ALLOWED = "custom_allowed"
    CUSTOM_DENIED = "custom_denied"
    PROVIDER_UNKNOWN = "provider_unknown"
    PROVIDER_ERROR = "provider_error"
    PROVIDER_TIMEOUT = "provider_timeout"
    SEVERAL_PROVIDERS = "several_providers"
    TOKEN_INVALID = "token_invalid"  # noqa: S105 - a reason code, no secret
    PEER_REQUIRED = "peer_required"
    PEER_CERTIFICATE_UNREADABLE = "peer_certificate_unreadable"
    PEER_CERTIFICATE_MISMATCH = "peer_certificate_mismatch"
    PEER_CERTIFICATE_UNTRUSTED = "peer_certificate_untrusted"
    PEER_FORWARDED_INVALID = "peer_forwarded_invalid"
    PEER_DENIED = "peer_denied"
    XFCC_INVALID = "xfcc_invalid"
    WORKLOAD_UNKNOWN = "workload_unknown"
    REQUEST_MALFORMED = "request_malformed"
    AUDIT_UNAVAILABLE = "audit_unavailable"
    INTERNAL_ERROR = "internal_error"


NO_NAMESPACE: Final = "nothing names the namespace of the workload that is asked about"
"""The detail of `workload_unknown` where it is not even known which policies could apply."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleRef:
    """The rule that decided, and where its text stands.

    `rule` is the index in `spec.rules`; None means the policy as a whole
    (an empty ALLOW, a RequestAuthentication, a PeerAuthentication).
    """

    namespace: str
    policy: str
    rule: int | None = None
    file: str = ""
    line: int = 0

    @property
    def name(self) -> str:
        """`namespace/policy#rule`, the short form people read."""
        suffix = "" if self.rule is None else f"#{self.rule}"
        return f"{self.namespace}/{self.policy}{suffix}"

    @property
    def place(self) -> str:
        """`file:line`, or empty when unknown."""
        return f"{self.file}:{self.line}" if self.file else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutations:
    """What else the answer does to the request or the response.

    Every `set_*` overwrites; names are lower case. `append_request_headers` are added to
    what is there. They, `set_request_headers` and `remove_request_headers` act on the
    upstream request of an allowed request, `set_response_headers` on what the client gets
    (allowed or denied; several entries of one name are sent as several headers).
    """

    set_request_headers: tuple[tuple[str, str], ...] = ()
    append_request_headers: tuple[tuple[str, str], ...] = ()
    remove_request_headers: tuple[str, ...] = ()
    set_response_headers: tuple[tuple[str, str], ...] = ()
    set_query_parameters: tuple[tuple[str, str], ...] = ()
    remove_query_parameters: tuple[str, ...] = ()
    dynamic_metadata: Mapping[str, Any] = field(default_factory=dict)


NO_MUTATIONS: Final = Mutations()
"""Nothing is done; the one object that policies' own decisions have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderVerdict:
    """What a CUSTOM provider answered. `detail` is for the record, `body` for the client."""

    effect: Effect
    http_status: int = 403
    body: str = ""
    detail: str = ""
    mutations: Mutations = field(default_factory=Mutations)


class ProviderError(Exception):
    """A provider could not answer; the message is for the record, never for the client."""

    reason = Reason.PROVIDER_ERROR


class ProviderTimeout(ProviderError):
    """A provider did not answer within its time."""

    reason = Reason.PROVIDER_TIMEOUT


class UnfitRequest(ProviderError):
    """A provider cannot be asked about this request, whatever its own state.

    INVARIANT: a denial, also where the provider fails open; else clients could choose
    to be let in.
    """


class Provider(Protocol):
    """The back end of CUSTOM policies: one method, safe to call from many threads."""

    def evaluate(
        self,
        request: Request,
        seconds: float | None = None,
        istio: Callable[[], Decision] | None = None,
        /,
    ) -> ProviderVerdict:
        """Return the verdict.

        `seconds` is what is left of the caller's time, None when nobody waits. `istio`
        returns what token, DENY and ALLOW policies say of the request; it is worked out
        when called.

        Raises:
            ProviderTimeout: there was none within its time.
            ProviderError: no verdict could be had; the caller denies.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedOpen:
    """A provider that gave no verdict, and whose operator wants the request let past it then."""

    provider: str
    reason: Reason
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The answer to one request, with its cause.

    `detail` is one clause for people and the record. `near_miss` says, when no
    ALLOW rule matched, which rule came closest and the one condition that failed.
    `audited_by` are the AUDIT rules that matched, `failed_open` the providers that
    were passed without a verdict.
    """

    effect: Effect
    reason: Reason
    layer: Layer
    rule: RuleRef | None = None
    detail: str = ""
    near_miss: str = ""
    http_status: int = 200
    body: str = ""
    audited_by: tuple[RuleRef, ...] = ()
    failed_open: tuple[FailedOpen, ...] = ()
    mutations: Mutations = NO_MUTATIONS

    @property
    def is_allowed(self) -> bool:
        """Whether the request may pass."""
        return self.effect is Effect.ALLOW


class ShadowOutcome(StrEnum):
    """How a policy that is not enforced would have changed the answer."""

    SAME = "same"
    WOULD_DENY = "would_deny"
    WOULD_ALLOW = "would_allow"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowVerdict:
    """What one dry-run policy, or a set of policies, would have answered.

    `policy` is `namespace/name`; the name of a set has no `/`. `would` is the whole answer
    where it is another than the enforced one. `revision` is that of a candidate set, `rules`
    the number of a policy's rules.
    """

    policy: str
    action: str
    matched: RuleRef | None
    effect: Effect
    outcome: ShadowOutcome
    detail: str = ""
    would: Decision | None = None
    revision: str = ""
    rules: int = 0
