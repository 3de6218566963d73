"""A YAML configuration file to a checked model: every error has its file:line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from authz.bundle_settings import with_absolute_bundles
from authz.identity_settings import IdentitySettings
from authz.settings import ListenSettings, Settings
from policies.diagnostic import Diagnostic, LoadError, Location
from policies.documents import YamlList, YamlMap, YamlNode, YamlScalar, parse_documents

Model = TypeVar("Model", bound=BaseModel)


def load_settings(path: Path) -> Settings:
    """Return the configuration of `meshwarden serve`, its paths made absolute.

    Raises:
        LoadError: the file cannot be read, or any setting in it is wrong.
    """
    settings = load_model(path, Settings)
    base = path.resolve().parent
    return settings.model_copy(
        update={
            "listen": _with_absolute_tls(base, settings.listen),
            "policies": settings.policies.model_copy(
                update={"paths": _absolute(base, settings.policies.paths)}
            ),
            "providers": tuple(each.made_absolute(base) for each in settings.providers),
            "bundles": tuple(each.made_absolute(base) for each in settings.bundles),
            "identity": _with_absolute_files(base, settings.identity),
            "dryrun": settings.dryrun.made_absolute(base),
            "audit": settings.audit.made_absolute(base),
        }
    )


def _with_absolute_tls(base: Path, settings: ListenSettings) -> ListenSettings:
    if settings.tls is None:
        return settings
    return settings.model_copy(update={"tls": settings.tls.made_absolute(base)})


def _with_absolute_files(base: Path, settings: IdentitySettings) -> IdentitySettings:
    """Return the settings with the files of secrets and trust bundles made absolute."""
    asked = tuple(
        each
        if each.client_secret_file is None
        else each.model_copy(update={"client_secret_file": base / each.client_secret_file})
        for each in settings.introspection
    )
    bundles = with_absolute_bundles(base, settings.trust_bundles)
    deny_list = None if settings.deny_list is None else base / settings.deny_list
    return settings.model_copy(
        update={"introspection": asked, "trust_bundles": bundles, "deny_list": deny_list}
    )


def load_model(path: Path, model: type[Model]) -> Model:
    """Return the model that a YAML file spells.

    Raises:
        LoadError: the file cannot be read, or any key or value in it is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        why = f"cannot be read: {exc.strerror or exc}"
        raise LoadError([_diagnostic(Location(str(path)), why)]) from exc
    except UnicodeDecodeError as exc:
        raise LoadError([_diagnostic(Location(str(path)), "not UTF-8")]) from exc
    documents = parse_documents(text, str(path))
    if len(documents) > 1:
        where = documents[1].location
        raise LoadError([_diagnostic(where, "a configuration is one document")])
    root: YamlNode = documents[0] if documents else YamlMap({}, {}, Location(str(path), 1))
    if not isinstance(root, YamlMap):
        raise LoadError([_diagnostic(root.location, "a configuration must be a mapping")])
    lines = text.split("\n")
    try:
        found = model.model_validate(root.plain())
    except ValidationError as exc:
        raise LoadError([_explain(error, root, model, lines) for error in exc.errors()]) from exc
    if wrong := [_no_number(spot, root, lines) for spot in _booleans_for_numbers(root, found)]:
        raise LoadError(wrong)
    return found


# pydantic would speak of dictionaries, tuples and names of our classes, which no YAML file has.
_SHAPES: Final = {
    "model_type": "must be a mapping",
    "dict_type": "must be a mapping",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "string_type": "must be a text",
    "path_type": "must be a path",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be `true` or `false`",
    "bool_parsing": "must be `true` or `false`",
}
_TEXTS: Final = frozenset({"string_type", "path_type"})
_INPUT = re.compile(r"^Input should be ")
# A plain scalar that is a boolean or a number, behind the anchor that it may have.
_PLAIN = re.compile(r"(?:&\S+\s+)?(?P<word>[-+.\w]+)", re.ASCII)


def _absolute(base: Path, paths: Sequence[Path]) -> tuple[Path, ...]:
    return tuple(base / path for path in paths)


def _explain(
    error: ErrorDetails, root: YamlMap, model: type[BaseModel], lines: Sequence[str]
) -> Diagnostic:
    """Return the diagnostic of one of pydantic's findings."""
    # A check across the entries of a list says itself which one is at fault.
    spot = (*error["loc"], *error.get("ctx", {}).get("spot", ()))
    name = ".".join(str(part) for part in spot)
    location = _locate(root, spot)
    if error["type"] == "extra_forbidden":
        known = _known_keys(model, spot[:-1])
        near = difflib.get_close_matches(str(spot[-1]), known, n=1)
        help_ = f"did you mean `{near[0]}`?" if near else f"known: {', '.join(known)}"
        return _diagnostic(location, f"unknown setting `{name}`", help_)
    if error["type"] == "missing":
        return _diagnostic(location, f"the setting `{name}` is missing")
    if error["type"] == "too_short":
        # pydantic would speak of tuples, which no YAML file has.
        least = error.get("ctx", {}).get("min_length", 1)
        return _diagnostic(location, f"`{name}`: must have at least {least} entry")
    said = _INPUT.sub("must be ", error["msg"].removeprefix("Value error, "))
    reason = _SHAPES.get(error["type"]) or said
    value, help_ = _what_stands(error, _node_at(root, spot), lines)
    # What is wrong with the file as a whole has no name.
    named = f"`{name}`: " if name else ""
    return _diagnostic(location, f"{named}{reason[:1].lower()}{reason[1:]}{value}", help_)


