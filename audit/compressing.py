"""Closed segments made smaller: `audit-N.jsonl` becomes `audit-N.jsonl.gz`, the lines as they were.

Beside it stands `audit-N.jsonl.gz.sha256`, in the form of `sha256sum`: gzip has bytes and bits
that its own checksum does not cover. The plain file goes only once the other was read back; a
process that ends in between begins again.
"""

from __future__ import annotations

import gzip
import hashlib
import os
from pathlib import Path
from typing import BinaryIO, Final, cast

from audit.chain import COMPRESSED, list_segments
from audit.whole_file import replace_file, sync_folder

DIGEST: Final = ".sha256"
_MODE: Final = 0o640
_LEVEL: Final = 6
_STEP: Final = 256 * 1024  # BUDGET: bytes between two moments in which others may go on


def compress_closed(folder: Path, newest: int) -> int:
    """Compress every plain segment before `newest`, the one that is open; return how many.

    Raises:
        OSError: one could not be compressed; it stays as it was.
    """
    closed = [path for number, path in list_segments(folder) if number < newest]
    plain = [path for path in closed if not path.name.endswith(COMPRESSED)]
    for path in plain:
        _compress(path)
    return len(plain)


def digest_path(path: Path) -> Path:
    """Return the file that holds a compressed segment's digest."""
    return path.with_name(path.name + DIGEST)


def digest_fault(path: Path) -> str:
    """Return what is wrong with a compressed segment's bytes, empty when nothing is.

    Raises:
        OSError: the segment cannot be read.
    """
    try:
        stated = digest_path(path).read_bytes()
    except FileNotFoundError:
        return f"its digest `{digest_path(path).name}` is missing"
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if stated != _digest_line(found, path.name):
        return f"its bytes are not those that `{digest_path(path).name}` names"
    return ""


def _compress(path: Path) -> None:
    target = path.with_name(path.name + COMPRESSED)
    part = path.with_name(f".{target.name}.part")
    try:
        digest = _write_compressed(path, part)
        with gzip.open(part) as back, path.open("rb") as plain:
            if _digest(cast(BinaryIO, back)) != _digest(plain):
                raise OSError(f"`{part.name}` does not read back as it was written")
        replace_file(digest_path(target), _digest_line(digest, target.name))
        part.replace(target)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
    path.unlink()
    sync_folder(path.parent)


def _write_compressed(path: Path, part: Path) -> str:
    """Write the compressed file, force it to the disk, and return its digest."""
    fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _MODE)
    with os.fdopen(fd, "w+b") as raw, path.open("rb") as plain:
        with gzip.GzipFile("", "wb", _LEVEL, raw, mtime=0) as packed:
            while block := plain.read(_STEP):
                packed.write(block)
        raw.flush()
        os.fsync(raw.fileno())
        raw.seek(0)
        return _digest(raw)


def _digest(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := file.read(_STEP):
        digest.update(block)
    return digest.hexdigest()


def _digest_line(digest: str, name: str) -> bytes:
    return f"{digest}  {name}\n".encode()
