"""`.manifest`: what a bundle says of itself, and what it may bring.

Spec: OPA, "Bundles", section "Bundle File Format".
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from opa_bridge.bundle_json import read_json
from opa_bridge.errors import PolicyBundleError
from policies.diagnostic import shown

MANIFEST: Final = ".manifest"
_KNOWN: Final = ("revision", "roots", "wasm", "rego_version", "file_rego_versions", "metadata")
_REGO_V1: Final = 1

Root = tuple[str, ...]
"""A path below `data` that a bundle owns; the empty one is all of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a bundle says of itself. `roots` never overlap; without a manifest it owns all.

    `unknown` are keys that mean nothing, with the known one that is nearest.
    """

    revision: str = ""
    roots: tuple[Root, ...] = ((),)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    unknown: tuple[tuple[str, str], ...] = ()

    def owns(self, path: Sequence[str]) -> bool:
        """Return whether a path below `data` lies in one of the roots."""
        return any(tuple(path[: len(root)]) == root for root in self.roots)

    def leads_to_root(self, path: Sequence[str]) -> bool:
        """Return whether a root lies below a path."""
        return any(root[: len(path)] == tuple(path) for root in self.roots)


def read_manifest(raw: bytes) -> Manifest:
    """Return the manifest that the file spells.

    Raises:
        PolicyBundleError: it has another shape, or asks for what is not done here.
    """
    found = read_json(raw, MANIFEST)
    if not isinstance(found, dict):
        raise _refused("is not an object")
    _check_versions(found)
    if found.get("wasm"):
        help_ = "build it with `opa build` for the target `rego`, which is the default"
        raise _refused("names wasm modules, which are not run here", help_)
    revision, metadata = found.get("revision", ""), found.get("metadata")
    if not isinstance(revision, str):
        raise _refused("has a `revision` that is no text")
    if metadata is not None and not isinstance(metadata, dict):
        raise _refused("has `metadata` that are no object")
    return Manifest(
        revision=revision,
        roots=_read_roots(found.get("roots")),
        metadata=metadata or {},
        unknown=tuple((shown(key), _nearest(key)) for key in found if key not in _KNOWN),
    )


def overlap(ours: Manifest, theirs: Manifest) -> tuple[Root, Root] | None:
    """Return a root of each such that one lies in the other."""
    for root in ours.roots:
        for other in theirs.roots:
            if _lie_in_one_another(root, other):
                return root, other
    return None


def written(root: Root) -> str:
    """Return a root as messages write it."""
    return "/".join(root)


def _read_roots(value: Any) -> tuple[Root, ...]:
    # "If a root path is not specified ... the bundle owns all": so does an absent list.
    if value is None:
        return ((),)
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise _refused("has `roots` that are no list of texts")
    roots = [tuple(each.strip("/").split("/")) if each.strip("/") else () for each in value]
    for place, root in enumerate(roots):
        for other in roots[:place]:
            if _lie_in_one_another(root, other):
                raise _refused(f"has overlapping roots `{written(other)}` and `{written(root)}`")
    return tuple(roots)


def _lie_in_one_another(root: Root, other: Root) -> bool:
    short = min(len(root), len(other))
    return root[:short] == other[:short]


def _check_versions(found: Mapping[str, Any]) -> None:
    by_file = found.get("file_rego_versions") or {}
    if not isinstance(by_file, dict):
        raise _refused("has `file_rego_versions` that are no object")
    for version in (found.get("rego_version"), *by_file.values()):
        # `rego_version: 0` is the Rego of OPA before 1.0.
        if version is not None and (version != _REGO_V1 or isinstance(version, bool)):
            help_ = "write it in Rego v1: `opa fmt --rego-v1 --write`, then build it anew"
            raise _refused(f"asks for Rego version `{shown(str(version))}`", help_)


def _nearest(key: str) -> str:
    near = difflib.get_close_matches(key, _KNOWN, n=1)
    return near[0] if near else ""


def _refused(why: str, help_: str = "") -> PolicyBundleError:
    return PolicyBundleError("bundle.manifest", f"`{MANIFEST}` {why}", help_)
