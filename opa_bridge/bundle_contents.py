"""From the files of a bundle to what it brings: modules and one data document.

Spec: OPA, "Bundles", section "Bundle File Format".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from opa_bridge.bundle_json import check_value, read_json
from opa_bridge.bundle_manifest import MANIFEST, Manifest, overlap, read_manifest, written
from opa_bridge.bundle_paths import base_of, folders_of
from opa_bridge.bundle_signature import SIGNATURES, Signing, verify_files
from opa_bridge.bundle_yaml import read_yaml
from opa_bridge.capabilities import Module, scan_module
from opa_bridge.errors import PolicyBundleError
from opa_bridge.rego_module import rules_in_data
from policies.diagnostic import Diagnostic, Location, Severity

_READERS: Final = {"data.json": read_json, "data.yaml": read_yaml, "data.yml": read_yaml}
_TEST_FILE: Final = "_test.rego"
_TEST_RULES: Final = ("test_", "todo_test_")
# Files that would change what the bundle means, and why they are not followed.
_NOT_TAKEN: Final = {
    "policy.wasm": (
        "wasm is not run here",
        "build it with `opa build` for the target `rego`, which is the default",
    ),
    "patch.json": (
        "a delta bundle changes data that somebody else keeps",
        "serve snapshot bundles; only what changed is loaded anew from them as well",
    ),
    ".manifest.pb": ("a manifest in protobuf is not read", "build it with a JSON manifest"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle that was checked: what it brings and who it is.

    `modules` are `(path, source)`. `digest` is the SHA-256 of its files in hex, `size` their
    bytes; `revision` is the author's name for it, empty where there is none.
    """

    name: str
    manifest: Manifest
    modules: tuple[tuple[str, str], ...]
    data: Mapping[str, Any] = field(repr=False)
    digest: str
    size: int
    is_signed: bool = False
    warnings: tuple[Diagnostic, ...] = ()

    @property
    def revision(self) -> str:
        """The manifest's revision."""
        return self.manifest.revision


def read_bundle(name: str, files: Mapping[str, bytes], signing: Signing | None) -> Bundle:
    """Return the bundle that files make; `signing` None takes an unsigned one.

    Raises:
        PolicyBundleError: it is refused as a whole.
    """
    # Nothing is parsed before its origin is proven, but for what the proof is made of.
    if signing is not None:
        verify_files(files, signing)
    elif SIGNATURES in files:
        help_ = f"configure `signing` for the bundle `{name}`, or build it without a signature"
        raise PolicyBundleError("bundle.signature", "it is signed, and no key is known", help_)
    for path in sorted(files):
        _check_taken(path)
    manifest = read_manifest(files[MANIFEST]) if MANIFEST in files else Manifest()
    modules = tuple(_modules(name, files, manifest))
    data = _merged_data(files)
    _check_roots(data, (), manifest)
    _check_conflicts(modules, data)
    if not modules and not data:
        raise PolicyBundleError("bundle.empty", "it holds neither policy nor data")
    return Bundle(
        name=name,
        manifest=manifest,
        modules=tuple((module.file, module.source) for module in modules),
        data=data,
        digest=_digest(files),
        size=sum(map(len, files.values())),
        is_signed=signing is not None,
        warnings=tuple(_unknown_keys(name, manifest)),
    )


def combined(bundles: Sequence[Bundle]) -> tuple[list[tuple[str, str]], dict[str, Any]]:
    """Return modules and data of bundles that serve together.

    Raises:
        PolicyBundleError: two of them own the same part of `data`.
    """
    for place, bundle in enumerate(bundles):
        for other in bundles[:place]:
            both = overlap(other.manifest, bundle.manifest)
            if both is not None:
                why = (
                    f"the bundles `{other.name}` and `{bundle.name}` overlap: "
                    f"roots `{written(both[0])}` and `{written(both[1])}`"
                )
                help_ = f"give each its own `roots` in `{MANIFEST}`"
                raise PolicyBundleError("bundle.roots", why, help_)
    data: dict[str, Any] = {}
    for bundle in bundles:
        data = _merged(data, bundle.data, bundle.name)
    return [module for bundle in bundles for module in bundle.modules], data


