"""The texts of policies that a command line names: files, folders, standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from policies.diagnostic import Diagnostic, LoadError, Location
from policies.files import find_policy_files, read_policy_files

_STDIN = Path("-")
_STDIN_NAME = "<stdin>"


def read_texts(paths: Iterable[Path]) -> tuple[list[tuple[str, str]], list[Diagnostic]]:
    """Return the texts that can be read, and why the others cannot."""
    texts: list[tuple[str, str]] = []
    problems: list[Diagnostic] = []
    for path in paths:
        try:
            texts.extend((_read_stdin(),) if path == _STDIN else read_policy_files([path]))
        except LoadError as exc:
            problems.extend(exc.diagnostics)
            texts.extend(_readable(path))
    return texts, problems


def _readable(path: Path) -> Iterable[tuple[str, str]]:
    """Yield the files of a folder that can be read, some of which cannot."""
    try:
        files = list(find_policy_files([path])) if path.is_dir() else []
    except OSError:
        return
    for file in files:
        try:
            yield from read_policy_files([file])
        except LoadError:
            continue


def _read_stdin() -> tuple[str, str]:
    raw = sys.stdin.buffer.read()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise LoadError([_stdin_problem(f"not UTF-8 at byte {exc.start}")]) from exc
    if not text.strip():
        raise LoadError([_stdin_problem("standard input is empty")])
    return _STDIN_NAME, text


def _stdin_problem(message: str) -> Diagnostic:
    return Diagnostic(code="unreadable-file", message=message, location=Location(_STDIN_NAME))
