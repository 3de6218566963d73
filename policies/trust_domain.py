"""Trust domain aliases: one mesh that has had several names.

Spec: Istio MeshConfig `trustDomainAliases`; only principals of the five-part
form `<td>/ns/<ns>/sa/<sa>` and whole trust domain values are expanded.
"""

from __future__ import annotations

from collections.abc import Sequence

_POINTER = "cluster.local"
_PARTS = 5


def expand_principal(principal: str, trust_domains: Sequence[str]) -> tuple[str, ...]:
    """Return the principals that `principal` stands for in a mesh with these trust domains.

    >>> expand_principal("cluster.local/ns/a/sa/b", ["td1"])
    ('td1/ns/a/sa/b',)
    >>> expand_principal("other/ns/a/sa/b", ["td1", "td2"])
    ('other/ns/a/sa/b',)
    """
    name, *rest = principal.split("/")
    if len(rest) != _PARTS - 1 or name == "*":
        return (principal,)
    # "cluster.local" is a pointer to the mesh's own trust domain, whatever that is called.
    if name != _POINTER and not any(_loosely_equal(name, known) for known in trust_domains):
        return (principal,)
    tail = "/".join(rest)
    expanded: dict[str, None] = {}
    for known in trust_domains:
        is_covered = name.startswith("*") and known.endswith(name[1:])
        expanded[principal if is_covered else f"{known}/{tail}"] = None
    return tuple(expanded)


def expand_trust_domain(value: str, trust_domains: Sequence[str]) -> tuple[str, ...]:
    """Return all trust domains when `value` is one of them, else `value` alone."""
    return tuple(dict.fromkeys(trust_domains)) if value in trust_domains else (value,)


def _loosely_equal(name: str, known: str) -> bool:
    """Whether two trust domain texts, either with one outer `*`, can mean the same."""
    if known in (name, "*"):
        return True
    if name.endswith("*") and known.startswith(name[:-1]):
        return True
    if known.endswith("*") and name.startswith(known[:-1]):
        return True
    if name.startswith("*") and known.endswith(name[1:]):
        return True
    return known.startswith("*") and name.endswith(known[1:])
