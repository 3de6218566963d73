"""Rules about what policies reach: workloads, namespaces, accounts, and their mTLS."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator

from policies.diagnostic import shown
from policies.lint.facts import Facts, Written, resource_name
from policies.lint.finding import Related, Spot
from policies.lint.registry import rule
from policies.lint.spots import spot_at
from policies.model import PeerAuthentication, PeerMode

_ACCOUNT = re.compile(r"[^/*]+/ns/([^/*]+)/sa/([^/*]+)")


def _guess(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name[:63], sorted(known), n=1)
    return f"did you mean `{shown(near[0])}`?" if near else ""


@rule("MW0401")
def selects_nothing(facts: Facts) -> Iterator[Spot]:
    """A selector that fits none of the workloads that are known in its namespace."""
    workloads, root = facts.workloads, facts.mesh.root_namespace
    for policy in facts.policies:
        namespace, selector = policy.metadata.namespace, policy.attachment.selector
        reach = [each.labels for each in workloads if namespace in (each.namespace, root)]
        if not selector or not reach or any(map(policy.attachment.selects, reach)):
            continue
        key, value = next(iter(selector.items()))
        yield Spot(
            message=f"no workload in these files has the labels that start with"
            f" `{shown(key)}: {shown(value)}`",
            location=policy.metadata.location,
            resource=resource_name(policy),
            path="spec.selector",
            help=_guess(value, {labels[key] for labels in reach if key in labels}),
        )


@rule("MW0402")
def unknown_namespace(facts: Facts) -> Iterator[Spot]:
    """A namespace that the files which define namespaces do not have."""
    known = facts.namespaces
    for each in facts.values("source.namespace"):
        text = each.value.text
        pattern = re.compile(".*".join(map(re.escape, text.split("*"))))
        if known and not any(map(pattern.fullmatch, known)):
            yield spot_at(each, f"no namespace `{shown(text)}` is defined in these files",
                          _guess(text, known))  # fmt: skip


@rule("MW0403")
def unknown_account(facts: Facts) -> Iterator[Spot]:
    """A service account that its namespace, whose accounts are known, does not have."""
    known = facts.service_accounts
    namespaces = {namespace for namespace, _ in known}
    for each in facts.values("source.principal", "source.serviceAccount"):
        account = _account(each)
        # Every namespace has an account `default` without anybody writing it.
        if account is None or account in known or account[1] == "default":
            continue
        if account[0] in namespaces:
            names = {name for namespace, name in known if namespace == account[0]}
            yield spot_at(each, f"the namespace `{shown(account[0])}` has no service account"
                          f" `{shown(account[1])}`", _guess(account[1], names))  # fmt: skip


def _account(written: Written) -> tuple[str, str] | None:
    text = written.value.text
    if written.clause.key == "source.serviceAccount":
        namespace, slash, name = text.partition("/")
        return (namespace, name) if slash else (written.policy.metadata.namespace, text)
    found = _ACCOUNT.fullmatch(text)
    return (found[1], found[2]) if found else None


@rule("MW0603")
def permissive_default(facts: Facts) -> Iterator[Spot]:
    """A namespace or mesh whose workloads take plaintext unless told otherwise."""
    for resource in facts.peer_authentications:
        if not resource.attachment.selector and resource.mode is PeerMode.PERMISSIVE:
            yield Spot(
                message="PERMISSIVE takes plaintext, from callers without an identity",
                location=resource.metadata.location,
                resource=resource_name(resource),
                path="spec.mtls.mode",
            )


@rule("MW0604")
def rival_peer_authentications(facts: Facts) -> Iterator[Spot]:
    """Several PeerAuthentications of one scope: the oldest counts."""
    seen: dict[tuple[str, frozenset[tuple[str, str]]], PeerAuthentication] = {}
    for resource in facts.peer_authentications:
        labels = frozenset((resource.attachment.selector or {}).items())
        first = seen.setdefault((resource.metadata.namespace, labels), resource)
        if first is not resource and first.metadata.name != resource.metadata.name:
            yield Spot(
                message=f"`{shown(first.metadata.name)}` has the same scope, and only the older"
                " of the two counts",
                location=resource.metadata.location,
                resource=resource_name(resource),
                path="spec.selector",
                related=(Related(message="the other one", location=first.metadata.location),),
            )
