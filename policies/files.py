"""Policy files on disk: found in a stable order, read whole. The only I/O of this package."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from policies.diagnostic import Diagnostic, LoadError, Location
from policies.documents import MAX_BYTES, TOO_LARGE

_SUFFIXES = frozenset({".yaml", ".yml"})
_TEST_SUFFIX = ".policytest"


def find_policy_files(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the files of `paths`: files as they are, folders walked in name order.

    Hidden entries are left out (Kubernetes mounts keep their old copies in such
    folders), and so are tests, `*.policytest.yaml`.

    Raises:
        OSError: a folder cannot be listed, or is reached twice.
    """
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        # WHY on_error: a folder that cannot be listed would silently drop its DENY rules.
        for folder, names, files in walk_once(path, _raise):
            names[:] = sorted(name for name in names if not name.startswith("."))
            for name in sorted(files):
                found = Path(folder, name)
                is_test = found.stem.endswith(_TEST_SUFFIX)
                if found.suffix.lower() in _SUFFIXES and not name.startswith(".") and not is_test:
                    yield found


def walk_once(
    top: Path, on_error: Callable[[OSError], None] | None = None
) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield what `os.walk` yields, links followed, but each folder once.

    WHY once: two links to a folder above them would be walked for ever. A folder that
    is reached again, or cannot be listed, is an OSError to `on_error`, or left out.
    """
    seen: dict[tuple[int, int], str] = {}
    for folder, names, files in os.walk(top, followlinks=True, onerror=on_error):
        try:
            info = Path(folder).stat()
            first = seen.setdefault((info.st_dev, info.st_ino), folder)
            if first is not folder:
                raise OSError(errno.ELOOP, f"it is `{first}` again", folder)
        except OSError as exc:
            names.clear()
            if on_error is not None:
                on_error(exc)
            continue
        yield folder, names, files


def read_policy_files(paths: Iterable[Path]) -> list[tuple[str, str]]:
    """Return `(file name, text)` of every policy file below `paths`.

    Raises:
        LoadError: a path is missing, unreadable, no file, too large, empty or not UTF-8,
            or a folder holds no policy file.
    """
    texts: list[tuple[str, str]] = []
    problems: list[Diagnostic] = []
    for path in _found_files(paths, problems):
        try:
            text = _read(path)
        except OSError as exc:
            problems.append(_problem(path, f"cannot be read: {exc.strerror or exc}"))
        except UnicodeDecodeError as exc:
            problems.append(_problem(path, f"not UTF-8 at byte {exc.start}", "save it as UTF-8"))
        except ValueError:
            problems.append(_problem(path, "not a path: it holds a NUL or half a character"))
        except _UnfitFile as exc:
            problems.append(_problem(path, *exc.args))
        else:
            texts.append((str(path), text))
    if problems:
        raise LoadError(problems)
    return texts


class _UnfitFile(Exception):
    """What a path names is no policy file; the arguments are a message and its help."""


def _read(path: Path) -> str:
    """Return the text of a regular file that is neither too large nor empty."""
    # WHY not blocking: opening a pipe waits for its writer, and there may be none.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    with os.fdopen(descriptor, "rb") as file:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            raise _UnfitFile("not a regular file", "write the policies to a file")
        # The size is asked for first, so that a large file is refused without reading it.
        content = b"" if info.st_size > MAX_BYTES else file.read(MAX_BYTES + 1)
        if max(info.st_size, len(content)) > MAX_BYTES:
            raise _UnfitFile(TOO_LARGE, "split the file")
    text = content.decode("utf-8")
    if not text.strip():
        # WHY: a half-written file looks like this, and would silently drop its DENY rules.
        raise _UnfitFile("the file is empty", "delete the file to remove its policies")
    return text


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