def _check_taken(path: str) -> None:
    base = base_of(path)
    if base in _NOT_TAKEN:
        why, help_ = _NOT_TAKEN[base]
        raise PolicyBundleError("bundle.unsupported", f"it holds `{path}`: {why}", help_)
    # OPA takes a manifest or signature from any folder; it would be another bundle's.
    for special in (MANIFEST, SIGNATURES):
        if path.endswith(special) and path != special:
            why = f"it holds `{path}`: a `{special}` stands in the bundle's first folder"
            raise PolicyBundleError("bundle.manifest", why, "is one folder too many packed?")


def _modules(name: str, files: Mapping[str, bytes], manifest: Manifest) -> Iterator[Module]:
    for path in sorted(files):
        if not path.endswith(".rego"):
            continue
        module = _module(name, path, files[path])
        if path.endswith(_TEST_FILE) and all(rule.startswith(_TEST_RULES) for rule in module.rules):
            continue
        if not manifest.owns(module.package.split("/")):
            roots = ", ".join(f"`{written(root)}`" for root in manifest.roots)
            why = f"`{path}` is of package `{module.package}`, outside the roots {roots}"
            raise PolicyBundleError("bundle.roots", why, f"name it in `roots` of `{MANIFEST}`")
        yield module


def _module(name: str, path: str, raw: bytes) -> Module:
    try:
        source = raw.decode("utf-8")
    except UnicodeDecodeError as exc:
        why = f"`{path}` is not UTF-8 at byte {exc.start}"
        raise PolicyBundleError("bundle.module", why) from exc
    scanned = scan_module(f"{name}/{path}", source)
    if isinstance(scanned, Diagnostic):
        why = f"`{path}` line {scanned.location.line}: {scanned.message}"
        raise PolicyBundleError("bundle.module", why, scanned.help)
    return scanned


def _merged_data(files: Mapping[str, bytes]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for path in sorted(files):
        reader = _READERS.get(base_of(path))
        if reader is None:
            continue
        value = reader(files[path], path)
        folders = folders_of(path)
        if any(folder.startswith(".") for folder in folders[:1]):
            # OPA drops the dots of the first folder, and with them says something else.
            why = f"`{path}` stands in a folder whose name begins with a dot"
            raise PolicyBundleError("bundle.data", why)
        for folder in reversed(folders):
            value = {folder: value}
        if not isinstance(value, dict):
            raise PolicyBundleError("bundle.data", f"`{path}` is not an object")
        data = _merged(data, value, path)
    check_value(data, "data")
    return data


def _merged(ours: Mapping[str, Any], theirs: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return two objects as one; only objects merge."""
    merged = dict(ours)
    for key, value in theirs.items():
        if key not in merged:
            merged[key] = value
        elif isinstance(merged[key], dict) and isinstance(value, dict):
            merged[key] = _merged(merged[key], value, path)
        else:
            why = f"`{path}` sets `{key}`, which another data file sets"
            raise PolicyBundleError("bundle.data", why)
    return merged


def _check_roots(value: Mapping[str, Any], path: tuple[str, ...], manifest: Manifest) -> None:
    """Refuse data outside of the roots."""
    if manifest.owns(path):
        return
    for key, below in value.items():
        here = (*path, key)
        if manifest.owns(here):
            continue
        if not (isinstance(below, dict) and manifest.leads_to_root(here)):
            why = f"it holds data at `{written(here)}`, outside its roots"
            raise PolicyBundleError("bundle.roots", why, f"name it in `roots` of `{MANIFEST}`")
        _check_roots(below, here, manifest)


def _check_conflicts(modules: Sequence[Module], data: Mapping[str, Any]) -> None:
    """Refuse data where a rule stands."""
    for rule in rules_in_data(modules, data):
        why = f"`{rule}` is a rule and stands in the data as well"
        raise PolicyBundleError("bundle.data", why)


def _unknown_keys(name: str, manifest: Manifest) -> Iterator[Diagnostic]:
    for key, near in manifest.unknown:
        yield Diagnostic(
            code="bundle.manifest",
            message=f"`{MANIFEST}` has a key `{key}` that means nothing",
            location=Location(f"{name}/{MANIFEST}"),
            help=f"did you mean `{near}`?" if near else "",
            severity=Severity.WARNING,
        )


def _digest(files: Mapping[str, bytes]) -> str:
    total = hashlib.sha256()
    for path in sorted(files):
        total.update(f"{len(path)} {path} {len(files[path])} ".encode())
        total.update(files[path])
    return total.hexdigest()
