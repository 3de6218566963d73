"""A story as a JSON document, for programs; keys in camelCase, places as `file:line`."""

from __future__ import annotations

from typing import Any

from authz.explain.had import NOTHING, what_it_had
from authz.explain.story import PolicyStory, RuleStory, Story
from policies.decision import Decision, RuleRef
from policies.mesh import Mesh

Document = dict[str, Any]
"""A JSON object."""


def to_document(story: Story, mesh: Mesh) -> Document:
    """Return the whole story; `version` changes when a key changes its meaning."""
    return {
        "version": 1,
        "request": _request(story, mesh),
        "decision": _decision(story.decision),
        "mtls": _mtls(story),
        "policies": [_policy(policy) for policy in story.policies],
        "notConsidered": [
            {**_ref(each.ref), "action": str(each.action), "why": each.why}
            for each in story.passed_over
        ],
        "nearMisses": [
            {**_ref(rule.ref), "failing": list(rule.failing)} for rule in story.near_misses
        ],
        "shadow": [
            {
                "policy": verdict.policy,
                "action": verdict.action,
                "outcome": str(verdict.outcome),
                "would": str(verdict.effect),
                "matched": None if verdict.matched is None else verdict.matched.rule,
                "detail": verdict.detail,
            }
            for verdict in story.outcome.shadow
        ],
        "auditedBy": [ref.name for ref in story.decision.audited_by],
    }


def _request(story: Story, mesh: Mesh) -> Document:
    request = story.outcome.request
    workload = request.workload
    claims = request.claims
    return {
        "method": request.method,
        "path": request.path_only,
        "host": request.host,
        "from": None if request.peer is None else request.peer.principal,
        "to": None
        if workload is None
        else {"namespace": workload.namespace, "labels": dict(workload.labels)},
        "port": request.destination_port,
        "sourceAddress": what_it_had("source.ip", request, mesh).replace(NOTHING, ""),
        "requestPrincipal": None if claims is None else claims.request_principal,
    }


def _decision(decision: Decision) -> Document:
    rule = decision.rule
    return {
        "effect": str(decision.effect),
        "status": decision.http_status,
        "layer": str(decision.layer),
        "reason": str(decision.reason),
        "rule": None if rule is None else _ref(rule),
        "detail": decision.detail,
        "nearMiss": decision.near_miss,
    }


def _mtls(story: Story) -> Document | None:
    basis = story.outcome.basis
    if basis is None:
        return None
    requirement, port = basis.policies.peer, story.outcome.request.destination_port
    ref = requirement.ref_for(port)
    return {
        "strict": requirement.is_strict(port),
        "by": None if ref is None else _ref(ref),
        "admitted": requirement.admits(story.outcome.request),
    }


def _policy(policy: PolicyStory) -> Document:
    found: Document = {
        **_ref(policy.ref),
        "action": str(policy.action),
        "why": policy.why,
        "standing": str(policy.standing),
        "rules": [_rule(rule) for rule in policy.rules],
    }
    return {**found, "provider": policy.provider} if policy.provider else found


def _rule(rule: RuleStory) -> Document:
    return {
        "rule": rule.ref.rule,
        "place": rule.ref.place,
        "matches": rule.matches,
        "canMatch": rule.can_match,
        "failing": list(rule.failing),
        "groups": [
            {
                "kind": group.kind,
                "number": group.number,
                "holds": group.holds,
                "clauses": [
                    {
                        "field": clause.spelled,
                        "key": clause.key,
                        "holds": clause.holds,
                        "had": clause.had,
                        "place": clause.place,
                        "values": [
                            {"text": value.text, "negated": value.negated, "fits": value.fits}
                            for value in clause.values
                        ],
                    }
                    for clause in group.clauses
                ],
            }
            for group in rule.groups
        ],
    }


def _ref(ref: RuleRef) -> Document:
    return {"policy": f"{ref.namespace}/{ref.policy}", "rule": ref.rule, "place": ref.place}
