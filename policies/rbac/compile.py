"""From the policies of a workload to its filters, in the order in which Envoy runs them.

Spec: Istio, order of evaluation: CUSTOM before the verification of tokens, then
AUDIT, DENY and ALLOW; each stage exists when a policy of its action is attached.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from policies.attachment import is_attached
from policies.mesh import Mesh, MeshMode
from policies.model import Action, AuthorizationPolicy
from policies.rbac.attributes import Scope
from policies.rbac.errors import UnsupportedModeError
from policies.rbac.filters import (
    EXT_AUTHZ_PREFIX,
    dry_run_prefix,
    rbac_filter,
    rbac_rules,
)
from policies.rbac.providers import POLICY_PREFIX, find_provider, provider_filter
from policies.rbac.rules import Reading, match_never, translate_rule
from policies.rbac.text import Json
from policies.request import Workload

_BAD_CUSTOM_SUFFIX = "-deny-due-to-bad-CUSTOM-action"


def compile_filters(
    policies: Iterable[AuthorizationPolicy],
    workload: Workload,
    mesh: Mesh,
    *,
    tcp: bool,
    many_providers: bool = False,
) -> list[Json]:
    """Return the filters that Istio's control plane would send for a workload.

    `tcp` asks for the network filters of a TCP chain. `many_providers` is
    istiod's `PILOT_ENABLE_MULTIPLE_CUSTOM_AUTHZ_PROVIDERS`: without it, policies
    of more than one CUSTOM provider deny what they match.

    Raises:
        UnsupportedModeError: the mesh's mode is ztunnel, which takes no Envoy filters.
    """
    if mesh.mode is MeshMode.ZTUNNEL:
        raise UnsupportedModeError("ztunnel takes no Envoy filters: it reads the policies itself")
    attached = [
        policy
        for policy in policies
        if is_attached(policy.metadata, policy.attachment, workload, mesh)
    ]
    custom = [policy for policy in attached if policy.action is Action.CUSTOM]
    filters = _custom_filters(custom, mesh, tcp=tcp, many_providers=many_providers)
    for action in (Action.AUDIT, Action.DENY, Action.ALLOW):
        chosen = [policy for policy in attached if policy.action is action]
        if chosen:
            filters.append(_enforcing_filter(action, chosen, mesh, tcp=tcp))
    return filters


def _enforcing_filter(
    action: Action, policies: Sequence[AuthorizationPolicy], mesh: Mesh, *, tcp: bool
) -> Json:
    """Return the one RBAC filter of an action: enforced rules, and dry-run ones as shadow."""
    enforced = [policy for policy in policies if not policy.dry_run]
    shadowed = [policy for policy in policies if policy.dry_run]
    return rbac_filter(
        rules=_rules(action, enforced, mesh, tcp=tcp) if enforced else None,
        shadow=_rules(action, shadowed, mesh, tcp=tcp) if shadowed else None,
        prefix=dry_run_prefix(action, bool(shadowed)),
        tcp=tcp,
    )


def _custom_filters(
    policies: Sequence[AuthorizationPolicy], mesh: Mesh, *, tcp: bool, many_providers: bool
) -> list[Json]:
    """Return, for every provider in byte order, its trigger and the filter that asks it."""
    # WHY left out: a dry-run CUSTOM policy is refused at load, and what the control plane makes
    # of one that slips through enforces a denial that nobody wrote.
    enforced = [policy for policy in policies if not policy.dry_run]
    names = sorted({policy.provider for policy in enforced}, key=str.encode)
    is_one_too_many = len(names) > 1 and not many_providers
    filters: list[Json] = []
    for name in names:
        own = [policy for policy in enforced if policy.provider == name]
        provider = None if is_one_too_many else find_provider(mesh.extension_providers, name)
        if provider is None:
            # "Every CUSTOM rule naming an unusable provider becomes an enforced DENY."
            rules = _rules(Action.CUSTOM, own, mesh, tcp=tcp, suffix=_BAD_CUSTOM_SUFFIX)
            filters.append(rbac_filter(rules=rules, tcp=tcp))
            continue
        asking = provider_filter(provider, tcp=tcp)
        if asking is not None:
            shadow = _rules(Action.CUSTOM, own, mesh, tcp=tcp)
            filters += [rbac_filter(shadow=shadow, prefix=EXT_AUTHZ_PREFIX, tcp=tcp), asking]
    return filters


def _rules(
    action: Action,
    policies: Iterable[AuthorizationPolicy],
    mesh: Mesh,
    *,
    tcp: bool,
    suffix: str = "",
) -> Json:
    translated: dict[str, Json] = {}
    for policy in policies:
        scope = Scope(mesh=mesh, namespace=policy.metadata.namespace)
        reading = Reading(scope=scope, action=action, tcp=tcp)
        if not policy.rules:
            translated[_rule_id(policy, 0) + suffix] = match_never()
        for index, rule in enumerate(policy.rules):
            found = translate_rule(rule, reading)
            if found is not None:
                translated[_rule_id(policy, index) + suffix] = found
    return rbac_rules(action, translated)


def _rule_id(policy: AuthorizationPolicy, index: int) -> str:
    meta = policy.metadata
    name = f"ns[{meta.namespace}]-policy[{meta.name}]-rule[{index}]"
    if policy.action is not Action.CUSTOM:
        return name
    provider = f"{policy.provider}-" if policy.provider else ""
    return f"{POLICY_PREFIX}-{provider}{name}"
