"""Istio YAML to resources: all of it or none of it.

`read_resources` takes texts, not paths: reading files is `policies.files`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

from policies.diagnostic import Diagnostic, LoadError, Severity, shown
from policies.documents import YamlList, YamlMap, YamlNode, YamlScalar, iter_documents
from policies.fields import Fields, Findings, kind_of, suggestion
from policies.load_authorization import read_authorization_policy
from policies.load_metadata import read_metadata, resource_name
from policies.load_peer import read_peer_authentication
from policies.load_request import read_request_authentication
from policies.mesh import Mesh
from policies.mesh_traps import warn_of_mesh
from policies.model import Metadata, Resource
from policies.pace import Pace, no_pace, paced

_GROUP = "security.istio.io"
_VERSIONS = ("v1", "v1beta1")
_READERS: dict[str, Callable[[Fields, Metadata], Resource]] = {
    "AuthorizationPolicy": read_authorization_policy,
    "RequestAuthentication": read_request_authentication,
    "PeerAuthentication": read_peer_authentication,
}
_TOP_FIELDS = ("apiVersion", "kind", "metadata", "spec", "status")
_LISTS = frozenset({"List", *(f"{kind}List" for kind in _READERS)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What a set of files holds: the resources in reading order, and the warnings."""

    resources: tuple[Resource, ...]
    warnings: tuple[Diagnostic, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspected:
    """What could be read of a set of files, faulty resources among it, and every finding.

    `nodes` are the nodes and keys of what was read to its end.
    """

    resources: tuple[Resource, ...]
    findings: tuple[Diagnostic, ...]
    nodes: int = 0

    @property
    def has_errors(self) -> bool:
        """Whether anything found refuses the load."""
        return any(found.severity is Severity.ERROR for found in self.findings)


def read_resources(texts: Iterable[tuple[str, str]], mesh: Mesh | None = None) -> Loaded:
    """Return the resources of `(file name, text)` pairs; `mesh` adds the warnings it decides.

    Raises:
        LoadError: any file holds an error; every finding of every file is in it.
    """
    inspected = inspect_resources(texts, mesh)
    if any(found.severity is Severity.ERROR for found in inspected.findings):
        raise LoadError(inspected.findings)
    return Loaded(resources=inspected.resources, warnings=inspected.findings)


def inspect_resources(texts: Iterable[tuple[str, str]], mesh: Mesh | None = None) -> Inspected:
    """Return what `read_resources` reads, also where it would refuse it: for linters only.

    A resource with an error stands here as far as it was understood, so it must decide nothing.
    """
    findings = Findings()
    resources: list[Resource] = []
    with suppress(LoadError):
        for file, text in texts:
            resources += _read_text(file, text, findings)
        _judge_together(resources, mesh, findings)
    return Inspected(resources=tuple(resources), findings=tuple(findings.diagnostics))


def inspect_file(file: str, text: str, first_line: int = 1) -> Inspected:
    """Return what one file holds from a line on, whatever stands in others."""
    findings = Findings()
    resources: list[Resource] = []
    with suppress(LoadError):
        resources += _read_text(file, text, findings, first_line)
    return Inspected(
        resources=tuple(resources), findings=tuple(findings.diagnostics), nodes=findings.nodes
    )


def join_files(files: Iterable[Inspected], mesh: Mesh, pace: Pace = no_pace) -> Loaded:
    """Return what files hold together that were read one by one, as `read_resources` does.

    `pace` is called on the way.

    Raises:
        LoadError: any file holds an error, or two files do not go together.
    """
    findings = Findings()
    resources: list[Resource] = []
    for each in files:
        resources += each.resources
        findings.diagnostics += each.findings
    with suppress(LoadError):
        _judge_together(resources, mesh, findings, pace)
    if findings.has_errors:
        raise LoadError(findings.diagnostics)
    return Loaded(resources=tuple(resources), warnings=tuple(findings.diagnostics))


def _read_text(file: str, text: str, findings: Findings, first_line: int = 1) -> Iterator[Resource]:
    for document in _documents(text, file, findings, first_line):
        for item in _items(document, findings):
            resource = _read_resource(item, findings)
            findings.resource = ""
            if resource is not None:
                yield resource


def _judge_together(
    resources: list[Resource], mesh: Mesh | None, findings: Findings, pace: Pace = no_pace
) -> None:
    """Add what is only wrong of several resources, or under a mesh."""
    _refuse_twins(paced(resources, pace), findings)
    if mesh is not None:
        warn_of_mesh(paced(resources, pace), mesh, findings)


def _documents(text: str, file: str, findings: Findings, first_line: int) -> Iterator[YamlNode]:
    """Yield the documents of a text, up to the first fault in its YAML."""
    try:
        findings.nodes += yield from iter_documents(text, file, first_line)
    except LoadError as exc:
        findings.diagnostics.extend(exc.diagnostics)


def _items(document: YamlNode, findings: Findings) -> Iterator[YamlMap]:
    """Yield the resources of a document: itself, or the items of a `List`."""
    if not isinstance(document, YamlMap):
        findings.error(
            "not-a-resource", f"a resource must be a mapping, not {kind_of(document)}",
            document.location, "write `apiVersion:`, `kind:`, `metadata:` and `spec:`",
        )  # fmt: skip
        return
    node = document.entries.get("kind")
    kind = node.value if isinstance(node, YamlScalar) else None
    # A kind may end so and be no list of resources: `IPAllowList` is one of Traefik's.
    is_list = str(kind).endswith("List") and isinstance(document.entries.get("items"), YamlList)
    if not is_list and kind not in _LISTS:
        yield document
        return
    fields = Fields(document, "", findings, (*_TOP_FIELDS, "items"))
    if "items" not in document.entries and fields.node.entries.keys() <= {*_TOP_FIELDS}:
        fields.error("no-items", f"a `{kind}` without `items`", "items", "write `items: []`")
    for item in fields.items("items"):
        yield from _items(item, findings)


def _read_resource(node: YamlMap, findings: Findings) -> Resource | None:
    """Return the resource of a mapping, or None when it is not ours or not readable."""
    head = Fields(node, "", findings)
    kind, api_version = head.text("kind"), head.text("apiVersion")
    findings.resource = resource_name(kind, head)
    # Without one of the two nobody knows what the author meant, and it may have been a DENY.
    for key in ("apiVersion", "kind"):
        if head.lacks(key):
            head.error(
                "no-kind", f"the resource has no `{key}`", key,
                f"a policy begins with `apiVersion: {_GROUP}/v1` and its `kind`",
            )  # fmt: skip
            return None
    if not (kind and api_version):
        return None
    group, _, version = api_version.rpartition("/")
    if group != _GROUP and kind not in _READERS:
        _judge_stranger(head, kind, api_version)
        return None
    if group != _GROUP or version not in _VERSIONS:
        head.error(
            "unknown-version", f"`{shown(kind)}` of `{shown(api_version)}` is unknown",
            "apiVersion", f"use `{_GROUP}/v1`",
        )  # fmt: skip
        return None
    if kind not in _READERS:
        head.error("unknown-kind", f"unknown kind `{shown(kind)}`", "kind",
                   suggestion(kind, _READERS))  # fmt: skip
        return None
    fields = Fields(node, "", findings, _TOP_FIELDS)
    metadata = read_metadata(fields)
    if metadata is None:
        return None
    return _READERS[kind](fields, metadata)


def _judge_stranger(head: Fields, kind: str, api_version: str) -> None:
    """Refuse what is nearly a policy; leave alone what is something else."""
    group = api_version.rpartition("/")[0]
    near = _near_kind(shown(kind))
    if near and not group:
        head.error(
            "unknown-kind", f"unknown kind `{shown(kind)}` of `{shown(api_version)}`", "kind",
            f"did you mean `{near}` of `{_GROUP}/v1`?",
        )  # fmt: skip
    elif _is_near_group(shown(group)):
        head.error(
            "unknown-group", f"unknown group `{shown(group)}`", "apiVersion",
            f"did you mean `{_GROUP}`?",
        )  # fmt: skip
    else:
        head.warning("not-a-policy", f"`{shown(kind)}` is left alone: not a policy")


# BUDGET: the kinds and groups of a cluster; a folder may hold thousands of resources of each.
@lru_cache(maxsize=256)
def _near_kind(kind: str) -> str:
    return next(iter(difflib.get_close_matches(kind, _READERS, n=1, cutoff=0.85)), "")


@lru_cache(maxsize=256)
def _is_near_group(group: str) -> bool:
    return bool(difflib.get_close_matches(group, [_GROUP], cutoff=0.8))


def _refuse_twins(resources: Iterable[Resource], findings: Findings) -> None:
    """Refuse two resources of one kind, namespace and name: which one counts is a guess."""
    seen: dict[tuple[str, str, str], Resource] = {}
    for resource in resources:
        meta = resource.metadata
        kind = type(resource).__name__
        first = seen.setdefault((kind, meta.namespace, meta.name), resource)
        if first is not resource:
            findings.resource = f"{kind}/{meta.namespace}/{meta.name}"
            findings.error(
                "duplicate-resource",
                f"{kind} `{meta.namespace}/{meta.name}` is defined twice",
                meta.location,
                f"the first one stands at {first.metadata.location}",
            )
