"""The files in a tar archive, packed by gzip or not, read from memory and never unpacked to disk.

Theory of operation. A bundle comes from elsewhere, so its archive is read strictly: only
regular files and folders, one file a name, every header checked, nothing behind the end.
What another reader would skip (links, devices, sparse files, a second end) is refused, so that
nothing is signed or reviewed as one thing and served as another.

Spec: POSIX.1-2017 pax §"pax Interchange Format" and §"ustar Interchange Format"; RFC 1952.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from opa_bridge.bundle_paths import MAX_NAME_BYTES, clean_name
from opa_bridge.errors import PolicyBundleError
from policies.diagnostic import shown

_GZIP: Final = b"\x1f\x8b"
_BLOCK: Final = 512
_ZEROS: Final = bytes(_BLOCK)
_FILES: Final = (b"0", b"\0")
_FOLDER: Final = b"5"
_PAX: Final = (b"x", b"g")
_LONG_NAME: Final = b"L"
# Why each of these is no part of a policy.
_REFUSED_KINDS: Final = {
    b"1": "a link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
    b"K": "a link",
    b"S": "a sparse file",
}
# BUDGET: what is unpacked before the ratio of packed to unpacked counts.
_RATIO_FREE_BYTES: Final = 1024 * 1024
_STEP_BYTES: Final = 1024 * 1024
_PART_BYTES: Final = 4096
# BUDGET: names and times of one file; what a pax header holds besides is of no use here.
_PAX_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveLimits:
    """How large an archive may be, in bytes, entries and packed to unpacked.

    Text packs to a twentieth at best; 1:200 leaves room for repetitive data, and a bomb
    of deflate, 1:1000, is stopped early.
    """

    packed_bytes: int = 64 * 1024 * 1024
    unpacked_bytes: int = 256 * 1024 * 1024
    entries: int = 10_000
    ratio: int = 200


def read_archive(raw: bytes, limits: ArchiveLimits | None = None) -> dict[str, bytes]:
    """Return the content of every file by its clean path.

    Raises:
        PolicyBundleError: the bytes are no such archive, or more than the limits allow.
    """
    limits = limits or ArchiveLimits()
    if len(raw) > limits.packed_bytes:
        raise _refused(f"it is larger than {limits.packed_bytes} bytes")
    unpacked = _gunzip(raw, limits) if raw.startswith(_GZIP) else raw
    if len(unpacked) > limits.unpacked_bytes:
        raise _refused(f"it unpacks to more than {limits.unpacked_bytes} bytes")
    files: dict[str, bytes] = {}
    for count, (name, content) in enumerate(_entries(unpacked), 1):
        if count > limits.entries:
            raise _refused(f"it has more than {limits.entries} entries")
        if content is None:
            continue
        path = clean_name(name)
        if path in files:
            raise _refused(f"it holds two files `{path}`")
        files[path] = content
    return files


def _gunzip(raw: bytes, limits: ArchiveLimits) -> bytes:
    """Return what the gzip members of `raw` unpack to, no further than the limits."""
    unpacked, place = bytearray(), 0
    try:
        # RFC 1952 section 2.2: "a series of members ... one after another".
        while place < len(raw):
            place = _unpack_member(raw, place, unpacked, limits)
    except zlib.error as exc:
        raise _refused("the gzip stream is damaged", "fetch or build it again") from exc
    return bytes(unpacked)


def _unpack_member(raw: bytes, place: int, unpacked: bytearray, limits: ArchiveLimits) -> int:
    """Add what the member at a place unpacks to; return the place behind it."""
    member = zlib.decompressobj(16 + zlib.MAX_WBITS)
    while not member.eof:
        # WHY in parts: what zlib gives back is a copy, and there may be a member every 20 bytes.
        part = raw[place : place + _PART_BYTES]
        step = member.decompress(part, _STEP_BYTES)
        place += len(part) - len(member.unconsumed_tail) - len(member.unused_data)
        unpacked += step
        _check_ratio(len(unpacked), len(raw), limits)
        # What zlib holds back comes out without further input, unless there is nothing.
        if not (part or step or member.eof):
            raise _refused("the gzip stream is cut off", "fetch or build it again")
    return place


def _check_ratio(unpacked: int, packed: int, limits: ArchiveLimits) -> None:
    if unpacked > limits.unpacked_bytes:
        raise _refused(f"it unpacks to more than {limits.unpacked_bytes} bytes")
    if unpacked > _RATIO_FREE_BYTES and unpacked > packed * limits.ratio:
        raise _refused(f"it unpacks to more than {limits.ratio} times its size")


def _entries(data: bytes) -> Iterator[tuple[str, bytes | None]]:
    """Yield name and content of every entry; None is the content of what is no file."""
    place = 0
    long_name: str | None = None
    pax: dict[str, str] = {}
    while True:
        header = data[place : place + _BLOCK]
        if len(header) < _BLOCK:
            raise _refused("the tar stream is cut off or is none", "a bundle is a .tar.gz")
        if header == _ZEROS:
            _check_end(data, place)
            return
        kind, name, size = _read_header(header)
        if kind in _FILES and "size" in pax:
            size = _decimal(pax["size"])
        content = data[place + _BLOCK : place + _BLOCK + size]
        if len(content) < size:
            raise _refused("the tar stream is cut off", "fetch or build it again")
        place += _BLOCK + -(-size // _BLOCK) * _BLOCK
        if kind == _LONG_NAME:
            long_name = _text(content.partition(b"\0")[0])
            continue
        if kind in _PAX:
            found = _read_pax(content)
            if kind == b"g" and {"path", "size"} & set(found):
                raise _refused("a global pax header names a file")
            pax = found if kind == b"x" else pax
            yield "", None
            continue
        yield _checked(kind, pax.get("path", long_name or name), content)
        long_name, pax = None, {}


def _checked(kind: bytes, name: str, content: bytes) -> tuple[str, bytes | None]:
    """Return an entry, None for the content of a folder."""
    if kind == _FOLDER:
        return name, None
    if kind not in _FILES:
        what = _REFUSED_KINDS.get(kind, "of a kind that is not known")
        why = f"`{shown(name)}` is {what}"
        raise _refused(why, "a bundle holds files and folders only; pack with `tar -h`")
    # Before ustar a folder was a file whose name ends in a slash.
    if name.endswith("/"):
        if content:
            raise _refused(f"the folder `{shown(name)}` has a content")
        return name, None
    return name, content


def _read_header(header: bytes) -> tuple[bytes, str, int]:
    """Return kind, name and size of a header whose checksum holds."""
    total = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    if _octal(header[148:156]) != total:
        raise _refused("the tar stream is damaged or is none", "a bundle is a .tar.gz")
    name = header[:100].partition(b"\0")[0]
    # Only POSIX has a prefix there; GNU's magic ends in a blank and keeps times in its place.
    if header[257:263] == b"ustar\0":
        prefix = header[345:500].partition(b"\0")[0]
        name = prefix + b"/" + name if prefix else name
    size = header[124:136]
    # GNU's base-256 for what octal cannot say, 8 GiB and more.
    if size[0] & 0x80:
        raise _refused("it holds a file of more than 8 GiB")
    return header[156:157], _text(name), _octal(size)


def _octal(field: bytes) -> int:
    digits = field.strip(b" \0")
    if not digits:
        return 0
    if not digits.isdigit() or b"8" in digits or b"9" in digits:
        raise _refused("the tar stream is damaged or is none", "a bundle is a .tar.gz")
    return int(digits, 8)


def _read_pax(content: bytes) -> dict[str, str]:
    """Return the records of a pax header: `"%d %s=%s\\n", <length>, <keyword>, <value>`."""
    if len(content) > _PAX_BYTES:
        raise _refused(f"a pax header is larger than {_PAX_BYTES} bytes")
    records: dict[str, str] = {}
    rest = content
    while rest:
        digits, blank, _ = rest.partition(b" ")
        length = _decimal(digits.decode("latin-1")) if len(digits) < 10 else 0
        record, rest = rest[:length], rest[length:]
        key, sign, value = record[len(digits) + 1 :].partition(b"=")
        if not (blank and sign and record.endswith(b"\n")) or len(record) < length:
            raise _refused("a pax header is damaged")
        keyword = _text(key)
        if keyword.startswith("GNU.sparse."):
            raise _refused("it holds a sparse file")
        if keyword in records:
            raise _refused(f"a pax header says `{shown(keyword)}` twice")
        # Comments and times may hold anything; nothing of them is used.
        records[keyword] = _text(value[:-1]) if keyword in ("path", "size") else ""
    return records


def _decimal(digits: str) -> int:
    if not digits.isascii() or not digits.isdigit() or len(digits) > 15:
        raise _refused("a pax header is damaged")
    return int(digits)


def _text(raw: bytes) -> str:
    if len(raw) > MAX_NAME_BYTES:
        raise _refused(f"a name is longer than {MAX_NAME_BYTES} bytes")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise _refused("a name is not UTF-8") from exc


def _check_end(data: bytes, place: int) -> None:
    """Refuse what stands behind the end: another reader might take it for files."""
    if data.count(0, place) != len(data) - place:
        raise _refused("something stands behind the end of the tar stream")


def _refused(why: str, help_: str = "") -> PolicyBundleError:
    return PolicyBundleError("bundle.archive", f"the archive cannot be used: {why}", help_)
