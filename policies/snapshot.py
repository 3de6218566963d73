"""The immutable index of a loaded policy set: which policies apply to a workload.

A reload builds a new snapshot and swaps one reference; a decision reads it once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field, replace
from types import MappingProxyType

from identity.jwt_rule import JwtRule
from policies.attached import AttachedPolicies
from policies.attachment import (
    GATEWAY_NAME_LABEL,
    hangs_on_labels,
    is_attached,
    names_service,
)
from policies.collection import collection_paused
from policies.columns import Column, column_for
from policies.decision import RuleRef
from policies.diagnostic import Diagnostic
from policies.index import PolicyIndex
from policies.load import join_files
from policies.matchers import CompiledPolicy, compile_policy
from policies.mesh import Mesh, MeshMode
from policies.model import (
    Action,
    Attachment,
    AuthorizationPolicy,
    PeerAuthentication,
    RequestAuthentication,
    Resource,
    selecting,
)
from policies.needs import PolicyNeeds, issuer_digests, needs_of, rules_digest
from policies.pace import Pace, no_pace, paced
from policies.peer_requirement import PeerRequirement, resolve_peer_requirement
from policies.request import Workload
from policies.set_memory import SetMemory


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadPolicies:
    """All that applies to one workload, sorted by what it does.

    `custom` maps provider names, in byte order, to the policies that name them.
    `token_digest` is that of `jwt_rules`, `issuer_digests` hold that of each issuer's only
    rule. `needs` are those of the whole set.
    """

    custom: Mapping[str, PolicyIndex] = field(default_factory=dict)
    deny: PolicyIndex = field(default_factory=PolicyIndex)
    allow: PolicyIndex = field(default_factory=PolicyIndex)
    audit: PolicyIndex = field(default_factory=PolicyIndex)
    dry_run: tuple[CompiledPolicy, ...] = ()
    jwt_rules: tuple[JwtRule, ...] = ()
    peer: PeerRequirement = field(default_factory=PeerRequirement)
    token_digest: str = ""
    issuer_digests: Mapping[str, str] = field(default_factory=dict)
    needs: PolicyNeeds = PolicyNeeds()

    def indexes(self) -> tuple[PolicyIndex, ...]:
        """Return the enforced and the audited policies as they are filed."""
        return (*self.custom.values(), self.deny, self.allow, self.audit)

    def with_enforced(self, policy: CompiledPolicy) -> WorkloadPolicies:
        """Return these policies with one dry-run policy enforced as well."""
        if policy.action is Action.DENY:
            return replace(self, deny=self.deny.with_policy(policy))
        return replace(self, allow=self.allow.with_policy(policy))

    def with_all_enforced(self) -> WorkloadPolicies:
        """Return these policies with every dry-run policy enforced as well."""
        promoted = self
        for policy in self.dry_run:
            promoted = promoted.with_enforced(policy)
        return promoted


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A policy set: `revision` is the SHA-256 of the texts and settings it was built from."""

    mesh: Mesh
    policies: tuple[tuple[AuthorizationPolicy, CompiledPolicy], ...] = ()
    request_authentications: tuple[RequestAuthentication, ...] = ()
    peer_authentications: tuple[PeerAuthentication, ...] = ()
    revision: str = ""
    warnings: tuple[Diagnostic, ...] = ()
    needs_service: bool = field(init=False)
    """Whether a request must say which service it is for: to a waypoint, some policies ask."""
    needs: PolicyNeeds = field(init=False)
    """What the conditions of the policies look at."""
    label_homes: frozenset[str] = field(init=False)
    """The namespaces of policies that apply to workloads by their labels."""
    _attached: AttachedPolicies = field(init=False, repr=False, compare=False)
    pace: InitVar[Pace] = no_pace

    def __post_init__(self, pace: Pace) -> None:
        """Find out once what each decision asks."""
        policies = [policy for policy, _ in self.policies]
        told = self._attached_by_what_is_told(paced(policies, pace))
        asks = self.mesh.mode is MeshMode.WAYPOINT and any(names_service(each) for _, each in told)
        object.__setattr__(self, "needs_service", asks)
        homes = frozenset(home for home, each in told if hangs_on_labels(each, self.mesh))
        object.__setattr__(self, "label_homes", homes)
        object.__setattr__(self, "needs", needs_of(paced(policies, pace)))
        attached = AttachedPolicies(policies, pace)
        object.__setattr__(self, "_attached", attached)

    @property
    def jwt_rules(self) -> tuple[JwtRule, ...]:
        """Every token rule of the set, for key fetching."""
        return tuple(rule for found in self.request_authentications for rule in found.jwt_rules)

    @property
    def providers(self) -> Mapping[str, RuleRef]:
        """The provider names that CUSTOM policies use, each with one place that uses it."""
        return {
            policy.provider: policy.metadata.ref() for policy, _ in self.policies if policy.provider
        }

    def select(
        self,
        workload: Workload,
        *,
        is_http: bool = True,
        pace: Pace = no_pace,
        before: WorkloadPolicies | None = None,
    ) -> WorkloadPolicies:
        """Return what applies to a workload, in the reading of HTTP requests or of connections.

        What another set sorted for the same workload `before` is taken where it is still the same.
        """
        column = column_for(self.mesh, is_http=is_http)
        attached = (self.policies[number] for number in self._attached.find(workload, self.mesh))
        found = [
            compiled if column is not Column.TCP else compile_policy(policy, self.mesh, column)
            for policy, compiled in attached
            if self._is_enforceable(policy, column)
        ]
        enforced = [policy for policy in found if not policy.dry_run]

        sorted_before = before.indexes() if before is not None else ()

        def indexed(policies: Sequence[CompiledPolicy]) -> PolicyIndex:
            for each in sorted_before:
                if each.holds(policies, self.mesh):
                    return each
            return PolicyIndex(policies, self.mesh, pace)

        # "JWT is for HTTP": a connection has no token, and ztunnel looks at none.
        jwt_rules = self._jwt_rules(workload) if column is Column.HTTP else ()
        return WorkloadPolicies(
            custom=MappingProxyType(
                {name: indexed(named) for name, named in _by_provider(enforced).items()}
            ),
            deny=indexed(_with_action(enforced, Action.DENY)),
            allow=indexed(_with_action(enforced, Action.ALLOW)),
            audit=indexed(_with_action(enforced, Action.AUDIT)),
            dry_run=tuple(policy for policy in found if policy.dry_run),
            jwt_rules=jwt_rules,
            peer=resolve_peer_requirement(self.peer_authentications, workload, self.mesh),
            token_digest=rules_digest(jwt_rules),
            issuer_digests=issuer_digests(jwt_rules),
            needs=self.needs,
        )

    def lacks_labels(self, workload: Workload) -> bool:
        """Whether policies may apply to a workload by labels that nobody told.

        WHY asked: a policy that is not known to apply would count as one that does not, a DENY too.
        """
        if self.mesh.mode is MeshMode.WAYPOINT:
            # Istio gives every waypoint this label: one that is not there was not told.
            return workload.namespace in self.label_homes and (
                GATEWAY_NAME_LABEL not in workload.labels
            )
        homes = (workload.namespace, self.mesh.root_namespace)
        return not workload.has_told_labels and not self.label_homes.isdisjoint(homes)

    def _attached_by_what_is_told(
        self, policies: Iterable[AuthorizationPolicy]
    ) -> list[tuple[str, Attachment]]:
        """Return namespace and attachment of everything that decides."""
        # WHY not all: what never blocks must not do so by what is not known of a workload.
        found = [
            (policy.metadata.namespace, policy.attachment)
            for policy in policies
            if not policy.dry_run and policy.action is not Action.AUDIT
        ]
        found += [
            (each.metadata.namespace, each.attachment) for each in self.request_authentications
        ]
        # "Selector policies in the root namespace are ignored."
        if self.mesh.mode in (MeshMode.SIDECAR, MeshMode.ZTUNNEL):
            found += [
                (each.metadata.namespace, each.attachment)
                for each in self.peer_authentications
                if each.metadata.namespace != self.mesh.root_namespace
            ]
        return found

    def _is_enforceable(self, policy: AuthorizationPolicy, column: Column) -> bool:
        if column is Column.L4:
            # "ztunnel does not support the AUDIT and CUSTOM actions."
            return policy.action in (Action.ALLOW, Action.DENY)
        # "An HTTP provider on a TCP chain: CUSTOM is ignored there."
        is_for_http_only = policy.action is Action.CUSTOM and any(
            provider.name == policy.provider and provider.kind == "envoyExtAuthzHttp"
            for provider in self.mesh.extension_providers
        )
        return not (is_for_http_only and column is Column.TCP)

    def _jwt_rules(self, workload: Workload) -> tuple[JwtRule, ...]:
        # All attached RequestAuthentications contribute; rules are tried in issuer order.
        rules = [
            rule
            for found in self.request_authentications
            if is_attached(found.metadata, found.attachment, workload, self.mesh)
            for rule in found.jwt_rules
        ]
        return tuple(sorted(rules, key=lambda rule: rule.issuer))


