"""Taking the dry-run annotation off a policy in its YAML text, and nothing else.

Theory of operation. The text is composed for the places of its nodes, the annotation is cut
out of the characters, with its list where it stood alone, and comments on the lines that go
stay as lines. What comes out is read again by the caller, who compares.
"""

from __future__ import annotations

from collections.abc import Iterator

import yaml

from policies.diagnostic import Diagnostic, LoadError, Location
from policies.dry_run_annotation import DRY_RUN_ANNOTATION

_KIND = "AuthorizationPolicy"
_DEFAULT_NAMESPACE = "default"

Pair = tuple[yaml.ScalarNode, yaml.Node]


def without_dry_run(text: str, file: str, namespace: str, name: str) -> str:
    """Return the text with the annotation of one policy taken off; all else stays as it is.

    Raises:
        LoadError: the text holds no such policy, or none with the annotation.
    """
    try:
        resources = list(_metadata_of(text, namespace, name))
    except yaml.YAMLError as exc:
        raise _refusal(file, "the file cannot be edited by its places") from exc
    for metadata in resources:
        found = _pair(metadata, "annotations")
        if found is None or not isinstance(found[1], yaml.MappingNode):
            continue
        annotations = found[1]
        annotation = _pair(annotations, DRY_RUN_ANNOTATION)
        if annotation is None:
            continue
        end = annotation[1].end_mark.index
        if len(annotations.value) > 1:
            return _without(text, annotations, annotation[0].start_mark.index, end)
        # A list in brackets ends with its bracket, a block with its last entry.
        end = found[1].end_mark.index if annotations.flow_style else end
        return _without(text, metadata, found[0].start_mark.index, end)
    raise _refusal(file, f"`{namespace}/{name}` has no annotation that can be cut out")


def _refusal(file: str, message: str) -> LoadError:
    found = Diagnostic(
        code="not-promotable",
        message=message,
        location=Location(file),
        help=f"take `{DRY_RUN_ANNOTATION}` off by hand",
    )
    return LoadError([found])


def _metadata_of(text: str, namespace: str, name: str) -> Iterator[yaml.MappingNode]:
    for document in yaml.compose_all(text, Loader=yaml.SafeLoader):
        for resource in _resources(document):
            metadata = _pair(resource, "metadata")
            if _text(resource, "kind") != _KIND or metadata is None:
                continue
            found = metadata[1]
            if not isinstance(found, yaml.MappingNode) or _text(found, "name") != name:
                continue
            if (_text(found, "namespace") or _DEFAULT_NAMESPACE) == namespace:
                yield found


def _resources(node: yaml.Node | None) -> Iterator[yaml.MappingNode]:
    """Yield the resources of a document, which may be a list of them."""
    if not isinstance(node, yaml.MappingNode):
        return
    items = _pair(node, "items")
    if items is not None and isinstance(items[1], yaml.SequenceNode):
        for each in items[1].value:
            yield from _resources(each)
    yield node


def _pair(node: yaml.MappingNode, key: str) -> Pair | None:
    return next((pair for pair in node.value if pair[0].value == key), None)


def _text(node: yaml.MappingNode, key: str) -> str:
    found = _pair(node, key)
    return str(found[1].value) if found and isinstance(found[1], yaml.ScalarNode) else ""


def _without(text: str, mapping: yaml.MappingNode, start: int, end: int) -> str:
    """Return the text without the entry between two places of a mapping that has others."""
    if mapping.flow_style:
        return _cut_from_flow(text, start, end)
    line_start = text.rfind("\n", 0, start) + 1
    line_end = text.find("\n", end)
    line_end = len(text) if line_end < 0 else line_end + 1
    kept = "".join(_comments(text, line_start, line_end, start - line_start))
    return text[:line_start] + kept + text[line_end:]


def _comments(text: str, start: int, end: int, indent: int) -> Iterator[str]:
    """Yield the comments between two places, each as a line of its own."""
    offset = start
    for line in text[start:end].splitlines(keepends=True):
        at = _comment_at(text, offset, offset + len(line))
        if at is not None:
            is_alone = not text[offset:at].strip()
            yield line if is_alone else " " * indent + text[at : offset + len(line)]
        offset += len(line)


def _comment_at(text: str, start: int, end: int) -> int | None:
    """Return where the comment of a line begins; quotes are looked at, as YAML does."""
    quote = ""
    for at in range(start, end):
        letter = text[at]
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter == "#" and (at == start or text[at - 1] in " \t"):
            return at
    return None


def _cut_from_flow(text: str, start: int, end: int) -> str:
    """Return the text without an entry between brackets, and without one of its commas."""
    after = end + _blank(text[end:])
    if text[after : after + 1] == ",":
        after += 1
        return text[:start] + text[after + _blank(text[after:]) :]
    before = start - _blank(text[:start][::-1])
    if text[before - 1 : before] == ",":
        return text[: before - 1] + text[end:]
    return text[:start] + text[end:]


def _blank(text: str) -> int:
    return len(text) - len(text.lstrip(" \t\r\n"))
