"""Dry-run verdicts under the metadata keys that Istio's own filters write.

Theory of operation. Istio puts the dry-run policies of an action into the shadow rules of
that action's RBAC filter. Envoy tries them in the byte order of their ids and writes, before
it enforces anything, what it found. A filter that an earlier one kept from being reached
writes nothing.

Spec: Envoy `envoy.extensions.filters.http.rbac.v3.RBAC`, `shadow_rules_stat_prefix`;
Istio, annotation `istio.io/dry-run`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from dryrun.shadow import is_denied_before_rules
from policies.decision import Decision, Layer, RuleRef
from policies.matchers import CompiledPolicy
from policies.model import Action
from policies.request import Request

_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
_PREFIXES = {Action.DENY: "istio_dry_run_deny_", Action.ALLOW: "istio_dry_run_allow_"}
# DENY's filter stands before ALLOW's.
_ORDER = (Action.DENY, Action.ALLOW)


def istio_metadata(
    dry_run: tuple[CompiledPolicy, ...], request: Request, enforced: Decision
) -> Mapping[str, str]:
    """Return the keys of Istio's RBAC filters for the dry-run policies of a workload.

    INVARIANT: never raises for what a policy does.
    """
    if not dry_run or is_denied_before_rules(enforced):
        return _NOTHING
    found: dict[str, str] = {}
    for action in _ORDER:
        own = [policy for policy in dry_run if policy.action is action]
        if own:
            found.update(_keys(action, own, request))
        # "deny the request": the filter chain ends there, and ALLOW's filter sees nothing.
        if action is Action.DENY and not enforced.is_allowed and enforced.layer is Layer.DENY:
            break
    return found


def _keys(action: Action, policies: list[CompiledPolicy], request: Request) -> Mapping[str, str]:
    prefix = _PREFIXES[action]
    try:
        matching = [
            rule_id(rule.ref)
            for policy in policies
            for rule in policy.rules
            if rule.matches(request)
        ]
    except Exception:  # the real answer must survive whatever a shadow does
        return _NOTHING
    # ALLOW: a match lets in. DENY: a match keeps out.
    is_allowed = bool(matching) is (action is Action.ALLOW)
    keys = {f"{prefix}shadow_engine_result": "allowed" if is_allowed else "denied"}
    if matching:
        # "The first matching policy": Envoy keeps them sorted by id.
        keys[f"{prefix}shadow_effective_policy_id"] = min(matching, key=str.encode)
    return keys


def rule_id(rule: RuleRef) -> str:
    """Return the id that Istio gives a rule in its RBAC filters."""
    return f"ns[{rule.namespace}]-policy[{rule.policy}]-rule[{rule.rule}]"
