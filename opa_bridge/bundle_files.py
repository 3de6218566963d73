"""Bundles on disk: a folder, or an archive in one file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from opa_bridge.bundle_archive import ArchiveLimits, read_archive
from opa_bridge.bundle_paths import clean_name
from opa_bridge.bundle_signature import Signing, SigningKey, check_key
from opa_bridge.errors import PolicyBundleError

# BUDGET: a PEM of an RSA key of 16384 bits has some 12 KiB.
_MAX_KEY_BYTES = 64 * 1024
# Kubernetes keeps each version of a mounted volume in such a folder, and links lead there.
_VERSION_FOLDER = ".."


def read_bundle_files(path: Path, limits: ArchiveLimits | None = None) -> dict[str, bytes]:
    """Return the files of a bundle by their path in it.

    A folder's links to files are followed as long as they stay in it; folders whose name
    begins with a dot are left out.

    Raises:
        PolicyBundleError: it cannot be read, or is no bundle.
    """
    limits = limits or ArchiveLimits()
    try:
        if path.is_dir():
            return _read_folder(path, limits)
        with path.open("rb") as file:
            raw = file.read(limits.packed_bytes + 1)
    except OSError as exc:
        raise _unreadable(path, exc) from exc
    return read_archive(raw, limits)


def read_signing(keys: tuple[tuple[str, str, Path], ...], scope: str) -> Signing:
    """Return who may sign, from `(key id, algorithm, file)`; the files are read anew.

    Raises:
        PolicyBundleError: a file cannot be read, or its key is unfit.
    """
    found: list[SigningKey] = []
    for key_id, algorithm, path in keys:
        try:
            with path.open("rb") as file:
                content = file.read(_MAX_KEY_BYTES + 1)
        except OSError as exc:
            raise _unreadable(path, exc) from exc
        if len(content) > _MAX_KEY_BYTES:
            raise PolicyBundleError("bundle.signature", f"`{path}` is too large for a key")
        key = SigningKey(algorithm=algorithm, key=content, key_id=key_id)
        check_key(key)
        found.append(key)
    return Signing(keys=tuple(found), scope=scope)


def _read_folder(folder: Path, limits: ArchiveLimits) -> dict[str, bytes]:
    inside = folder.resolve()
    files: dict[str, bytes] = {}
    left = limits.unpacked_bytes
    for path in _found(folder):
        target = path.resolve()
        if not target.is_relative_to(inside):
            why = f"`{path}` links to a file outside of the bundle"
            raise PolicyBundleError("bundle.name", why, "copy the file into the folder")
        if not target.is_file():
            continue
        with target.open("rb") as file:
            content = file.read(left + 1)
        left -= len(content)
        files[clean_name(path.relative_to(folder).as_posix())] = content
        if left < 0:
            why = f"the folder holds more than {limits.unpacked_bytes} bytes"
            raise PolicyBundleError("bundle.archive", why)
        if len(files) > limits.entries:
            why = f"the folder holds more than {limits.entries} files"
            raise PolicyBundleError("bundle.archive", why)
    return files


def _found(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, in a stable order."""
    for here, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(here, name) for name in sorted(names) if name != _VERSION_FOLDER)


def _raise(error: OSError) -> None:
    raise error


def _unreadable(path: Path, exc: OSError) -> PolicyBundleError:
    return PolicyBundleError("bundle.file", f"`{path}` cannot be read: {exc.strerror or exc}")
