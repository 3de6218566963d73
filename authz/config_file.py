"""A YAML configuration file to a checked model: every error has its file:line."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from authz.bundle_settings import with_absolute_bundles
from authz.identity_settings import IdentitySettings
from authz.settings import ListenSettings, Settings
from policies.diagnostic import Diagnostic, LoadError, Location
from policies.documents import YamlList, YamlMap, YamlNode, parse_documents

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
    try:
        return model.model_validate(root.plain())
    except ValidationError as exc:
        raise LoadError([_explain(error, root, model) for error in exc.errors()]) from exc


# pydantic would speak of dictionaries, tuples and names of our classes, which no YAML file has.
_SHAPES: Final = {
    "model_type": "must be a mapping",
    "dict_type": "must be a mapping",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "string_type": "must be a text",
}


def _absolute(base: Path, paths: Sequence[Path]) -> tuple[Path, ...]:
    return tuple(base / path for path in paths)


def _explain(error: ErrorDetails, root: YamlMap, model: type[BaseModel]) -> Diagnostic:
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
    reason = _SHAPES.get(error["type"]) or error["msg"].removeprefix("Value error, ")
    shown = error["input"] if isinstance(error["input"], (str, int, float, bool)) else ""
    value = f", not `{shown}`" if shown != "" else ""
    # What is wrong with the file as a whole has no name.
    named = f"`{name}`: " if name else ""
    return _diagnostic(location, f"{named}{reason[:1].lower()}{reason[1:]}{value}")


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
