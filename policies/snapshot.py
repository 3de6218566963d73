"""The immutable index of a loaded policy set: which policies apply to a workload.

A reload builds a new snapshot and swaps one reference; a decision reads it once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from identity.jwt_rule import JwtRule
from policies.collection import collection_paused
from policies.decision import RuleRef
from policies.diagnostic import Diagnostic
from policies.index import PolicyIndex
from policies.load import read_resources
from policies.matchers import CompiledPolicy, compile_policy
from policies.mesh import Mesh
from policies.model import (
    Action,
    Attachment,
    AuthorizationPolicy,
    Metadata,
    PeerAuthentication,
    PeerMode,
    RequestAuthentication,
)
from policies.request import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerRequirement:
    """The resolved mTLS mode of a workload; `ref` is the PeerAuthentication that set it."""

    mode: PeerMode = PeerMode.PERMISSIVE
    port_modes: Mapping[int, PeerMode] = field(default_factory=dict)
    ref: RuleRef | None = None

    def is_strict(self, port: int) -> bool:
        """Whether a request to this workload port must come over mTLS."""
        mode = self.port_modes.get(port, PeerMode.UNSET)
        return (self.mode if mode is PeerMode.UNSET else mode) is PeerMode.STRICT


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadPolicies:
    """All that applies to one workload, sorted by what it does.

    `custom` maps provider names, in byte order, to the policies that name them.
    """

    custom: Mapping[str, PolicyIndex] = field(default_factory=dict)
    deny: PolicyIndex = field(default_factory=PolicyIndex)
    allow: PolicyIndex = field(default_factory=PolicyIndex)
    audit: PolicyIndex = field(default_factory=PolicyIndex)
    dry_run: tuple[CompiledPolicy, ...] = ()
    jwt_rules: tuple[JwtRule, ...] = ()
    peer: PeerRequirement = field(default_factory=PeerRequirement)

    def with_enforced(self, policy: CompiledPolicy) -> WorkloadPolicies:
        """Return these policies with one dry-run policy enforced as well."""
        if policy.action is Action.DENY:
            return replace(self, deny=self.deny.with_policy(policy))
        return replace(self, allow=self.allow.with_policy(policy))


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A policy set: `revision` is the SHA-256 of the texts and settings it was built from."""

    mesh: Mesh
    policies: tuple[tuple[AuthorizationPolicy, CompiledPolicy], ...] = ()
    request_authentications: tuple[RequestAuthentication, ...] = ()
    peer_authentications: tuple[PeerAuthentication, ...] = ()
    revision: str = ""
    warnings: tuple[Diagnostic, ...] = ()

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

    def select(self, workload: Workload) -> WorkloadPolicies:
        """Return what applies to a workload."""
        found = [
            compiled
            for policy, compiled in self.policies
            if self._applies(policy.metadata, policy.attachment, workload)
        ]
        enforced = [policy for policy in found if not policy.dry_run]
        custom: dict[str, tuple[CompiledPolicy, ...]] = {}
        for policy in sorted(_with_action(enforced, Action.CUSTOM), key=lambda p: p.provider):
            custom[policy.provider] = (*custom.get(policy.provider, ()), policy)

        def indexed(policies: Iterable[CompiledPolicy]) -> PolicyIndex:
            return PolicyIndex(policies, self.mesh)

        return WorkloadPolicies(
            custom=MappingProxyType({name: indexed(named) for name, named in custom.items()}),
            deny=indexed(_with_action(enforced, Action.DENY)),
            allow=indexed(_with_action(enforced, Action.ALLOW)),
            audit=indexed(_with_action(enforced, Action.AUDIT)),
            dry_run=tuple(policy for policy in found if policy.dry_run),
            jwt_rules=self._jwt_rules(workload),
            peer=self._peer_requirement(workload),
        )

    def _applies(self, metadata: Metadata, attachment: Attachment, workload: Workload) -> bool:
        # "If the root namespace is set to the config's namespace, the policy applies to all
        # namespaces in a mesh"; a policy with targetRefs never applies to a sidecar.
        in_scope = metadata.namespace in (self.mesh.root_namespace, workload.namespace)
        return in_scope and not attachment.target_refs and attachment.selects(workload.labels)

    def _jwt_rules(self, workload: Workload) -> tuple[JwtRule, ...]:
        # All attached RequestAuthentications contribute; rules are tried in issuer order.
        rules = [
            rule
            for found in self.request_authentications
            if self._applies(found.metadata, found.attachment, workload)
            for rule in found.jwt_rules
        ]
        return tuple(sorted(rules, key=lambda rule: rule.issuer))

    def _peer_requirement(self, workload: Workload) -> PeerRequirement:
        """Resolve the mode: workload over namespace over mesh over PERMISSIVE."""
        levels = [self._oldest(level) for level in self._peer_levels(workload)]
        chosen = levels[0]
        for found in levels:
            if found is not None and found.mode is not PeerMode.UNSET:
                return PeerRequirement(
                    mode=found.mode,
                    port_modes=chosen.port_modes if chosen else {},
                    ref=found.metadata.ref(),
                )
        return PeerRequirement(
            port_modes=chosen.port_modes if chosen else {},
            ref=chosen.metadata.ref() if chosen else None,
        )

    def _peer_levels(self, workload: Workload) -> tuple[list[PeerAuthentication], ...]:
        """Return the candidates at workload, namespace and mesh level."""
        own: list[PeerAuthentication] = []
        namespace: list[PeerAuthentication] = []
        mesh: list[PeerAuthentication] = []
        root = self.mesh.root_namespace
        for found in self.peer_authentications:
            selector, home = found.attachment.selector, found.metadata.namespace
            if selector:
                # "Selector policies in the root namespace are ignored."
                is_own = home == workload.namespace != root
                if is_own and found.attachment.selects(workload.labels):
                    own.append(found)
            elif home == root:
                mesh.append(found)
            elif home == workload.namespace:
                namespace.append(found)
        return own, namespace, mesh

    @staticmethod
    def _oldest(level: list[PeerAuthentication]) -> PeerAuthentication | None:
        """Return the one that counts: the oldest, then by name."""
        order = sorted(
            level, key=lambda p: (p.metadata.created_at, p.metadata.name, p.metadata.namespace)
        )
        return order[0] if order else None


