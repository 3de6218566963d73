"""Rego modules and data documents on disk: found in a stable order, read whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from policies.diagnostic import Diagnostic, LoadError, Location

_TEST_SUFFIX = "_test"
_DATA_SUFFIXES = (".json", ".yaml", ".yml")
# BUDGET: a module or data document beyond this is a mistake and would hold up the load.
_MAX_BYTES = 16 * 1024 * 1024


def read_modules(paths: Iterable[Path]) -> list[tuple[str, str]]:
    """Return `(file name, source)` of the `.rego` files below `paths`, without `*_test.rego`.

    Raises:
        LoadError: a path is missing, unreadable, too large or not UTF-8, or there is no module.
    """
    paths = tuple(paths)
    texts = _read(_found(paths, (".rego",)))
    if not texts:
        where = ", ".join(str(path) for path in paths)
        raise LoadError([_problem(where, "no Rego module here")])
    return texts


def read_data(paths: Iterable[Path]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Return the data document that the files make together, and their texts.

    Each file (JSON or YAML) holds one object; no two may set the same first key.

    Raises:
        LoadError: a file is not such an object, or two of them overlap.
    """
    texts = _read(_found(paths, _DATA_SUFFIXES))
    data: dict[str, Any] = {}
    problems: list[Diagnostic] = []
    for file, text in texts:
        try:
            document = json.loads(text) if file.endswith(".json") else yaml.safe_load(text)
            json.dumps(document, allow_nan=False)
        except (ValueError, TypeError, RecursionError, yaml.YAMLError):
            problems.append(_problem(file, "not a JSON or YAML document of JSON values"))
            continue
        if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
            problems.append(_problem(file, "the document is not an object with text keys"))
            continue
        twice = sorted(set(document) & set(data))
        if twice:
            problems.append(_problem(file, f"`{twice[0]}` is set in another data file"))
        data.update(document)
    if problems:
        raise LoadError(problems)
    return data, texts


def digest(texts: Iterable[tuple[str, str]], entrypoint: str) -> str:
    """Return the SHA-256 over contents and entrypoint, in hex; names do not count."""
    whole = json.dumps([entrypoint, *sorted(content for _, content in texts)])
    return hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()


def _found(paths: Iterable[Path], suffixes: tuple[str, ...]) -> Iterator[Path]:
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        for file in sorted(path.rglob("*")):
            hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
            is_test = file.stem.endswith(_TEST_SUFFIX)
            if file.suffix in suffixes and file.is_file() and not hidden and not is_test:
                yield file


def _read(files: Iterable[Path]) -> list[tuple[str, str]]:
    texts: list[tuple[str, str]] = []
    problems: list[Diagnostic] = []
    for file in files:
        try:
            if file.stat().st_size > _MAX_BYTES:
                problems.append(_problem(str(file), f"larger than {_MAX_BYTES} bytes"))
                continue
            texts.append((str(file), file.read_text(encoding="utf-8")))
        except OSError as exc:
            problems.append(_problem(str(file), f"cannot be read: {exc.strerror or exc}"))
        except UnicodeDecodeError as exc:
            problems.append(_problem(str(file), f"not UTF-8 at byte {exc.start}"))
    if problems:
        raise LoadError(problems)
    return texts


def _problem(file: str, message: str) -> Diagnostic:
    return Diagnostic(code="rego.file", message=message, location=Location(file))
