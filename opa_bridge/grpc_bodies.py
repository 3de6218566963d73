"""gRPC request bodies as values, by the descriptors of the services.

Spec: gRPC over HTTP/2, "Length-Prefixed-Message → Compressed-Flag Message-Length Message";
opa-envoy-plugin, `proto-descriptor`: only the first message is read, and only of methods
whose client sends one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from opa_bridge.errors import InputError
from policies.diagnostic import Diagnostic, LoadError, Location

_FRAME_HEADER: Final = 5
# A service and a method: `/package.Service/Method`.
_PATH_PARTS: Final = 2
# BUDGET: files on the way to one; more is a ring of imports, which the pool refuses.
_FILES_MOST: Final = 20_000


class GrpcBodies:
    """Reads messages of the services in a descriptor set. Safe from many threads."""

    def __init__(self, descriptor_set: bytes, file: str = "") -> None:
        """Read a serialized FileDescriptorSet (`protoc --include_imports -o FILE`).

        Raises:
            LoadError: it is none, or it lacks a file that another one imports.
        """
        self._pool = DescriptorPool()
        try:
            found = FileDescriptorSet.FromString(descriptor_set)
            if not found.file:
                raise _unusable(file, "the proto descriptor holds no file")
            for each in _in_order(found.file):
                self._pool.Add(each)
                self._pool.FindFileByName(each.name)
        except DecodeError as exc:
            raise _unusable(file, "the proto descriptor is no FileDescriptorSet") from exc
        except (TypeError, KeyError, ValueError) as exc:
            help_ = "write it with all its imports: `protoc --include_imports -o FILE`"
            raise _unusable(file, "the proto descriptor is incomplete", help_) from exc

    @classmethod
    def from_file(cls, path: Path) -> GrpcBodies:
        """Return the services of a file.

        Raises:
            LoadError: it cannot be read or is no descriptor set.
        """
        try:
            return cls(path.read_bytes(), str(path))
        except OSError as exc:
            why = f"the proto descriptor cannot be read: {exc.strerror or exc}"
            raise _unusable(str(path), why) from exc

    def parse(self, body: bytes, parsed_path: Sequence[str]) -> tuple[Any, bool]:
        """Return `(parsed_body, truncated_body)` of a call; None where nothing can be read.

        Raises:
            InputError: not a gRPC path or frame, or not a message of the method.
        """
        if len(parsed_path) != _PATH_PARTS:
            raise InputError("the path of the gRPC request is not `/service/method`")
        if len(body) < _FRAME_HEADER:
            raise InputError("the gRPC body is shorter than the head of a frame")
        # "Compressed-Flag → 0 / 1": what is compressed is left alone.
        if body[0] != 0:
            return None, False
        size = int.from_bytes(body[1:_FRAME_HEADER])
        message = body[_FRAME_HEADER : _FRAME_HEADER + size]
        if len(message) < size:
            return None, True
        kind = self._input_of(*parsed_path)
        if kind is None:
            return None, False
        try:
            return MessageToDict(GetMessageClass(kind).FromString(message)), False
        # Values that have no JSON form (a Timestamp out of range) count as unreadable.
        except (DecodeError, ValueError, TypeError, RecursionError) as exc:
            raise InputError("the gRPC body is not a message of its method") from exc

    def _input_of(self, service: str, method: str) -> Any:
        """Return what the method takes, or None: unknown, or its client sends a stream."""
        try:
            found = self._pool.FindServiceByName(service).methods_by_name.get(method)
        except KeyError:
            return None
        return None if found is None or found.client_streaming else found.input_type


def _in_order(files: Iterable[FileDescriptorProto]) -> list[FileDescriptorProto]:
    """Return the files, each behind those that it imports."""
    left = {file.name: file for file in files}
    ordered: list[FileDescriptorProto] = []
    waiting = list(reversed(list(left)))
    while waiting:
        file = left.get(waiting[-1])
        needed = [] if file is None else [name for name in file.dependency if name in left]
        if file is None:
            waiting.pop()
        elif needed and len(waiting) <= _FILES_MOST:
            waiting += needed
        else:
            ordered.append(left.pop(waiting.pop()))
    return ordered


def _unusable(file: str, message: str, help_: str = "") -> LoadError:
    problem = Diagnostic(
        code="rego.proto_descriptor", message=message, location=Location(file), help=help_
    )
    return LoadError([problem])
