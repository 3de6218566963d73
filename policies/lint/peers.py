"""Rules about callers' identities where mutual TLS does not stand behind them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from policies.attributes import attribute_for
from policies.diagnostic import shown
from policies.lint.facts import Facts, clauses_of, resource_name, rules_of
from policies.lint.finding import Related, Spot
from policies.lint.registry import rule
from policies.model import Action, AuthorizationPolicy, Clause, PeerAuthentication, PeerMode


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
