"""The data in a compiled policy's binary form, written without the library.

Theory of operation. The library parses a megabyte of data in some twenty seconds, and loads
the same data from its own binary form in a quarter of one. So a policy is compiled with an
outline of its data, and the data themselves are put into the binary here. The plan that the
library makes depends on which keys stand at the top of `data` and along the paths of the
packages, never on values; tests hold every byte against what the library writes itself.

The form, as version 1.5.2 writes it (which the project pins): a header of 64 bytes, sections
one after another, the last of them the data as a dialect of BSON. Lengths count the elements
alone; numbers are binary values that hold their text, of subtype 0x80 when whole, else 0x81.
Texts are in JSON's escaped spelling, as everywhere in the library.
"""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

_MAGIC: Final = b"REGOBUND\x01\x01\xff\x00"
_HEADER_BYTES: Final = 64
# Within the header: the checksum of what follows it, its length, and where the data begin.
_CHECKSUM, _LENGTH, _DATA = 20, 24, 56
_ROOT, _TEXT, _OBJECT, _ARRAY, _BINARY = b"\x04", b"\x02", b"\x03", b"\x04", b"\x05"
_BOOLEAN, _NULL = b"\x08", b"\x0a"
_WHOLE, _BROKEN = b"\x80", b"\x81"
_HALF: Final = re.compile("[\ud800-\udfff]")
_size = struct.Struct("<I").pack


class UnknownForm(Exception):
    """A binary has not the form that is written here."""


def outline_of(data: Mapping[str, Any], packages: Iterable[Sequence[str]]) -> dict[str, Any]:
    """Return the keys that a plan depends on; the values behind them are emptied.

    >>> outline_of({"a": {"b": {"x": [1]}, "c": 2}, "users": {"u": 1}}, [("a", "b")])
    {'a': {'b': {'x': []}, 'c': 0}, 'users': {}}
    """
    packages = [tuple(package) for package in packages]
    outline: dict[str, Any] = {}
    for key, value in data.items():
        below = [package[1:] for package in packages if package and package[0] == key]
        if isinstance(value, Mapping):
            outline[key] = outline_of(value, below) if below else {}
        else:
            outline[key] = None if value is None else type(value)()
    return outline


def with_data(binary: bytes, data: Mapping[str, Any]) -> bytes:
    """Return a compiled policy with other data, whose outline is the same.

    Raises:
        UnknownForm: it is not the form of the library's version that is known.
    """
    if not binary.startswith(_MAGIC) or len(binary) < _HEADER_BYTES:
        raise UnknownForm
    header = bytearray(binary[:_HEADER_BYTES])
    (length,) = struct.unpack_from("<Q", header, _LENGTH)
    (checksum,) = struct.unpack_from("<I", header, _CHECKSUM)
    (place,) = struct.unpack_from("<Q", header, _DATA)
    body = binary[_HEADER_BYTES:]
    if length != len(body) or checksum != zlib.crc32(body) or binary[place : place + 1] != _ROOT:
        raise UnknownForm
    body = binary[_HEADER_BYTES:place] + _ROOT + _document(_fields(data))
    struct.pack_into("<I", header, _CHECKSUM, zlib.crc32(body))
    struct.pack_into("<Q", header, _LENGTH, len(body))
    return bytes(header) + body


def pack_binaries(binaries: Iterable[bytes]) -> bytes:
    """Return several binaries one behind the other.

    >>> list(unpack_binaries(pack_binaries([b"a", b"", b"bc"])))
    [b'a', b'', b'bc']
    """
    return b"".join(part for each in binaries for part in (len(each).to_bytes(4), each))


def unpack_binaries(packed: bytes) -> list[bytes]:
    """Return what `pack_binaries` put together."""
    found: list[bytes] = []
    place = 0
    while place < len(packed):
        size = int.from_bytes(packed[place : place + 4])
        found.append(packed[place + 4 : place + 4 + size])
        place += 4 + size
    return found


def _fields(value: Mapping[str, Any]) -> Iterator[bytes]:
    for key, item in value.items():
        yield from _element(_escaped(key), item)


def _items(value: Sequence[Any]) -> Iterator[bytes]:
    for index, item in enumerate(value):
        yield from _element(b"%d" % index, item)


def _element(name: bytes, value: Any) -> Iterator[bytes]:
    """Yield kind, name and value of one element."""
    match value:
        case str():
            text = _escaped(value)
            yield from (_TEXT, name, b"\0", _size(len(text) + 1), text, b"\0")
        case None:
            yield from (_NULL, name, b"\0")
        case bool():
            yield from (_BOOLEAN, name, b"\0", b"\1" if value else b"\0")
        case Mapping():
            yield from (_OBJECT, name, b"\0", _document(_fields(value)))
        case list() | tuple():
            yield from (_ARRAY, name, b"\0", _document(_items(value)))
        case _:
            text = _spelled(value)
            kind = _BROKEN if b"." in text else _WHOLE
            yield from (_BINARY, name, b"\0", _size(len(text)), kind, text)


def _document(elements: Iterable[bytes]) -> bytes:
    content = b"".join(elements)
    return _size(len(content)) + content + b"\0"


def _escaped(text: str) -> bytes:
    # Half of a surrogate pair is U+FFFD, as in Go.
    whole = _HALF.sub("\ufffd", text)
    return json.dumps(whole, ensure_ascii=False)[1:-1].encode()


def _spelled(value: float) -> bytes:
    # The library reads no exponents in data.
    text = str(value) if isinstance(value, int) else repr(value)
    return (f"{Decimal(text):f}" if "e" in text else text).encode()
