"""The policies of a set, filed by what they are attached to.

Theory of operation. Policies of one namespace with the same attachment apply to the same
workloads, so one of them is tried for all. Those with a selector are filed under one of its
labels, the one that fewest others ask for, and are tried only for workloads that have it.

INVARIANT: a policy that applies to a workload is found, in the order of the set.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

from policies.attachment import is_attached
from policies.mesh import Mesh
from policies.model import Attachment, AuthorizationPolicy, Metadata
from policies.pace import Pace, no_pace, paced
from policies.request import Workload

_Label = tuple[str, str]


class _Group(NamedTuple):
    """Policies that stand and fall together: what the first one says, the numbers of all."""

    metadata: Metadata
    attachment: Attachment
    numbers: list[int]


class AttachedPolicies:
    """Finds the policies that apply to a workload. Immutable."""

    __slots__ = ("_anywhere", "_by_label")

    def __init__(self, policies: Sequence[AuthorizationPolicy] = (), pace: Pace = no_pace) -> None:
        """File the policies; their numbers count from 0 in this order. `pace` is called between."""
        groups = _grouped(paced(policies, pace))
        asked = Counter(label for group in groups for label in _labels(group))
        self._anywhere: list[_Group] = []
        self._by_label: dict[_Label, list[_Group]] = {}
        for group in groups:
            rarest = min(_labels(group), key=asked.__getitem__, default=None)
            if rarest is None:
                self._anywhere.append(group)
            else:
                self._by_label.setdefault(rarest, []).append(group)

    def find(self, workload: Workload, mesh: Mesh) -> list[int]:
        """Return the numbers of the policies that apply to a workload, ascending."""
        tried = list(self._anywhere)
        for label in workload.labels.items():
            tried += self._by_label.get(label, ())
        return sorted(
            number
            for group in tried
            if is_attached(group.metadata, group.attachment, workload, mesh)
            for number in group.numbers
        )


def _grouped(policies: Iterable[AuthorizationPolicy]) -> list[_Group]:
    groups: dict[Hashable, _Group] = {}
    for number, policy in enumerate(policies):
        found = policy.attachment
        key = (
            policy.metadata.namespace,
            None if found.selector is None else frozenset(found.selector.items()),
            tuple(frozenset(ref.items()) for ref in found.target_refs),
        )
        group = groups.get(key)
        if group is None:
            group = groups[key] = _Group(policy.metadata, found, [])
        group.numbers.append(number)
    return list(groups.values())


def _labels(group: _Group) -> Sequence[_Label]:
    """Return the labels without each of which the group applies nowhere."""
    # What a policy with targets makes of its selector hangs on the proxy.
    if group.attachment.target_refs or not group.attachment.selector:
        return ()
    return tuple(group.attachment.selector.items())
