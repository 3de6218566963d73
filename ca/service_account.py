"""Kubernetes service-account tokens: verified as JWTs by the issuer's own keys, bound to us.

The cluster's API is not asked: a projected token says itself for whom it is (`aud`), until when,
and for which pod. What a deleted pod's token could still do is bounded by its `exp`.

Spec: Kubernetes "Service Account Tokens", bound tokens; RFC 7519 §4.1, §7.2.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ca.caller import Caller, Method
from ca.clock import Clock
from ca.errors import AttestationError
from ca.refusal import Refusal
from identity.jwks import JwkSet
from identity.jwt_rule import JwtRule
from identity.jwt_verify import TokenRefusal, verify_token
from identity.token_status import TokenStatus

_SUBJECT: Final = re.compile(
    r"system:serviceaccount:(?P<ns>[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)"
    r":(?P<sa>[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?)",
    re.ASCII,
)
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,253}", re.ASCII)
_KUBERNETES: Final = "kubernetes.io"
# BUDGET: a bound token lives an hour, at most a day where the kubelet rotates it.
_MAX_TOKEN_SECONDS: Final = 86_400 + 3_600


@dataclass(frozen=True, slots=True)
class ServiceAccountToken:
    """The evidence: a bearer token as it was shown."""

    text: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterRule:
    """One cluster: its name here, and its issuer with the audiences that mean us."""

    cluster: str
    rule: JwtRule


class ServiceAccountAttestor:
    """Proves which service account shows a token."""

    def __init__(
        self,
        clusters: Sequence[ClusterRule],
        keys: Callable[[JwtRule], JwkSet | None],
        clock: Clock,
        *,
        hasten: Callable[[JwtRule], bool] = lambda _: False,
    ) -> None:
        """Verify by `keys` (`identity.jwks_cache`); `hasten` fetches them anew when one is new.

        Raises:
            ValueError: a cluster has no issuer or no audience: its tokens would be anyone's.
        """
        for each in clusters:
            if not each.rule.issuer or not each.rule.audiences:
                raise ValueError(f"cluster `{each.cluster}` needs an issuer and an audience")
        self._clusters = tuple(clusters)
        self._keys = keys
        self._hasten = hasten
        self._clock = clock

    def __call__(self, evidence: ServiceAccountToken) -> Caller:
        """Return the caller; may wait for a new key of the issuer, no longer than `hasten` does.

        Raises:
            AttestationError: no cluster's rule believes the token.
        """
        now = self._clock().timestamp()
        refusals: list[TokenRefusal] = []
        for each in self._clusters:
            verdict = self._verify(evidence.text, each.rule, now)
            if not isinstance(verdict, TokenRefusal):
                return _caller(each.cluster, verdict.payload, now)
            refusals.append(verdict)
        raise _refused(refusals)

    def _verify(self, text: str, rule: JwtRule, now: float) -> Any:
        """Return the verdict under one rule, looking for new keys once."""
        verdict = verify_token(text, rule, lambda: self._keys(rule), now)
        is_new_key = isinstance(verdict, TokenRefusal) and verdict.status in (
            TokenStatus.KEY_MISMATCH,
            TokenStatus.BAD_SIGNATURE,
        )
        if is_new_key and self._hasten(rule):
            return verify_token(text, rule, lambda: self._keys(rule), now)
        return verdict


def _refused(refusals: Sequence[TokenRefusal]) -> AttestationError:
    """Return the error for a token that no rule believes: what its own issuer's rule said."""
    own = [each for each in refusals if each.status is not TokenStatus.UNKNOWN_ISSUER]
    if not own:
        return AttestationError(
            "the token is of no issuer that is known here", reason=Refusal.TOKEN_UNKNOWN
        )
    is_over = own[0].status is TokenStatus.EXPIRED
    reason = Refusal.TOKEN_EXPIRED if is_over else Refusal.TOKEN_INVALID
    return AttestationError(f"the token is not believed: {own[0].detail}", reason=reason)


def _caller(cluster: str, payload: Mapping[str, Any], now: float) -> Caller:
    """Return whom a verified token names."""
    subject = _SUBJECT.fullmatch(str(payload.get("sub", "")))
    if subject is None:
        raise _invalid("`sub` is not a service account")
    # RFC 7519 §4.1.4 leaves `exp` to the issuer: a token without it would be a key for ever.
    expires = payload.get("exp")
    if not isinstance(expires, int | float) or expires - now > _MAX_TOKEN_SECONDS:
        raise _invalid("the token does not end within a day")
    bound = payload.get(_KUBERNETES, {})
    if not isinstance(bound, Mapping) or bound.get("namespace") != subject["ns"]:
        raise _invalid("the token's `kubernetes.io` part does not agree with its `sub`")
    selectors = {
        f"k8s:cluster:{cluster}",
        f"k8s:ns:{subject['ns']}",
        f"k8s:sa:{subject['sa']}",
    }
    evidence = {"cluster": cluster, "subject": subject[0], "token_id": str(payload.get("jti", ""))}
    for part, kind in (("pod", "pod"), ("node", "node")):
        for name in ("name", "uid"):
            value = _member(bound, part, name)
            if value:
                selectors.add(f"k8s:{kind}-{name}:{value}")
                evidence[f"{kind}_{name}"] = value
    return Caller(
        method=Method.K8S_SERVICE_ACCOUNT, selectors=frozenset(selectors), evidence=evidence
    )


def _member(bound: Mapping[str, Any], part: str, name: str) -> str:
    """Return `bound[part][name]` where it is a plain name, else nothing."""
    inner = bound.get(part)
    value = inner.get(name) if isinstance(inner, Mapping) else None
    return value if isinstance(value, str) and _NAME.fullmatch(value) else ""


def _invalid(message: str) -> AttestationError:
    """Return the error for a token that is genuine and not of the right kind."""
    return AttestationError(message, reason=Refusal.TOKEN_INVALID)
