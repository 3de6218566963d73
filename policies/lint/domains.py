"""Rules about whose identities are believed: trust domains, and what the CA can issue."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from identity.peer import KubernetesIdentity, Peer
from policies.decision import Effect
from policies.diagnostic import shown
from policies.lint.facts import Facts, resource_name, rules_of
from policies.lint.finding import Spot
from policies.lint.registry import rule
from policies.lint.spots import spot_at
from policies.lint.witness import home_of, witnesses
from policies.mesh import MeshMode
from policies.model import Action, Clause, Rule

# "`cluster.local` is a pointer to the local trust domain."
_LOCAL: Final = "cluster.local"
_BLIND: Final = frozenset({"source.namespace", "source.serviceAccount"})
_SEEING: Final = frozenset({"source.principal", "source.trustDomain"})
_WORKLOAD: Final = re.compile(r"[^/*]+(/[^/*]+)+")


@rule("MW0607")
def domain_nobody_believes(facts: Facts) -> Iterator[Spot]:
    """A trust domain that is neither the mesh's, nor an alias, nor federated."""
    federated, own = facts.federated, facts.mesh.trust_domains
    if federated is None:
        return
    known = sorted({*own, _LOCAL, *federated})
    for each in facts.values("source.principal", "source.trustDomain"):
        domain = each.value.text.partition("/")[0].removeprefix("spiffe://")
        if domain and "*" not in domain and domain not in known:
            guess = difflib.get_close_matches(domain[:200], known, n=1)
            yield spot_at(each, f"nobody of the trust domain `{shown(domain)}` is believed here",
                        f"did you mean `{shown(guess[0])}`?" if guess else "")  # fmt: skip


@rule("MW0608")
def stands_for_the_domain(facts: Facts) -> Iterator[Spot]:
    """`cluster.local` in a mesh of another name: Istio reads it as that, others do not."""
    own = facts.mesh.trust_domain
    for each in facts.values("source.principal"):
        text = each.value.text
        if own != _LOCAL and text.startswith(f"{_LOCAL}/"):
            yield spot_at(each, f"`{shown(text)}` is read as of `{shown(own)}`, by Istio alone",
                        f"write `{shown(own)}{shown(text.removeprefix(_LOCAL))}`")  # fmt: skip


@rule("MW0609")
def blind_to_domains(facts: Facts) -> Iterator[Spot]:
    """An ALLOW by namespace or account in a federated mesh: any trust domain's will do."""
    mesh = facts.mesh
    domains = sorted(set(facts.federated or ()) - set(mesh.trust_domains))
    if not domains or mesh.mode is MeshMode.ZTUNNEL:
        return
    for policy in facts.policies:
        if policy.action is not Action.ALLOW:
            continue
        for path, each in rules_of(policy):
            for index, source in enumerate(each.sources):
                blind = _blind_clause(source, each)
                if blind is None:
                    continue
                alone = replace(each, sources=(source,))
                for request in witnesses(policy, alone, mesh, home_of(policy), most=1):
                    who = KubernetesIdentity.of(request.peer.spiffe_id if request.peer else None)
                    if who is None:
                        continue
                    name = f"{domains[0]}/ns/{who.namespace}/sa/{who.service_account}"
                    foreign = replace(request, peer=Peer.from_principal(f"spiffe://{name}"))
                    yield Spot(
                        message=f"`{shown(name)}` is let in as well:"
                        f" `{shown(blind.spelled)}` does not look at the trust domain",
                        location=blind.location,
                        resource=resource_name(policy),
                        path=f"{path}.from[{index}].source",
                        claims=(facts.claim(foreign, Effect.ALLOW, (policy,)),),
                    )


def _blind_clause(source: tuple[Clause, ...], whole: Rule) -> Clause | None:
    """Return what asks for a name in any trust domain, where nothing else asks for the domain."""
    clauses = [clause for clause in (*source, *whole.when) if clause.values]
    if any(clause.key in _SEEING and not _is_open(clause) for clause in clauses):
        return None
    named = [clause for clause in clauses if clause.key in _BLIND or _is_open(clause)]
    return next((clause for clause in named if clause in source), None)


def _is_open(clause: Clause) -> bool:
    """Whether a condition on principals leaves the trust domain open, and names a namespace."""
    return clause.key == "source.principal" and any(
        value.text.startswith("*/") for value in clause.values
    )


@rule("MW0610")
def identity_nobody_gets(facts: Facts) -> Iterator[Spot]:
    """A workload's name in the CA's own trust domain that no registration of it gives out."""
    authority = facts.authority
    if authority is None:
        return
    for each in facts.values("source.principal"):
        text = each.value.text
        domain, _, path = text.partition("/")
        if domain == _LOCAL:
            domain = authority.trust_domain
        is_local = domain == authority.trust_domain and _WORKLOAD.fullmatch(text) is not None
        if is_local and not authority.can_issue(f"spiffe://{domain}/{path}"):
            yield spot_at(each, f"no registration of the CA gives out `{shown(text)}`")
