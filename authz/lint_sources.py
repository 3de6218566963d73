"""What the linter is given beside policies: Rego, the authorizer's settings, the CA's, a revision.

They are read as far as the linter needs them and no further: what is wrong with a
configuration is told by whoever serves with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from authz.lint_judge import LintJudge
from ca.entries import RegistrationEntry
from identity.errors import SpiffeIdError
from identity.spiffe_id import SpiffeId
from opa_bridge.entrypoint import choose_entrypoint
from opa_bridge.rego_files import read_modules
from policies.diagnostic import Diagnostic, LoadError, Location
from policies.documents import YamlNode, YamlScalar, parse_documents
from policies.lint.embedded import Embedded, plain_text
from policies.lint.facts import Authority, Entrypoint, Known
from policies.lint.inventory import read_inventory
from policies.lint.nodes import ABSENT, child, items_of, text_of
from policies.lint.run import sound_resources
from policies.load import inspect_resources
from policies.mesh import Mesh
from policies.model import Resource

SETTINGS_KEY: Final = "meshwarden.yaml"
"""A ConfigMap's key of the authorizer's settings."""
CA_KEY: Final = "ca.yaml"
"""A ConfigMap's key of the CA's settings."""
_REGO: Final = ".rego"
_RESOURCE: Final = re.compile(r"^(apiVersion|kind):", re.MULTILINE)
_TEST: Final = re.compile(r"_test\.rego$")
_LONG_AGO: Final = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What a command line names beside the policies; texts with their places.

    `rego` are modules outside ConfigMaps, `entries` what `meshwarden ca entries list --json`
    prints, `before` the texts of the revision before.
    """

    rego: tuple[Embedded, ...] = ()
    settings: Embedded | None = None
    ca: Embedded | None = None
    entries: Embedded | None = None
    before: Sequence[tuple[str, str]] | None = None


@dataclass(slots=True)
class _Found:
    """What settings say."""

    entrypoints: list[Entrypoint] = field(default_factory=list)
    federated: set[str] | None = None


def gather(texts: Sequence[tuple[str, str]], mesh: Mesh, given: Given) -> Known:
    """Return all that is known beside the resources of `(file name, text)` pairs.

    Raises:
        LoadError: settings, registrations or the revision before cannot be read.
    """
    inventory = read_inventory(texts)
    inside = {each.name: each for each in inventory.embedded if _is_readable(each)}
    rego = (*given.rego, *(each for each in inventory.embedded if is_module(each.name)))
    found = _read_settings(given.settings or inside.get(SETTINGS_KEY), mesh)
    named = tuple(found.entrypoints) or _usual_entrypoint(rego)
    return Known(
        mesh=mesh,
        judge=LintJudge(),
        inventory=inventory,
        rego=rego,
        entrypoints=named,
        federated=None if found.federated is None else frozenset(found.federated),
        authority=_read_authority(given.ca or inside.get(CA_KEY), given.entries),
        before=None if given.before is None else _revision(given.before, mesh),
    )


def _is_readable(text: Embedded) -> bool:
    """Whether settings inside a ConfigMap are YAML; if not, whoever serves with them says so."""
    return text.name in (SETTINGS_KEY, CA_KEY) and _is_yaml(text)


def _is_yaml(text: Embedded) -> bool:
    try:
        parse_documents(text.text, text.file)
    except LoadError:
        return False
    return True


def is_module(name: str) -> bool:
    """Whether a file or key names a Rego module that serves: no test."""
    return name.endswith(_REGO) and not _TEST.search(name)


def without_settings(
    texts: Sequence[tuple[str, str]], folders: Collection[Path], given: Given
) -> tuple[list[tuple[str, str]], Given]:
    """Return the texts without our own settings files, and what is given with those of them.

    One is known by its name and by being no resource. It counts where it stands at the top of
    one of the folders, is the only one that does, and none is given.
    """
    found: dict[str, list[Embedded]] = {SETTINGS_KEY: [], CA_KEY: []}
    left: list[tuple[str, str]] = []
    for file, text in texts:
        name = Path(file).name
        if name not in found or _RESOURCE.search(text):
            left.append((file, text))
        elif Path(file).parent in folders:
            found[name].append(plain_text(file, text))
    alone = {name: each[0] for name, each in found.items() if len(each) == 1 and _is_yaml(each[0])}
    return left, replace(
        given,
        settings=given.settings or alone.get(SETTINGS_KEY),
        ca=given.ca or alone.get(CA_KEY),
    )


def holds_rego(path: Path) -> bool:
    """Whether a path is a folder with Rego that serves somewhere below it."""
    return path.is_dir() and any(
        is_module(each.name) and not any(part.startswith(".") for part in each.parts)
        for each in (found.relative_to(path) for found in path.rglob(f"*{_REGO}"))
    )


