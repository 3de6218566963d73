"""What else stands in the same files: namespaces, service accounts and workloads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from policies.diagnostic import LoadError, Location
from policies.documents import YamlMap, YamlNode, iter_documents
from policies.lint.embedded import Embedded, read_embedded
from policies.lint.nodes import child, items_of, text_of
from policies.request import Workload

_TEMPLATED = frozenset({"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job"})
_KINDS = frozenset({"Namespace", "ServiceAccount", "Pod", "ConfigMap", *_TEMPLATED})
_MARKS = ("kind: List", *(f"kind: {kind}" for kind in sorted(_KINDS)))


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownWorkload:
    """A workload that is written in the files; `location` is where its kind stands."""

    kind: str
    namespace: str
    name: str
    service_account: str
    location: Location
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def resource(self) -> str:
        """`kind/namespace/name`."""
        return f"{self.kind}/{self.namespace}/{self.name}"

    def as_asked(self) -> Workload:
        """Return it as requests name it."""
        return Workload(
            namespace=self.namespace, service_account=self.service_account, labels=self.labels
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """Empty parts mean that nothing is known, and then nothing is said.

    `embedded` are the texts that ConfigMaps hold.
    """

    namespaces: frozenset[str] = frozenset()
    service_accounts: frozenset[tuple[str, str]] = frozenset()
    workloads: tuple[KnownWorkload, ...] = ()
    embedded: tuple[Embedded, ...] = ()


def read_inventory(texts: Iterable[tuple[str, str]]) -> Inventory:
    """Return what `(file name, text)` pairs hold; what is not YAML is somebody else's finding."""
    namespaces: set[str] = set()
    accounts: set[tuple[str, str]] = set()
    workloads: list[KnownWorkload] = []
    embedded: list[Embedded] = []
    for file, text in texts:
        # WHY: most files hold policies only, and parsing them twice is half of the time.
        if not any(mark in text for mark in _MARKS):
            continue
        for item in _items(file, text):
            kind = text_of(item, "kind")
            name = text_of(item, "metadata", "name")
            namespace = text_of(item, "metadata", "namespace") or "default"
            if kind == "Namespace":
                namespaces.add(name)
            elif kind == "ServiceAccount":
                accounts.add((namespace, name))
            elif kind == "ConfigMap":
                embedded.extend(read_embedded(item, text))
            elif kind in _KINDS:
                workloads.append(_workload(item, kind, namespace, name))
    return Inventory(
        namespaces=frozenset(namespaces),
        service_accounts=frozenset(accounts),
        workloads=tuple(workloads),
        embedded=tuple(embedded),
    )


def _items(file: str, text: str) -> Iterator[YamlMap]:
    try:
        for document in iter_documents(text, file):
            if isinstance(document, YamlMap):
                inner = items_of(document, "items") or (document,)
                yield from (each for each in inner if isinstance(each, YamlMap))
    except LoadError:
        return


def _workload(item: YamlMap, kind: str, namespace: str, name: str) -> KnownWorkload:
    pod: YamlNode = item if kind == "Pod" else child(item, "spec", "template")
    labels = child(pod, "metadata", "labels")
    written = labels.entries if isinstance(labels, YamlMap) else {}
    return KnownWorkload(
        kind=kind,
        namespace=namespace,
        name=name,
        # "If no ServiceAccount is named, a pod gets `default`."
        service_account=text_of(pod, "spec", "serviceAccountName") or "default",
        location=item.key_locations["kind"],
        labels={key: str(node.plain()) for key, node in written.items()},
    )