def build_snapshot(
    texts: Iterable[tuple[str, str]],
    mesh: Mesh,
    *,
    memory: SetMemory | None = None,
    pace: Pace = no_pace,
) -> Snapshot:
    """Return the snapshot of `(file name, text)` pairs.

    `memory` has what an earlier build made of the same files; `pace` is called on the way.

    Raises:
        LoadError: anything in any text is an error; nothing is loaded.
    """
    pairs = list(texts)
    remembered = memory or SetMemory()
    # WHY: what a set shares with the one before keeps that one's memory from being given back.
    selecting.cache_clear()
    with collection_paused(collects_first=True):
        loaded = join_files(remembered.files(pairs, pace), mesh, pace)
        revision = _digest(pairs, mesh)
        return _assemble(loaded.resources, mesh, revision, loaded.warnings, remembered, pace)


def snapshot_of(
    resources: Iterable[Resource],
    mesh: Mesh,
    revision: str = "",
    warnings: tuple[Diagnostic, ...] = (),
) -> Snapshot:
    """Return the snapshot of resources that were read already."""
    return _assemble(resources, mesh, revision, warnings, SetMemory(), no_pace)


def _assemble(
    resources: Iterable[Resource],
    mesh: Mesh,
    revision: str,
    warnings: tuple[Diagnostic, ...],
    memory: SetMemory,
    pace: Pace,
) -> Snapshot:
    found = list(resources)
    policies = [each for each in found if isinstance(each, AuthorizationPolicy)]
    policies.sort(key=lambda policy: (policy.metadata.namespace, policy.metadata.name))
    return Snapshot(
        mesh=mesh,
        policies=tuple(memory.compiled(policies, mesh, pace)),
        request_authentications=tuple(
            each for each in found if isinstance(each, RequestAuthentication)
        ),
        peer_authentications=tuple(each for each in found if isinstance(each, PeerAuthentication)),
        revision=revision,
        warnings=warnings,
        pace=pace,
    )


def _by_provider(policies: list[CompiledPolicy]) -> dict[str, tuple[CompiledPolicy, ...]]:
    """Return the CUSTOM policies under the name of their provider, names in byte order."""
    custom: dict[str, tuple[CompiledPolicy, ...]] = {}
    for policy in sorted(_with_action(policies, Action.CUSTOM), key=lambda each: each.provider):
        custom[policy.provider] = (*custom.get(policy.provider, ()), policy)
    return custom


def _with_action(policies: list[CompiledPolicy], action: Action) -> tuple[CompiledPolicy, ...]:
    return tuple(policy for policy in policies if policy.action is action)


def _digest(texts: list[tuple[str, str]], mesh: Mesh) -> str:
    """Return the revision: file names do not count, what they hold does."""
    total = hashlib.sha256(repr(mesh).encode())
    for digest in sorted(hashlib.sha256(text.encode()).hexdigest() for _, text in texts):
        total.update(digest.encode())
    return total.hexdigest()