def _what_stands(
    error: ErrorDetails, node: YamlNode | None, lines: Sequence[str]
) -> tuple[str, str]:
    """Return what a wrong setting is instead, and what helps where a text was not quoted."""
    given = error["input"]
    if given is None:
        return ", and nothing is written", ""
    if not isinstance(given, (str, int, float)) or given == "":
        return "", ""
    if isinstance(given, str):
        return f", not `{given}`", ""
    word = _written(node, given, lines)
    kind = "boolean" if isinstance(given, bool) else "number"
    if error["type"] in _TEXTS:
        return f", not the {kind} `{word}`", f'quote it: `"{word}"`'
    return f", not `{word}`", ""


def _written(node: YamlNode | None, given: object, lines: Sequence[str]) -> str:
    """Return a boolean or a number as the file spells it: `y` and `1e3`, not `True`, `1000.0`."""
    if isinstance(node, YamlScalar):
        line, column = node.location.line, node.location.column
        found = _PLAIN.match(lines[line - 1], column - 1) if 0 < line <= len(lines) else None
        if found is not None:
            return found["word"]
    return str(given).lower()


def _booleans_for_numbers(root: YamlMap, found: BaseModel) -> list[tuple[int | str, ...]]:
    """Return where a boolean stands that the model took for a number.

    WHY here: to pydantic `workers: yes` are one worker.
    """
    spots = list(_booleans(root, ()))
    plain = found.model_dump(by_alias=True) if spots else {}
    return [spot for spot in spots if _is_number(plain, spot)]


def _booleans(node: YamlNode, spot: tuple[int | str, ...]) -> Iterator[tuple[int | str, ...]]:
    if isinstance(node, YamlMap):
        for key, entry in node.entries.items():
            yield from _booleans(entry, (*spot, key))
    elif isinstance(node, YamlList):
        for index, item in enumerate(node.items):
            yield from _booleans(item, (*spot, index))
    elif isinstance(node.value, bool):
        yield spot


def _is_number(value: Any, spot: Sequence[int | str]) -> bool:
    """Whether the setting at `spot` became a number; one of another form did not."""
    try:
        for part in spot:
            value = value[part]
    except (LookupError, TypeError):
        return False
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _no_number(spot: Sequence[int | str], root: YamlMap, lines: Sequence[str]) -> Diagnostic:
    name = ".".join(str(part) for part in spot)
    word = _written(_node_at(root, spot), True, lines)
    return _diagnostic(_locate(root, spot), f"`{name}`: must be a number, not the boolean `{word}`")


def _node_at(root: YamlNode, spot: Sequence[int | str]) -> YamlNode | None:
    """Return the value of a setting; None where there is none."""
    node: YamlNode | None = root
    for part in spot:
        if isinstance(node, YamlMap) and isinstance(part, str):
            node = node.entries.get(part)
        elif isinstance(node, YamlList) and isinstance(part, int) and part < len(node.items):
            node = node.items[part]
        else:
            return None
    return node


def _locate(root: YamlNode, spot: Sequence[int | str]) -> Location:
    """Return where a setting stands; the deepest part that is written when it is absent."""
    node, location = root, root.location
    for part in spot:
        if isinstance(node, YamlMap) and isinstance(part, str) and part in node.entries:
            location, node = node.key_locations[part], node.entries[part]
        elif isinstance(node, YamlList) and isinstance(part, int) and part < len(node.items):
            node = node.items[part]
            location = node.location
        else:
            break
    return location


def _known_keys(model: type[BaseModel], spot: Sequence[int | str]) -> list[str]:
    """Return the keys that the mapping at `spot` may have."""
    schema = model.model_json_schema(by_alias=True)
    node: dict[str, Any] = schema
    for part in spot:
        node = _resolve(schema, node)
        node = node.get("items", {}) if isinstance(part, int) else node["properties"].get(part, {})
    return list(_resolve(schema, node).get("properties", {}))


def _resolve(schema: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    """Follow a `$ref`, also through the one-branch unions that pydantic writes."""
    for key in ("allOf", "anyOf"):
        for branch in node.get(key, ()):
            if "$ref" in branch:
                node = branch
    if "$ref" in node:
        found = schema["$defs"][node["$ref"].rpartition("/")[2]]
        return dict(found)
    return node


def _diagnostic(location: Location, message: str, help_: str = "") -> Diagnostic:
    return Diagnostic(code="configuration", message=message, location=location, help=help_)
