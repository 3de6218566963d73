"""Every field of a CheckRequest counts in its key, but for those that are declared not to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from google.protobuf.descriptor import FieldDescriptor

from authz.check_key import VOLATILE_HEADERS, CheckKey, has_plain_names, key_of
from policies.path_view import PATH_HEADER

_NOT_COUNTED = {
    "attributes.request.time.seconds",
    "attributes.request.time.nanos",
    "attributes.request.http.id",
    "attributes.request.http.size",
    "attributes.source.address.socket_address.port_value",
}
_NUMBERS = {
    FieldDescriptor.CPPTYPE_INT32,
    FieldDescriptor.CPPTYPE_INT64,
    FieldDescriptor.CPPTYPE_UINT32,
    FieldDescriptor.CPPTYPE_UINT64,
}

Change = Callable[[CheckRequest, int], None]


def _base() -> CheckRequest:
    message = CheckRequest()
    attributes = message.attributes
    attributes.request.time.seconds = 1_700_000_000
    http = attributes.request.http
    http.id, http.method, http.path, http.host = "1", "GET", "/", "shop"
    http.headers["x-request-id"] = "1"
    for peer in (attributes.source, attributes.destination):
        peer.address.socket_address.address = "10.0.0.1"
        peer.address.socket_address.port_value = 7
    return message


def _key(message: CheckRequest, forwarded: tuple[str, ...] = ()) -> CheckKey:
    key = key_of(message.SerializeToString(), forwarded, VOLATILE_HEADERS)
    assert key is not None
    return key


def _counted(message: CheckRequest) -> object:
    key = _key(message)
    return key.question, key.path


def _fields(
    descriptor: Any, path: tuple[str, ...], seen: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], FieldDescriptor]]:
    """Yield every field below a message, once for each way, no type within itself."""
    for field in descriptor.fields:
        yield (*path, field.name), field
        inner = field.message_type
        if inner is None or field.is_repeated:
            continue
        if inner.full_name not in seen:
            yield from _fields(inner, (*path, field.name), (*seen, inner.full_name))


def _value(field: FieldDescriptor, number: int) -> Any:
    """Return one of several values of a scalar field, none of them the default or the base's."""
    if field.cpp_type in _NUMBERS:
        return 100 + number
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_ENUM:
            return 1
        case FieldDescriptor.CPPTYPE_BOOL:
            return True
        case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
            return 1.5 + number
    text = f"v{number}"
    return text.encode() if field.type == FieldDescriptor.TYPE_BYTES else text


def _change(message: CheckRequest, path: tuple[str, ...], field: Any, number: int) -> None:
    """Set, or add to, the field at a path."""
    owner: Any = message
    for name in path[:-1]:
        owner = getattr(owner, name)
    target = getattr(owner, field.name)
    if not field.is_repeated:
        if field.message_type is None:
            setattr(owner, field.name, _value(field, number))
        else:
            target.SetInParent()
    elif field.message_type is None:
        target.append(_value(field, number))
    elif not field.message_type.GetOptions().map_entry:
        added = target.add()
        inner = added.DESCRIPTOR.fields[0]
        setattr(added, inner.name, _value(inner, number))
    else:
        value = field.message_type.fields_by_name["value"]
        if value.message_type is None:
            target[f"key{number}"] = _value(value, number)
        else:
            target[f"key{number}"].SetInParent()


def test_every_field_counts_but_the_declared() -> None:
    """A value anywhere in the message, or an empty part of it, makes another question."""
    base = _counted(_base())
    found, checked = set(), 0
    for path, field in _fields(CheckRequest.DESCRIPTOR, (), ()):
        name = ".".join(path)
        keys = set()
        for number in (1, 2):
            message = _base()
            _change(message, path, field, number)
            if message == _base():
                continue  # a part that the base has already
            checked += 1
            keys.add(_counted(message))
        if base in keys:
            found.add(name)
            assert keys == {base}, name
    assert found == _NOT_COUNTED
    assert checked > 100


@pytest.mark.parametrize("form", ["map", "raw"])
@pytest.mark.parametrize("name", [*VOLATILE_HEADERS, "x-other", "X-Request-Id"])
def test_of_volatile_headers_the_name_counts(name: str, form: str) -> None:
    """The value of a trace header does not count, its presence does; another's value counts."""

    def message(value: str | None) -> CheckRequest:
        made = _base()
        del made.attributes.request.http.headers["x-request-id"]
        made.attributes.request.http.header_map.SetInParent()
        if form == "map":
            made.attributes.request.http.ClearField("header_map")
        if value is not None and name == PATH_HEADER:
            made.attributes.request.http.path = value
        if value is not None and form == "map":
            made.attributes.request.http.headers[name] = value
        elif value is not None:
            made.attributes.request.http.header_map.headers.add(key=name, raw_value=value.encode())
        return made

    absent, one, other = (_key(message(value)) for value in (None, "1", "2"))
    assert absent.question != one.question
    assert (one.question == other.question) == (name in VOLATILE_HEADERS)
    assert other.values == (((name, "2"),) if name in VOLATILE_HEADERS else ())


