"""A memory of header blocks: what it gives is what hpack gives, whatever came before."""

from __future__ import annotations

from hpack import Decoder, Encoder, HPACKError, NeverIndexedHeaderTuple
from hypothesis import given
from hypothesis import strategies as st

from ca.remembered_headers import RememberingDecoder, RememberingEncoder

_NAMES = st.sampled_from([b":status", b"content-type", b"te", b"x-a", b"x-b", b"authorization"])
_VALUES = st.sampled_from([b"200", b"application/grpc", b"", b"one", b"two", b"v" * 900])
_FIELDS = st.one_of(
    st.tuples(_NAMES, _VALUES),
    st.builds(NeverIndexedHeaderTuple, _NAMES, _VALUES),
    st.tuples(_NAMES, _VALUES, st.booleans()),
)
_SIZES = st.sampled_from([0, 60, 100, 1000, 4096])
_LISTS = st.lists(st.lists(_FIELDS, max_size=4), min_size=1, max_size=3)
_STEPS = st.lists(
    st.one_of(st.tuples(st.just("headers"), st.integers(0, 2)), st.tuples(st.just("size"), _SIZES)),
    max_size=30,
)


@given(lists=_LISTS, steps=_STEPS)
def test_the_bytes_are_those_of_hpack(lists, steps):
    """A few lists of headers, sent again and again while tables change, give hpack's own bytes."""
    plain, remembering = Encoder(), RememberingEncoder()
    for kind, number in steps:
        if kind == "size":
            plain.header_table_size = remembering.header_table_size = number
            continue
        headers = lists[number % len(lists)]
        assert remembering.encode(list(headers)) == plain.encode(list(headers))
        assert remembering.header_table.dynamic_entries == plain.header_table.dynamic_entries


def _outcome(decoder, block, *, raw):
    """Return what became of a block: its headers with their marks, or the error."""
    try:
        found = decoder.decode(block, raw=raw)
    except HPACKError as exc:
        return type(exc), str(exc)
    return [(tuple(each), each.indexable) for each in found]


_BLOCKS = st.one_of(
    st.integers(0, 2),
    st.binary(max_size=6),
    st.sampled_from([b"\x88", b"\xbe", b"\xbf", b"\x20", b"\x3f\x45", b"\x40\x01a\x01b"]),
)


@given(
    lists=_LISTS,
    blocks=st.lists(st.tuples(_BLOCKS, st.booleans()), max_size=30),
    limits=st.lists(st.tuples(st.integers(0, 30), st.sampled_from([0, 60, 4096, 65_536]))),
)
def test_the_headers_are_those_of_hpack(lists, blocks, limits):
    """Blocks of an encoder, and bytes that are none, come out as hpack decodes them."""
    sender, plain = Encoder(), Decoder()
    remembering = RememberingDecoder(plain)
    for at, (block, raw) in enumerate(blocks):
        for when, limit in limits:
            if when == at:
                plain.max_header_list_size = remembering.max_header_list_size = limit
                plain.max_allowed_table_size = remembering.max_allowed_table_size = limit
        data = sender.encode(list(lists[block % len(lists)])) if isinstance(block, int) else block
        assert _outcome(remembering, data, raw=raw) == _outcome(plain, data, raw=raw)


def test_what_comes_again_is_not_coded_again(monkeypatch):
    """The third time the same headers come, hpack is not asked, on either side."""
    headers = [(b":status", b"200"), (b"content-type", b"application/grpc")]
    encoder, decoder = RememberingEncoder(), RememberingDecoder(Decoder())
    for _ in range(2):
        decoder.decode(encoder.encode(headers), raw=True)

    def is_asked(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(Encoder, "encode", is_asked)
    monkeypatch.setattr(Decoder, "decode", is_asked)
    assert [tuple(each) for each in decoder.decode(encoder.encode(headers), raw=True)] == headers


def test_a_list_that_is_given_out_is_the_callers():
    """Whoever changes the headers that it got changes nobody else's."""
    decoder = RememberingDecoder(Decoder())
    for _ in range(3):
        found = decoder.decode(b"\x88", raw=True)
        assert [tuple(each) for each in found] == [(b":status", b"200")]
        found.clear()
