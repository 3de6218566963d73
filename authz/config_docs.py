"""The configuration's pages: Markdown tables and JSON Schemas, made from the models alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel

from authz.policytest.model import PolicyTestFile
from authz.settings import Settings
from ca.settings import CaSettings

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_HEAD: Final = """\
# Configuration

Written by `meshwarden config docs`; a test compares. Keys are camelCase, an unknown key is an
error that names the nearest known one, and relative paths count from the configuration file's
folder. `meshwarden config check -c FILE` (with `--of ca` for the CA's) checks a file and starts
nothing. For editors there are JSON Schemas: [`meshwarden.yaml`](meshwarden.schema.json),
[the CA](ca.schema.json), [policy test files](policytest.schema.json).
"""


@dataclass(frozen=True, slots=True)
class Format:
    """One kind of file that people write: its title and the model that checks it."""

    title: str
    model: type[BaseModel]


FORMATS: Final[Mapping[str, Format]] = {
    "serve": Format("meshwarden.yaml", Settings),
    "ca": Format("ca.yaml", CaSettings),
    "policytest": Format("*.policytest.yaml", PolicyTestFile),
}
"""Every kind of file, by the name that `meshwarden config schema --of` takes."""


def json_schema(kind: str) -> dict[str, Any]:
    """Return the JSON Schema of a kind of file, one of `FORMATS`."""
    found = FORMATS[kind]
    schema = found.model.model_json_schema(by_alias=True)
    rest = {key: value for key, value in schema.items() if key != "title"}
    return {"$schema": _DIALECT, "title": found.title, **rest}


def markdown() -> str:
    """Return `docs/configuration.md`: every setting of the authorizer and of the CA."""
    parts = [_HEAD]
    for kind, command in (("serve", "meshwarden serve"), ("ca", "meshwarden ca serve")):
        parts.append(f"## {FORMATS[kind].title}\n\nRead by `{command} -c FILE`.\n")
        parts.extend(_sections(FORMATS[kind].model.model_json_schema(by_alias=True)))
    return "\n".join(parts)


def _sections(schema: Mapping[str, Any]) -> Iterator[str]:
    """Yield one heading and table for each mapping of the file, outer before inner."""
    waiting: list[tuple[str, str, Mapping[str, Any]]] = [("", "", schema)]
    while waiting:
        path, about, node = waiting.pop(0)
        inner: list[tuple[str, str, Mapping[str, Any]]] = []
        rows = []
        for key, field in node["properties"].items():
            below = _object_of(schema, field)
            if below is None:
                rows.append(_row(schema, key, field, key in node.get("required", ())))
                continue
            many = "[]" if field.get("type") == "array" else ""
            name = f"{path}.{key}{many}".lstrip(".")
            inner.append((name, field.get("description", ""), below))
            rows.append(_row(schema, key, field, key in node.get("required", ()), name))
        if path:
            yield f"### `{path}`\n\n{about}\n"
        yield "| key | type | default | meaning |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"
        waiting = inner + waiting


def _row(
    schema: Mapping[str, Any],
    key: str,
    field: Mapping[str, Any],
    is_required: bool,
    section: str = "",
) -> str:
    if is_required:
        default = "**required**"
    elif "default" in field and field["default"] is None:
        default = "unset"
    elif section and field.get("type") != "array":
        default = "as below"
    elif "default" not in field:
        default = "`{}`"
    else:
        default = f"`{json.dumps(field['default'], ensure_ascii=False)}`"
    about = field.get("description", "")
    if section:
        about = f"{about} See `{section}`."
    cells = (f"`{key}`", _type(schema, field), default, about)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _type(schema: Mapping[str, Any], field: Mapping[str, Any]) -> str:
    """Return a field's type and limits in words."""
    field = _target(schema, field)
    if "enum" in field:
        return " or ".join(f"`{value}`" for value in field["enum"])
    if "anyOf" in field:
        return " or ".join(_type(schema, each) for each in field["anyOf"] if each != _NULL)
    match field.get("type"):
        case "array":
            return f"list of {_type(schema, field['items'])}{_at_least(field, 'minItems')}"
        case "object" if "properties" in field:
            return "mapping"
        case "object":
            return "mapping of name to " + _type(schema, field["additionalProperties"])
        case "string":
            # A pattern stays in the JSON Schema; the meaning says it in words.
            return "path" if field.get("format") == "path" else "text"
        case kind:
            return str(kind) + _limits(field)


_NULL: Final = {"type": "null"}


def _limits(field: Mapping[str, Any]) -> str:
    words = [
        f"{word} {field[key]:.10g}"
        for key, word in (("minimum", "from"), ("exclusiveMinimum", "above"), ("maximum", "to"))
        if key in field
    ]
    return f", {' '.join(words)}" if words else ""


def _at_least(field: Mapping[str, Any], key: str) -> str:
    return f", at least {field[key]}" if key in field else ""


def _target(schema: Mapping[str, Any], field: Mapping[str, Any]) -> Mapping[str, Any]:
    """Follow a `$ref` into the definitions."""
    if "$ref" not in field:
        return field
    found: Mapping[str, Any] = schema["$defs"][field["$ref"].rpartition("/")[2]]
    return found


def _object_of(schema: Mapping[str, Any], field: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the mapping with keys of its own that a field is or may be, or is a list of."""
    found = _target(schema, field.get("items", field))
    branches = [each for each in found.get("anyOf", ()) if each != _NULL]
    if len(branches) == 1:
        found = _target(schema, branches[0])
    return found if "properties" in found else None
