"""What the rules may look at, each part behind the letter that a rule declares.

A rule gets all of it, and what it asked for is noted: a test holds every rule to the
inputs that the catalogue declares for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from policies.lint.inventory import Inventory
from policies.mesh import Mesh
from policies.model import (
    AuthorizationPolicy,
    Clause,
    PeerAuthentication,
    RequestAuthentication,
    Resource,
    Rule,
    Value,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A value of a rule, with the way to it. `is_negated` marks the `not...` lists."""

    policy: AuthorizationPolicy
    rule: Rule
    clause: Clause
    value: Value
    path: str
    is_negated: bool


@dataclass(slots=True)
class Facts:
    """Everything that was read; `read` collects the letters of what a rule asked for."""

    resources: tuple[Resource, ...]
    known_mesh: Mesh
    known_inventory: Inventory
    read: set[str] = field(default_factory=set)

    @property
    def policies(self) -> tuple[AuthorizationPolicy, ...]:
        """R: the AuthorizationPolicies, for rules that judge each alone."""
        self.read.add("R")
        return tuple(each for each in self.resources if isinstance(each, AuthorizationPolicy))

    @property
    def others(self) -> tuple[AuthorizationPolicy, ...]:
        """P: the AuthorizationPolicies, for rules that hold them against each other."""
        self.read.add("P")
        return tuple(each for each in self.resources if isinstance(each, AuthorizationPolicy))

    @property
    def request_authentications(self) -> tuple[RequestAuthentication, ...]:
        """J: the RequestAuthentications."""
        self.read.add("J")
        return tuple(each for each in self.resources if isinstance(each, RequestAuthentication))

    @property
    def peer_authentications(self) -> tuple[PeerAuthentication, ...]:
        """A: the PeerAuthentications."""
        self.read.add("A")
        return tuple(each for each in self.resources if isinstance(each, PeerAuthentication))

    @property
    def mesh(self) -> Mesh:
        """M: the mesh settings."""
        self.read.add("M")
        return self.known_mesh

    @property
    def workloads(self) -> tuple[tuple[str, Mapping[str, str]], ...]:
        """W: namespace and labels of every workload."""
        self.read.add("W")
        return self.known_inventory.workloads

    @property
    def namespaces(self) -> frozenset[str]:
        """N: the names of the namespaces."""
        self.read.add("N")
        return self.known_inventory.namespaces

    @property
    def service_accounts(self) -> frozenset[tuple[str, str]]:
        """N: namespace and name of every service account."""
        self.read.add("N")
        return self.known_inventory.service_accounts

    def values(self, *keys: str) -> Iterator[Written]:
        """Yield every value that is tested on one of the attribute keys."""
        for policy in self.policies:
            for rule_path, rule in rules_of(policy):
                for path, clause in clauses_of(rule, rule_path):
                    if clause.key in keys:
                        yield from _values_of(policy, rule, clause, path)


def resource_name(resource: Resource) -> str:
    """Return `kind/namespace/name`."""
    meta = resource.metadata
    return f"{type(resource).__name__}/{meta.namespace}/{meta.name}"


def rules_of(policy: AuthorizationPolicy) -> Iterator[tuple[str, Rule]]:
    """Yield each rule with its path."""
    for index, rule in enumerate(policy.rules):
        yield f"spec.rules[{index}]", rule


def clauses_of(rule: Rule, path: str) -> Iterator[tuple[str, Clause]]:
    """Yield each clause with the path of the mapping it stands in."""
    for index, source in enumerate(rule.sources):
        for clause in source:
            yield f"{path}.from[{index}].source", clause
    for index, operation in enumerate(rule.operations):
        for clause in operation:
            yield f"{path}.to[{index}].operation", clause
    for index, clause in enumerate(rule.when):
        yield f"{path}.when[{index}]", clause


def _values_of(
    policy: AuthorizationPolicy, rule: Rule, clause: Clause, path: str
) -> Iterator[Written]:
    # The fields of `from` and `to` have names; a `when` entry is spelled as its key.
    is_field = ".when[" not in path
    name = clause.spelled if is_field else "values"
    negated = f"not{name[0].upper()}{name[1:]}"
    for field_name, values in ((name, clause.values), (negated, clause.not_values)):
        for index, value in enumerate(values):
            yield Written(
                policy=policy,
                rule=rule,
                clause=clause,
                value=value,
                path=f"{path}.{field_name}[{index}]",
                is_negated=field_name == negated,
            )
