"""Istio's security resources as values, checked, with the place of every piece.

Every condition of a rule, whether it was written as a field of `from`/`to` or
as a `when` entry, is a Clause over one attribute key: the fields are short
spellings of the keys (Istio AuthorizationPolicy reference, "Condition").
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Self, TypeVar

from identity.jwt_rule import JwtRule
from policies.decision import RuleRef
from policies.diagnostic import Location


class Action(StrEnum):
    """`spec.action` of an AuthorizationPolicy; wire spelling."""

    ALLOW = "ALLOW"
    DENY = "DENY"
    AUDIT = "AUDIT"
    CUSTOM = "CUSTOM"


class Value(tuple[str, str, int, int]):
    """One text of a list, with its place: one tuple, because a large set has so many of them."""

    __slots__ = ()

    def __new__(cls, text: str, location: Location) -> Self:
        """Return the text at its place."""
        return tuple.__new__(cls, (text, *location))

    def __getnewargs__(self) -> tuple[str, Location]:
        """Return what a copy is made of."""
        return self.text, self.location

    def __repr__(self) -> str:
        """Return how it is made."""
        return f"Value(text={self.text!r}, location={self.location!r})"

    @property
    def text(self) -> str:
        """The text."""
        return self[0]

    @property
    def location(self) -> Location:
        """Where it stands."""
        return Location(*self[1:])


@dataclass(frozen=True, slots=True, kw_only=True)
class Clause:
    """Conditions on one attribute: OR over `values`, NOT OR over `not_values`, both AND-ed.

    `key` is the attribute's `when` spelling (`source.principal`,
    `request.headers[x]`); hosts, methods and paths, which have no such key, use
    `operation.hosts` and so on. `spelled` is the name the author used.
    """

    key: str
    spelled: str
    values: tuple[Value, ...] = ()
    not_values: tuple[Value, ...] = ()
    location: Location


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule: any of `sources` AND any of `operations` AND all of `when`."""

    sources: tuple[tuple[Clause, ...], ...] = ()
    operations: tuple[tuple[Clause, ...], ...] = ()
    when: tuple[Clause, ...] = ()
    location: Location


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """What identifies a resource. `created_at` is the RFC 3339 text, empty when absent."""

    namespace: str
    name: str
    annotations: Mapping[str, str] = field(default_factory=dict)
    created_at: str = ""
    location: Location

    def ref(self, rule: int | None = None, line: int = 0) -> RuleRef:
        """Return a reference to this resource or to one of its rules."""
        return RuleRef(
            namespace=self.namespace,
            policy=self.name,
            rule=rule,
            file=self.location.file,
            line=line or self.location.line,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """What a resource applies to. `selector` is None when absent; `target_refs` are kept whole."""

    selector: Mapping[str, str] | None = None
    target_refs: tuple[Mapping[str, str], ...] = ()

    def selects(self, labels: Mapping[str, str]) -> bool:
        """Whether the selector is absent or a subset of `labels` (exact comparison)."""
        return self.selector is None or all(
            labels.get(key) == value for key, value in self.selector.items()
        )


_Item = TypeVar("_Item")


def same_or_new(old: tuple[_Item, ...], new: Sequence[_Item]) -> tuple[_Item, ...]:
    """Return the old tuple where the new items are the very same objects, else one of them."""
    is_same = len(old) == len(new) and all(map(operator.is_, old, new))
    return old if is_same else tuple(new)


# BUDGET: distinct selectors of a set; what is beyond is not shared, and the same all the same.
@lru_cache(maxsize=4096)
def selecting(labels: tuple[tuple[str, str], ...] | None) -> Attachment:
    """Return the attachment of a selector without targets: one for all that have the same."""
    return Attachment(selector=None if labels is None else dict(labels))


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationPolicy:
    """`security.istio.io` AuthorizationPolicy."""

    metadata: Metadata
    attachment: Attachment
    action: Action
    rules: tuple[Rule, ...] = ()
    provider: str = ""
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestAuthentication:
    """`security.istio.io` RequestAuthentication."""

    metadata: Metadata
    attachment: Attachment
    jwt_rules: tuple[JwtRule, ...] = ()


class PeerMode(StrEnum):
    """`mtls.mode` of a PeerAuthentication; wire spelling."""

    UNSET = "UNSET"
    DISABLE = "DISABLE"
    PERMISSIVE = "PERMISSIVE"
    STRICT = "STRICT"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerAuthentication:
    """`security.istio.io` PeerAuthentication. Port keys are workload (container) ports."""

    metadata: Metadata
    attachment: Attachment
    mode: PeerMode = PeerMode.UNSET
    port_modes: Mapping[int, PeerMode] = field(default_factory=dict)


Resource = AuthorizationPolicy | RequestAuthentication | PeerAuthentication
"""Any resource this engine reads."""
