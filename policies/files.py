"""Policy files on disk: found in a stable order, read whole. The only I/O of this package."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from policies.diagnostic import Diagnostic, LoadError, Location

_SUFFIXES = frozenset({".yaml", ".yml"})
# BUDGET: a policy file larger than this is a mistake, and would hold up the reload.
_MAX_BYTES = 64 * 1024 * 1024
_TEST_SUFFIX = ".policytest"


def find_policy_files(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the files of `paths`: files as they are, folders walked in name order.

    Hidden entries are left out (Kubernetes mounts keep their old copies in such
    folders), and so are tests, `*.policytest.yaml`.
    """
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        # WHY onerror: a folder that cannot be listed would silently drop its DENY rules.
        for folder, names, files in os.walk(path, followlinks=True, onerror=_raise):
            names[:] = sorted(name for name in names if not name.startswith("."))
            for name in sorted(files):
                found = Path(folder, name)
                is_test = found.stem.endswith(_TEST_SUFFIX)
                if found.suffix.lower() in _SUFFIXES and not name.startswith(".") and not is_test:
                    yield found


def read_policy_files(paths: Iterable[Path]) -> list[tuple[str, str]]:
    """Return `(file name, text)` of every policy file below `paths`.

    Raises:
        LoadError: a path is missing, unreadable, too large, empty or not UTF-8, or a
            folder holds no policy file.
    """
    texts: list[tuple[str, str]] = []
    problems: list[Diagnostic] = []
    for path in _found_files(paths, problems):
        try:
            if path.stat().st_size > _MAX_BYTES:
                problems.append(_problem(path, f"larger than {_MAX_BYTES} bytes"))
                continue
            text = path.read_text(encoding="utf-8")
        except OSError as exc:
            problems.append(_problem(path, f"cannot be read: {exc.strerror or exc}"))
            continue
        except UnicodeDecodeError as exc:
            problems.append(_problem(path, f"not UTF-8 at byte {exc.start}"))
            continue
        if not text.strip():
            # WHY: a half-written file looks like this, and would silently drop its DENY rules.
            help_ = "delete the file to remove its policies"
            problems.append(_problem(path, "the file is empty", help_))
        texts.append((str(path), text))
    if problems:
        raise LoadError(problems)
    return texts


def _found_files(paths: Iterable[Path], problems: list[Diagnostic]) -> Iterator[Path]:
    """Yield the files below each path, noting a folder that cannot be listed or holds none."""
    for path in paths:
        try:
            found = list(find_policy_files([path]))
        except OSError as exc:
            problems.append(_problem(Path(exc.filename), f"cannot be listed: {exc.strerror}"))
            continue
        if not found:
            # WHY: an unmounted volume looks like this, and no policy at all lets all in.
            help_ = "to allow everything, say so: an ALLOW policy with `rules: [{}]`"
            problems.append(_problem(path, "the folder holds no policy file", help_))
        yield from found


def _raise(error: OSError) -> None:
    raise error


def _problem(path: Path, message: str, help_: str = "") -> Diagnostic:
    return Diagnostic(
        code="unreadable-file", message=message, location=Location(str(path)), help=help_
    )