def read_rego_below(paths: Iterable[Path]) -> tuple[Embedded, ...]:
    """Return the modules that the paths name or hold; the folders without any are left out.

    Raises:
        LoadError: a module cannot be read.
    """
    given = [path for path in paths if is_module(path.name) or holds_rego(path)]
    texts = dict(read_modules(given)) if given else {}
    return tuple(plain_text(file, text) for file, text in texts.items())


def modules_of_settings(settings: Embedded) -> tuple[Embedded, ...]:
    """Return the modules that the providers of a settings file read, from beside it.

    Raises:
        LoadError: a module cannot be read.
    """
    base = Path(settings.file).parent
    paths = [base / text for provider in _providers(settings) for text in _paths(provider)]
    return tuple(plain_text(file, text) for file, text in read_modules(paths)) if paths else ()


def _paths(provider: YamlNode) -> Iterator[str]:
    for node in items_of(provider, "rego", "paths"):
        if isinstance(node, YamlScalar) and isinstance(node.value, str):
            yield node.value


def _usual_entrypoint(rego: Sequence[Embedded]) -> tuple[Entrypoint, ...]:
    if not rego:
        return ()
    texts = [(f"{number}:{each.name}", each.text) for number, each in enumerate(rego)]
    return (Entrypoint(rule=choose_entrypoint(texts)),)


def _read_settings(settings: Embedded | None, mesh: Mesh) -> _Found:
    """Return which Rego rules the providers ask, and which foreign domains are believed."""
    found = _Found()
    if settings is None:
        return found
    for provider in _providers(settings):
        rule = child(provider, "rego", "entrypoint")
        if isinstance(rule, YamlScalar) and isinstance(rule.value, str):
            found.entrypoints.append(
                Entrypoint(
                    rule=rule.value,
                    provider=text_of(provider, "name"),
                    location=settings.place(rule.location.line, rule.location.column),
                    is_named=True,
                )
            )
    bundles = items_of(_document(settings), "identity", "trustBundles")
    domains = {text_of(each, "trustDomain") for each in bundles}
    found.federated = domains - {"", *mesh.trust_domains}
    return found


def _providers(settings: Embedded) -> tuple[YamlNode, ...]:
    return items_of(_document(settings), "providers")


def _read_authority(settings: Embedded | None, entries: Embedded | None) -> Authority | None:
    """Return what the CA can issue, or None where its registrations are not all known."""
    listed = _entry_names(entries) if entries is not None else []
    if settings is None:
        return None
    document = _document(settings)
    is_dynamic = any(not _is_absent(child(document, key)) for key in ("workloadApi", "signing"))
    domain = text_of(document, "trustDomain")
    if not domain or (is_dynamic and entries is None):
        return None
    names = [text_of(each, "spiffeId") for each in items_of(document, "workloads")]
    names += listed
    return Authority(trust_domain=domain, can_issue=_issuing(names))


def _issuing(names: Sequence[str]) -> Callable[[str], bool]:
    plain = frozenset(name for name in names if "{" not in name)
    patterns = [_as_entry(name) for name in names if "{" in name]

    def can_issue(name: str) -> bool:
        if name in plain:
            return True
        try:
            asked = SpiffeId.parse(name)
        except SpiffeIdError:
            return False
        return any(each.covers(asked) for each in patterns)

    return can_issue


def _as_entry(name: str) -> RegistrationEntry:
    return RegistrationEntry(
        entry_id="lint", spiffe_id=name, selectors=frozenset(), created_at=_LONG_AGO
    )


def _entry_names(entries: Embedded) -> list[str]:
    try:
        listed = json.loads(entries.text)
    except (ValueError, RecursionError) as exc:
        raise _refusal(entries, "not JSON") from exc
    if not isinstance(listed, list) or not all(isinstance(each, Mapping) for each in listed):
        raise _refusal(entries, "not a list of registration entries")
    return [str(each.get("spiffeId", "")) for each in listed]


def _refusal(entries: Embedded, message: str) -> LoadError:
    help_ = "give what `meshwarden ca entries list --json` prints"
    place = Location(entries.file)
    return LoadError([Diagnostic(code="bad-entries", message=message, location=place, help=help_)])


def _revision(texts: Sequence[tuple[str, str]], mesh: Mesh) -> tuple[Resource, ...]:
    return sound_resources(inspect_resources(texts, mesh))


def _document(text: Embedded) -> YamlNode:
    """Return the tree of settings; its places are those inside the text."""
    found = parse_documents(text.text, text.file)
    return found[0] if found else ABSENT


def _is_absent(node: YamlNode) -> bool:
    return node is ABSENT or (isinstance(node, YamlScalar) and node.value is None)
