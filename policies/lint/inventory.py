"""What else stands in the same files: namespaces, service accounts and workloads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from policies.diagnostic import LoadError
from policies.documents import YamlMap, iter_documents

_TEMPLATED = frozenset({"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job"})
_OF_INTEREST = ("kind: Namespace", "kind: ServiceAccount", "kind: Pod", "kind: List",
                *(f"kind: {kind}" for kind in sorted(_TEMPLATED)))  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """Empty parts mean that nothing is known, and then nothing is said."""

    namespaces: frozenset[str] = frozenset()
    service_accounts: frozenset[tuple[str, str]] = frozenset()
    workloads: tuple[tuple[str, Mapping[str, str]], ...] = ()


def read_inventory(texts: Iterable[tuple[str, str]]) -> Inventory:
    """Return what `(file name, text)` pairs hold; what is not YAML is somebody else's finding."""
    namespaces: set[str] = set()
    accounts: set[tuple[str, str]] = set()
    workloads: list[tuple[str, Mapping[str, str]]] = []
    for file, text in texts:
        # WHY: most files hold policies only, and parsing them twice is half of the time.
        if not any(mark in text for mark in _OF_INTEREST):
            continue
        for item in _items(file, text):
            kind, meta = item.get("kind"), _map(item.get("metadata"))
            name, namespace = str(meta.get("name", "")), str(meta.get("namespace") or "default")
            if kind == "Namespace":
                namespaces.add(name)
            elif kind == "ServiceAccount":
                accounts.add((namespace, name))
            elif kind == "Pod" or kind in _TEMPLATED:
                workloads.append((namespace, _labels(item, str(kind), meta)))
    return Inventory(
        namespaces=frozenset(namespaces),
        service_accounts=frozenset(accounts),
        workloads=tuple(workloads),
    )


def _items(file: str, text: str) -> Iterator[Mapping[str, Any]]:
    try:
        for document in iter_documents(text, file):
            if isinstance(document, YamlMap):
                plain = document.plain()
                items = plain.get("items")
                yield from map(_map, items) if isinstance(items, list) else (plain,)
    except LoadError:
        return


def _labels(item: Mapping[str, Any], kind: str, meta: Mapping[str, Any]) -> Mapping[str, str]:
    if kind != "Pod":
        meta = _map(_map(_map(item.get("spec")).get("template")).get("metadata"))
    return {str(key): str(value) for key, value in _map(meta.get("labels")).items()}


def _map(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