def build_snapshot(texts: Iterable[tuple[str, str]], mesh: Mesh) -> Snapshot:
    """Return the snapshot of `(file name, text)` pairs.

    Raises:
        LoadError: anything in any text is an error; nothing is loaded.
    """
    with collection_paused():
        return _build(list(texts), mesh)


def _build(pairs: list[tuple[str, str]], mesh: Mesh) -> Snapshot:
    loaded = read_resources(pairs)
    policies = [found for found in loaded.resources if isinstance(found, AuthorizationPolicy)]
    policies.sort(key=lambda policy: (policy.metadata.namespace, policy.metadata.name))
    return Snapshot(
        mesh=mesh,
        policies=tuple((policy, compile_policy(policy, mesh)) for policy in policies),
        request_authentications=tuple(
            found for found in loaded.resources if isinstance(found, RequestAuthentication)
        ),
        peer_authentications=tuple(
            found for found in loaded.resources if isinstance(found, PeerAuthentication)
        ),
        revision=_digest(pairs, mesh),
        warnings=loaded.warnings,
    )


def _with_action(policies: list[CompiledPolicy], action: Action) -> tuple[CompiledPolicy, ...]:
    return tuple(policy for policy in policies if policy.action is action)


def _digest(texts: list[tuple[str, str]], mesh: Mesh) -> str:
    """Return the revision: file names do not count, what they hold does."""
    total = hashlib.sha256(repr(mesh).encode())
    for digest in sorted(hashlib.sha256(text.encode()).hexdigest() for _, text in texts):
        total.update(digest.encode())
    return total.hexdigest()
