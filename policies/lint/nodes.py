"""Lenient reading of YAML trees that are not policies: what is not there is empty."""

from __future__ import annotations

from typing import Final

from policies.diagnostic import Location
from policies.documents import YamlList, YamlMap, YamlNode, YamlScalar

ABSENT: Final[YamlNode] = YamlMap({}, {}, Location(""))
"""Stands for a node that is not there."""


def child(node: YamlNode, *keys: str) -> YamlNode:
    """Return the node at a way of keys, or ABSENT."""
    for key in keys:
        node = node.entries.get(key, ABSENT) if isinstance(node, YamlMap) else ABSENT
    return node


def text_of(node: YamlNode, *keys: str) -> str:
    """Return the text at a way of keys, or an empty one."""
    found = child(node, *keys)
    return found.value if isinstance(found, YamlScalar) and isinstance(found.value, str) else ""


def items_of(node: YamlNode, *keys: str) -> tuple[YamlNode, ...]:
    """Return the items of the list at a way of keys, or none."""
    found = child(node, *keys)
    return found.items if isinstance(found, YamlList) else ()
