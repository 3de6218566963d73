"""What the rules may look at, each part behind the letter that a rule declares.

A rule gets all of it, and what it asked for is noted: a test holds every rule to the
inputs that the catalogue declares for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from policies.attachment import is_attached
from policies.decision import Decision, Effect, Layer
from policies.diagnostic import Location
from policies.lint.claims import Claim, Judge
from policies.lint.embedded import Embedded
from policies.lint.inventory import Inventory, KnownWorkload
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
from policies.request import Request, Workload

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A value of a rule, with the way to it. `is_negated` marks the `not...` lists."""

    policy: AuthorizationPolicy
    rule: Rule
    clause: Clause
    value: Value
    path: str
    is_negated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrypoint:
    """A Rego rule that is asked for decisions, as a path; by which provider, named where.

    `is_named` is false for the rule that is asked where nobody names one.
    """

    rule: str
    provider: str = ""
    location: Location | None = None
    is_named: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """The companion CA: its trust domain, and whether it can issue a SPIFFE ID to anybody."""

    trust_domain: str
    can_issue: Callable[[str], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """All that was read beside the resources. None: nothing is known of it.

    `federated` are the foreign trust domains that are believed, `before` the resources
    of the revision that the policies are held against.
    """

    mesh: Mesh
    judge: Judge
    inventory: Inventory = Inventory()
    rego: tuple[Embedded, ...] = ()
    entrypoints: tuple[Entrypoint, ...] = ()
    federated: frozenset[str] | None = None
    authority: Authority | None = None
    before: tuple[Resource, ...] | None = None


@dataclass(slots=True)
class Facts:
    """Everything that was read; `read` collects the letters of what a rule asked for."""

    resources: tuple[Resource, ...]
    known: Known
    read: set[str] = field(default_factory=set)
    _made: dict[str, tuple[Any, frozenset[str]]] = field(default_factory=dict)

    def once(self, name: str, make: Callable[[], Made]) -> Made:
        """Return what `make` makes, made once for all rules that ask by the same name.

        Each of them has read what it was made of.
        """
        if name not in self._made:
            asked, self.read = self.read, set()
            try:
                self._made[name] = (make(), frozenset(self.read))
            finally:
                self.read = asked
        made: Made
        made, letters = self._made[name]
        self.read |= letters
        return made

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
        return self.known.mesh

    @property
    def workloads(self) -> tuple[KnownWorkload, ...]:
        """W: every workload that is written in the files."""
        self.read.add("W")
        return self.known.inventory.workloads

    @property
    def namespaces(self) -> frozenset[str]:
        """N: the names of the namespaces."""
        self.read.add("N")
        return self.known.inventory.namespaces

    @property
    def service_accounts(self) -> frozenset[tuple[str, str]]:
        """N: namespace and name of every service account."""
        self.read.add("N")
        return self.known.inventory.service_accounts

    @property
    def federated(self) -> frozenset[str] | None:
        """C: the foreign trust domains that are believed."""
        self.read.add("C")
        return self.known.federated

    @property
    def authority(self) -> Authority | None:
        """C: the companion CA."""
        self.read.add("C")
        return self.known.authority

    @property
    def before(self) -> tuple[Resource, ...] | None:
        """H: the resources of the revision before."""
        self.read.add("H")
        return self.known.before

    @property
    def rego(self) -> tuple[Embedded, ...]:
        """G: the Rego modules."""
        self.read.add("G")
        return self.known.rego

    @property
    def entrypoints(self) -> tuple[Entrypoint, ...]:
        """M: the Rego rules that providers ask, or the one that is asked where none is named."""
        self.read.add("M")
        return self.known.entrypoints

    def ask(self, request: Request, resources: tuple[Resource, ...] | None = None) -> Decision:
        """E: the evaluator's answer to a request, under all resources unless some are given."""
        self.read.add("E")
        return self.known.judge(self._under(resources), self.known.mesh, request)

    def claim(
        self,
        request: Request,
        effect: Effect,
        resources: tuple[Resource, ...] | None = None,
        layer: Layer | None = None,
    ) -> Claim:
        """E: what the evaluator has to confirm, under all resources unless some are given."""
        self.read.add("E")
        return Claim(request=request, resources=self._under(resources), effect=effect, layer=layer)

    def _under(self, resources: tuple[Resource, ...] | None) -> tuple[Resource, ...]:
        return self.resources if resources is None else resources

    def values(self, *keys: str) -> Iterator[Written]:
        """Yield every value that is tested on one of the attribute keys."""
        written = self.once("written", self._written)
        for key in keys:
            yield from written.get(key, ())

    def every_value(self) -> Iterator[Written]:
        """Yield every value of every condition."""
        for written in self.once("written", self._written).values():
            yield from written

    def _written(self) -> dict[str, list[Written]]:
        found: dict[str, list[Written]] = {}
        for policy in self.policies:
            for rule_path, rule in rules_of(policy):
                for path, clause in clauses_of(rule, rule_path):
                    found.setdefault(clause.key, []).extend(_values_of(policy, rule, clause, path))
        return found


class Attached:
    """Policies by namespace, to find those that apply to a workload."""

    def __init__(self, policies: Iterable[AuthorizationPolicy], mesh: Mesh) -> None:
        """Sort them once."""
        self._mesh = mesh
        self._by_namespace: dict[str, list[AuthorizationPolicy]] = {}
        for policy in policies:
            self._by_namespace.setdefault(policy.metadata.namespace, []).append(policy)

    def to(self, workload: Workload) -> list[AuthorizationPolicy]:
        """Return the policies that apply to a workload, those that are not enforced as well."""
        return [
            policy
            for namespace in dict.fromkeys((workload.namespace, self._mesh.root_namespace))
            for policy in self._by_namespace.get(namespace, ())
            if is_attached(policy.metadata, policy.attachment, workload, self._mesh)
        ]


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
