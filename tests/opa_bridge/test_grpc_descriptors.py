"""Descriptor sets that cannot serve are refused at load, and hostile messages cost one request."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from hypothesis import given
from hypothesis import strategies as st

from opa_bridge.errors import InputError
from opa_bridge.grpc_bodies import GrpcBodies
from policies.diagnostic import LoadError

FILE = FileDescriptorProto(name="a.proto", package="a", syntax="proto3")
FILE.message_type.add(name="M").field.add(name="m", number=1, type=11, type_name=".a.M", label=1)
FILE.service.add(name="S").method.add(name="Do", input_type=".a.M", output_type=".a.M")


def described(*files: FileDescriptorProto) -> bytes:
    """Return a descriptor set."""
    return FileDescriptorSet(file=files).SerializeToString()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no file"),
        (b"\xff\xff", "is no FileDescriptorSet"),
        (described(FileDescriptorProto(name="b.proto", dependency=["c.proto"])), "is incomplete"),
        (
            described(
                FileDescriptorProto(name="b.proto", dependency=["c.proto"]),
                FileDescriptorProto(name="c.proto", dependency=["b.proto"]),
            ),
            "is incomplete",
        ),
    ],
)
def test_sets_that_cannot_serve(content: bytes, message: str, tmp_path: Path) -> None:
    """What is no descriptor set, or lacks what it imports, is told at load."""
    path = tmp_path / "services.pb"
    path.write_bytes(content)
    with pytest.raises(LoadError, match=message):
        GrpcBodies.from_file(path)


def test_file_that_is_not_there(tmp_path: Path) -> None:
    """A missing file is told at load."""
    with pytest.raises(LoadError, match="cannot be read"):
        GrpcBodies.from_file(tmp_path / "missing.pb")


def test_files_in_any_order() -> None:
    """A file may stand before the one that it imports."""
    user = FileDescriptorProto(name="b.proto", package="b", dependency=["a.proto"], syntax="proto3")
    user.service.add(name="S").method.add(name="Do", input_type=".a.M", output_type=".a.M")
    bodies = GrpcBodies(described(user, FILE))
    assert bodies.parse(b"\0\0\0\0\0", ["b.S", "Do"]) == ({}, False)


def test_endless_nesting() -> None:
    """A message that nests as deep as its bytes allow is an unreadable one."""
    message = b""
    for _ in range(3000):
        size, length = len(message), b""
        while size > 127:
            length += bytes([size & 127 | 128])
            size >>= 7
        message = b"\x0a" + length + bytes([size]) + message
    frame = b"\0" + len(message).to_bytes(4) + message
    with pytest.raises(InputError, match="not a message of its method"):
        GrpcBodies(described(FILE)).parse(frame, ["a.S", "Do"])


BODIES = GrpcBodies(described(FILE))


@given(st.binary(max_size=40), st.booleans())
def test_any_bytes_give_a_value_or_an_input_error(content: bytes, is_framed: bool) -> None:
    """No body escapes with another exception."""
    frame = b"\0" + len(content).to_bytes(4) + content if is_framed else content
    with contextlib.suppress(InputError):
        BODIES.parse(frame, ["a.S", "Do"])