def test_a_volatile_header_that_policies_look_at_counts() -> None:
    """A header that is not named as volatile to the key is one like any other."""
    messages = [_base(), _base()]
    messages[1].attributes.request.http.headers["x-request-id"] = "2"
    keys = [key_of(each.SerializeToString(), (), ("traceparent",)) for each in messages]
    assert None not in keys
    assert len({each.question for each in keys if each}) == 2


@pytest.mark.parametrize("form", ["none", "map", "raw"])
def test_a_path_stands_beside_its_question(form: str) -> None:
    """Two paths are one question, each with its own path, and a header that differs has no key."""

    def key(path: str, shown: str, volatile: tuple[str, ...] = VOLATILE_HEADERS) -> Any:
        made = _base()
        http = made.attributes.request.http
        http.path = path
        if form == "map":
            http.headers[PATH_HEADER] = shown
        elif form == "raw":
            http.header_map.headers.add(key=PATH_HEADER, raw_value=shown.encode())
        return key_of(made.SerializeToString(), (), volatile)

    one, other = key("/a?x", "/a?x"), key("/b", "/b")
    assert one.question == other.question
    assert (one.path, other.path) == ("/a?x", "/b")
    assert key("", "").path == ""
    assert (key("/a", "/b") is None) is (form != "none")
    # Where something looks at the header, the path is in the question.
    counted = [key(path, path, VOLATILE_HEADERS[:-1]) for path in ("/a", "/b", "")]
    assert len({each.question for each in counted}) == 3
    assert {each.path for each in counted} == {""}


def test_what_the_call_says_of_the_peer_counts() -> None:
    """The same message with other metadata is another question."""
    assert len({_key(_base(), each).question for each in ((), ("a",), ("b",), ("a", "b"))}) == 4


def test_unknown_fields_count() -> None:
    """A field of a newer protocol is in the key as it came."""
    raw = _base().SerializeToString()
    # Field 2047, of varint type, in the outer message.
    keys = [key_of(raw + more, (), ()) for more in (b"", b"\xf8\x7f\x01", b"\xf8\x7f\x02")]
    assert len({each.question for each in keys if each}) == 3


def test_the_order_of_a_map_does_not_count() -> None:
    """Envoy writes the headers of equal requests in any order."""
    one, other = _base(), _base()
    for message, names in ((one, "abcdefgh"), (other, "hgfedcba")):
        for name in names:
            message.attributes.request.http.headers[name] = name
    assert _key(one).question == _key(other).question


@pytest.mark.parametrize(
    "message",
    [b"\xff\xff", b"", CheckRequest().SerializeToString(), b"\x0a\x05hello"],
    ids=["noise", "empty", "nothing", "short"],
)
def test_what_is_no_request_has_no_key(message: bytes) -> None:
    """Nothing but a message about HTTP can be remembered."""
    assert key_of(message, (), VOLATILE_HEADERS) is None


def test_a_long_message_has_no_key() -> None:
    """What is kept has a bounded size."""
    for size, has_key in ((8192, True), (8193, False), (16_384, False)):
        message = _base()
        body = message.attributes.request.http
        body.raw_body = b"x" * 8000
        body.raw_body += b"x" * (size - message.ByteSize())
        raw = message.SerializeToString()
        assert len(raw) == size
        assert (key_of(raw, (), VOLATILE_HEADERS) is not None) is has_key


def test_a_pipe_stays_a_pipe() -> None:
    """Taking the port out does not turn a Unix socket into an address."""
    one, other = _base(), _base()
    one.attributes.source.address.pipe.path = "/run/a"
    other.attributes.source.address.ClearField("pipe")
    other.attributes.source.address.ClearField("socket_address")
    assert _key(one).question != _key(other).question


@pytest.mark.parametrize(
    ("names", "plain"),
    [
        (("x-request-id", "accept"), True),
        (("X-Request-Id", "accept"), False),
        (("x-request-id", "x-request-id"), False),
        (("accept", "accept"), True),
    ],
)
def test_names_that_could_be_one_header(names: tuple[str, ...], plain: bool) -> None:
    """Two spellings of a header, or a trace header twice, are not plain."""
    message = _base()
    for name in names:
        message.attributes.request.http.header_map.headers.add(key=name, raw_value=b"v")
    assert has_plain_names(message.SerializeToString()) is plain


@pytest.mark.parametrize(("name", "plain"), [("accept", True), ("Accept", False), ("X-B3", False)])
def test_names_of_joined_headers_count_as_well(name: str, plain: bool) -> None:
    """Headers that came joined are looked at like raw ones."""
    message = _base()
    message.attributes.request.http.headers[name] = "v"
    assert has_plain_names(message.SerializeToString()) is plain
