"""`policy promote`: a dry-run policy becomes an enforced one, by an edit of its YAML."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from authz.commands.failing import clear_errors
from authz.commands.options import SpreadingCommand
from authz.commands.replacing import replace_text, unified_diff
from dryrun.promote import without_dry_run
from policies.diagnostic import Diagnostic, LoadError, Location, shown
from policies.documents import parse_documents
from policies.dry_run_annotation import DRY_RUN_ANNOTATION
from policies.files import read_policy_files
from policies.load import read_resources
from policies.model import AuthorizationPolicy, Metadata

_NOWHERE = Location("")
_KIND = "AuthorizationPolicy"


@click.command(
    "promote", cls=SpreadingCommand, short_help="Take the dry-run annotation off a policy."
)
@click.argument("name", metavar="[NAMESPACE/]NAME")
@click.option(
    "--policies", multiple=True, default=[Path("policies")], metavar="PATH...",
    type=click.Path(path_type=Path), help="The files and folders to look in; else `policies`.",
)  # fmt: skip
@click.option("--diff", is_flag=True, help="Print the edit, and do not make it.")
def promote_command(name: str, policies: tuple[Path, ...], diff: bool) -> None:
    """Take the annotation `istio.io/dry-run` off one policy, in the file it stands in.

    Comments, order and everything else in the file stay as they are. The edit is made
    only when the file then says the same but for this annotation.

    \b
    Examples:
      policy promote shop/retire-legacy --policies examples/policies --diff
      policy promote retire-legacy

    \b
    Exit codes: 0 done; 2 there is no such policy, or it is enforced already.
    """
    with clear_errors():
        texts = dict(read_policy_files(policies))
        found = _find(texts, name)
        file, meta = found.metadata.location.file, found.metadata
        edited = without_dry_run(texts[file], file, meta.namespace, meta.name)
        _check(texts[file], edited, meta)
        if diff:
            sys.stdout.write(unified_diff(texts[file], edited, file))
            return
        replace_text(Path(file), edited)
        click.echo(f"{file}: `{meta.namespace}/{meta.name}` is enforced once this is loaded")


def _find(texts: dict[str, str], name: str) -> AuthorizationPolicy:
    """Return the dry-run policy of a name.

    Raises:
        LoadError: there is none, there are several, or it is enforced.
    """
    named = [
        resource
        for resource in read_resources(list(texts.items())).resources
        if isinstance(resource, AuthorizationPolicy) and name in _names(resource.metadata)
    ]
    if not named:
        raise _refusal(f"there is no AuthorizationPolicy `{shown(name)}`")
    if len(named) > 1:
        listed = ", ".join(f"`{each.metadata.namespace}/{name}`" for each in named)
        raise _refusal(f"several policies are called so: {listed}", "name the namespace")
    if not named[0].dry_run:
        raise _refusal(f"`{shown(name)}` is enforced already", place=named[0].metadata.location)
    return named[0]


def _names(meta: Metadata) -> tuple[str, str]:
    return meta.name, f"{meta.namespace}/{meta.name}"


def _check(before: str, after: str, meta: Metadata) -> None:
    """Refuse an edit that changes anything but the one annotation.

    Raises:
        LoadError: it does.
    """
    try:
        is_same = _bare(before, meta) == _bare(after, meta) and not _is_dry_run(after, meta)
    except LoadError:
        # An alias of what was cut out, say.
        is_same = False
    if not is_same:
        raise _refusal(
            "the annotation cannot be cut out without changing more",
            "take it off by hand",
            meta.location,
        )


def _is_dry_run(text: str, meta: Metadata) -> bool:
    return any(
        DRY_RUN_ANNOTATION in resource.metadata.annotations
        for resource in read_resources([(meta.location.file, text)]).resources
        if isinstance(resource, AuthorizationPolicy)
        and (resource.metadata.namespace, resource.metadata.name) == (meta.namespace, meta.name)
    )


def _bare(text: str, meta: Metadata) -> list[Any]:
    """Return the documents as plain values, without the annotation of the one policy."""
    documents = [document.plain() for document in parse_documents(text, meta.location.file)]
    for resource in documents:
        for each in (resource, *_items(resource)):
            _strip(each, meta)
    return documents


def _items(resource: Any) -> list[Any]:
    items = resource.get("items") if isinstance(resource, dict) else None
    return items if isinstance(items, list) else []


def _strip(resource: Any, meta: Metadata) -> None:
    metadata = resource.get("metadata") if isinstance(resource, dict) else None
    if not isinstance(metadata, dict) or metadata.get("name") != meta.name:
        return
    is_own = metadata.get("namespace", "default") == meta.namespace
    annotations = metadata.get("annotations")
    if is_own and resource.get("kind") == _KIND and isinstance(annotations, dict):
        annotations.pop(DRY_RUN_ANNOTATION, None)
        if not annotations:
            del metadata["annotations"]


def _refusal(message: str, help_: str = "", place: Location = _NOWHERE) -> LoadError:
    return LoadError(
        [Diagnostic(code="not-promotable", message=message, location=place, help=help_)]
    )
