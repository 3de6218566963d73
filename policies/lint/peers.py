"""Rules about callers' identities where mutual TLS does not stand behind them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from policies.attributes import attribute_for
from policies.diagnostic import shown
from policies.lint.facts import Facts, clauses_of, resource_name, rules_of
from policies.lint.finding import Related, Spot
from policies.lint.registry import rule
from policies.model import (
    Action,
    AuthorizationPolicy,
    Clause,
    PeerAuthentication,
    PeerMode,
    Rule,
)
from policies.request import Workload


def _in_force(
    policy: AuthorizationPolicy, others: Sequence[PeerAuthentication], root: str
) -> PeerAuthentication | None:
    """Return what sets the mode of all that `policy` applies to, or None where that is unsure."""
    near = [each for each in others if each.metadata.namespace == policy.metadata.namespace]
    selecting = [each for each in near if each.attachment.selector]
    same = [each for each in selecting if each.attachment.selector == policy.attachment.selector]
    if len(same) == 1 and len(selecting) == 1:
        return same[0]
    if selecting or policy.attachment.target_refs or policy.metadata.namespace == root:
        return None
    # "Workload, then namespace, then mesh"; UNSET asks the next.
    for namespace in (policy.metadata.namespace, root):
        wide = [
            each
            for each in others
            if each.metadata.namespace == namespace
            and not each.attachment.selector
            and each.mode is not PeerMode.UNSET
        ]
        if wide:
            return wide[0] if len(wide) == 1 else None
    return None


def _identity_clauses(facts: Facts, mode: PeerMode) -> Iterator[
    tuple[AuthorizationPolicy, str, Clause, PeerAuthentication]
]:  # fmt: skip
    """Yield the conditions on identities in policies whose workloads all have that mode."""
    others, root = facts.peer_authentications, facts.mesh.root_namespace
    for policy in facts.policies:
        found = _in_force(policy, others, root)
        if found is None or found.mode is not mode or found.port_modes:
            continue
        for rule_path, each in rules_of(policy):
            for path, clause in clauses_of(each, rule_path):
                attribute = attribute_for(clause.key)
                if attribute is not None and attribute.is_peer:
                    yield policy, path, clause, found


def _spot(
    policy: AuthorizationPolicy, path: str, clause: Clause, by: PeerAuthentication, message: str
) -> Spot:
    return Spot(
        message=message,
        location=clause.location,
        resource=resource_name(policy),
        path=path,
        related=(Related(message="the mode is set here", location=by.metadata.location),),
    )


@rule("MW0601")
def identity_that_may_be_left_out(facts: Facts) -> Iterator[Spot]:
    """A DENY by identity where callers may come without one."""
    guarded = {policy.metadata.namespace for policy in facts.policies if _wants_identity(policy)}
    for policy, path, clause, by in _identity_clauses(facts, PeerMode.PERMISSIVE):
        is_safe = guarded & {policy.metadata.namespace, facts.mesh.root_namespace}
        if policy.action is Action.DENY and clause.values and not is_safe:
            message = (
                f"a caller who comes in plaintext is not met by `{shown(clause.spelled)}`:"
                " mTLS is PERMISSIVE"
            )
            yield _spot(policy, path, clause, by, message)


def _wants_identity(policy: AuthorizationPolicy) -> bool:
    """Whether the policy denies whoever has no identity."""
    return policy.action is Action.DENY and any(
        clause.key == "source.principal" and any(each.text == "*" for each in clause.not_values)
        for path, each_rule in rules_of(policy)
        for _, clause in clauses_of(each_rule, path)
    )


@rule("MW0602")
def identity_that_is_never_there(facts: Facts) -> Iterator[Spot]:
    """A condition on an identity where mTLS is off."""
    for policy, path, clause, by in _identity_clauses(facts, PeerMode.DISABLE):
        message = f"`{shown(clause.spelled)}` is never there: mTLS is DISABLE"
        yield _spot(policy, path, clause, by, message)


@rule("MW0606")
def exception_at_a_guarded_port(facts: Facts) -> Iterator[Spot]:
    """A condition on identities at a port that takes callers without one, by an exception."""
    workloads = [each.as_asked() for each in facts.workloads]
    for resource in facts.peer_authentications:
        for port, mode in sorted(resource.port_modes.items()):
            if mode not in (PeerMode.PERMISSIVE, PeerMode.DISABLE) or mode is resource.mode:
                continue
            near = [policy for policy in facts.policies if _meet(policy, resource, workloads)]
            if any(_wants_identity(policy) for policy in near):
                continue
            for policy in near:
                clause_at = next(_identity_at(policy, port), None)
                if clause_at is not None:
                    path, clause = clause_at
                    message = (
                        f"`{shown(clause.spelled)}` guards port {port}, where mTLS is {mode} by an"
                        " exception: callers may come without an identity"
                    )
                    yield _spot(policy, path, clause, resource, message)


def _meet(
    policy: AuthorizationPolicy, resource: PeerAuthentication, workloads: Sequence[Workload]
) -> bool:
    """Whether both apply to a workload: a known one, or else the one that their labels mean."""
    if policy.metadata.namespace != resource.metadata.namespace or policy.attachment.target_refs:
        return False
    selector = resource.attachment.selector or {}
    own = [each for each in workloads if each.namespace == resource.metadata.namespace]
    meant = Workload(namespace=resource.metadata.namespace, labels=selector)
    return any(
        resource.attachment.selects(each.labels) and policy.attachment.selects(each.labels)
        for each in own or [meant]
    )


def _identity_at(policy: AuthorizationPolicy, port: int) -> Iterator[tuple[str, Clause]]:
    """Yield the conditions on identities in rules that hold at a port."""
    for rule_path, each in rules_of(policy):
        if not _reaches(each, str(port)):
            continue
        for path, clause in clauses_of(each, rule_path):
            attribute = attribute_for(clause.key)
            if attribute is not None and attribute.is_peer:
                yield path, clause


def _reaches(each: Rule, port: str) -> bool:
    """Whether a rule may match at a port."""
    return not each.operations or any(
        all(_takes(clause, port) for clause in group) for group in each.operations
    )


def _takes(clause: Clause, port: str) -> bool:
    if clause.key != "destination.port":
        return True
    is_asked = not clause.values or any(value.text == port for value in clause.values)
    return is_asked and all(value.text != port for value in clause.not_values)
