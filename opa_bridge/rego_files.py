"""Rego modules and data documents on disk: found in a stable order, read whole."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from opa_bridge.bundle_json import read_json
from opa_bridge.bundle_yaml import read_yaml
from opa_bridge.errors import PolicyBundleError
from policies.diagnostic import Diagnostic, LoadError, Location
from policies.files import walk_once

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
        help_ = "a module is a `.rego` file; `*_test.rego` and what is hidden do not count"
        raise LoadError([_problem(where, "no Rego module here", help_)])
    return texts


def read_tests_with_modules(folder: Path) -> list[tuple[str, str]]:
    """Return `(file name, source)` of every `.rego` file below a folder, `*_test.rego` too.

    Raises:
        LoadError: a file is unreadable, too large or not UTF-8.
    """
    return _read(_found([folder], (".rego",), takes_tests=True))


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
        document = _object(file, text)
        if isinstance(document, Diagnostic):
            problems.append(document)
            continue
        twice = sorted(set(document) & set(data))
        if twice:
            problems.append(_problem(file, f"`{twice[0]}` is set in another data file"))
        data.update(document)
    if problems:
        raise LoadError(problems)
    return data, texts


def read_data_tree(folder: Path) -> dict[str, Any]:
    """Return the data document of a folder: each `data.json` and `data.yaml` under its path.

    Spec: OPA, "Bundle File Format": data of `a/b/data.json` stand at `data.a.b`.

    Raises:
        LoadError: a file is not an object, or two of them overlap.
    """
    data: dict[str, Any] = {}
    problems: list[Diagnostic] = []
    wanted = (each for each in _found([folder], _DATA_SUFFIXES) if each.stem == "data")
    for file, text in _read(wanted):
        document = _object(file, text)
        if isinstance(document, Diagnostic):
            problems.append(document)
            continue
        place: Any = data
        for part in Path(file).relative_to(folder).parent.parts:
            place = place.setdefault(part, {}) if isinstance(place, dict) else place
        if not isinstance(place, dict) or set(document) & set(place):
            problems.append(_problem(file, "sets what is set in another data file"))
            continue
        place.update(document)
    if problems:
        raise LoadError(problems)
    return data


def _object(file: str, text: str) -> dict[str, Any] | Diagnostic:
    """Return the object that a data file holds, or why it holds none."""
    # WHY by OPA's own reader of YAML: in others `yes` is true and `1:30` is 90.
    read = read_json if file.endswith(".json") else read_yaml
    try:
        document = read(text.encode("utf-8"), file)
    except PolicyBundleError as exc:
        return _problem(file, str(exc), exc.help)
    if not isinstance(document, dict):
        return _problem(file, "the document is not an object")
    return document


def digest(texts: Iterable[tuple[str, str]], entrypoint: str) -> str:
    """Return the SHA-256 over contents and entrypoint, in hex; names do not count."""
    whole = json.dumps([entrypoint, *sorted(content for _, content in texts)])
    return hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()


def _found(
    paths: Iterable[Path], suffixes: tuple[str, ...], *, takes_tests: bool = False
) -> Iterator[Path]:
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        for file in sorted(_below(path)):
            is_test = file.stem.endswith(_TEST_SUFFIX) and not takes_tests
            if file.suffix in suffixes and file.is_file() and not is_test:
                yield file


def _below(folder: Path) -> Iterator[Path]:
    """Yield every file below a folder, links followed, that is not hidden.

    Raises:
        LoadError: a folder cannot be listed, or is reached twice.
    """
    try:
        # WHY `_raise`: a folder that cannot be listed would silently drop its rules.
        for place, names, files in walk_once(folder, _raise):
            names[:] = [name for name in names if not name.startswith(".")]
            yield from (Path(place, name) for name in files if not name.startswith("."))
    except OSError as exc:
        raise LoadError([_problem(str(folder), f"cannot be read: {exc.strerror or exc}")]) from exc


def _raise(exc: OSError) -> None:
    raise exc


def _read(files: Iterable[Path]) -> list[tuple[str, str]]:
    texts: list[tuple[str, str]] = []
    problems: list[Diagnostic] = []
    for file in files:
        try:
            info = file.stat()
            # WHY: opening a pipe waits for its writer, and there may be none.
            if not stat.S_ISREG(info.st_mode):
                problems.append(_problem(str(file), "not a regular file"))
                continue
            if info.st_size > _MAX_BYTES:
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


def _problem(file: str, message: str, help_: str = "") -> Diagnostic:
    return Diagnostic(code="rego.file", message=message, location=Location(file), help=help_)
