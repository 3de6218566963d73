"""A record that is filled into a mould is, byte for byte, what the long way makes of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit import mould
from audit.chain import ChainState, encode_json, link_line, link_text
from audit.document import document_from_record
from audit.keyed_hash import KeyedHash
from audit.mould import RecordMould, RepeatedRecord, render_repeated
from audit.record import (
    AuditRecord,
    DecisionFacts,
    DestinationFacts,
    PeerFacts,
    RequestFacts,
    ShadowFacts,
    SubjectFacts,
)
from audit.redact import Redactor
from audit.replay_facts import ReplayFacts
from audit.secret_text import MASK
from audit.settings import AuditMode, AuditSettings
from audit.verify import verify_folder
from audit.writer import AuditWriter

_TEXTS = st.text(max_size=40) | st.sampled_from(
    ["", "***", "%", "%s", "%%d", '"', "\\", "é", "\udcff", "eyJhbGciOi.x.y", "a" * 200]
)
_SECRETS = st.sampled_from(
    ["Bearer ABCDEF12345", "token=hunter2", "x?access_token=abc&b=1", "eyJabcdefgh.eyJ.sig"]
)
_VALUES = st.from_regex(r"[0-9a-f-]{1,60}", fullmatch=True) | _TEXTS | _SECRETS
_PATHS = st.sampled_from(
    ["/a", "/a?b=1&c=2", "/a?token=hunter2", "/a?access_token=***", "/a;api_key=1", "//u:p@h/x"]
)
_NAMES = ("x-request-id", "traceparent", "tracestate", "x-trace", "x-api-key", "referer", ":path")
_REDACTORS = (
    Redactor(),
    Redactor(headers=("x-trace", "x-request-id")),
    Redactor(secret_headers=("traceparent",), headers=_NAMES),
    Redactor(headers=_NAMES, hashing=KeyedHash(b"k" * 32, headers=("x-request-id",))),
)


def _worn(made: RecordMould) -> RecordMould:
    """Return a mould that has been asked for often enough to be made."""
    values = tuple((name, "0") for name in made.headers)
    early = RepeatedRecord(made, "a" * 32, 0, 0, "", "/", 0, values, 0, {"recall": 1})
    for _ in range(3):
        assert render_repeated(early, "", _REDACTORS[0]) is None
    return made


@st.composite
def _firsts(draw: st.DrawFn) -> tuple[AuditRecord, tuple[str, ...]]:
    """Return a first record and the names of its headers that differ each time."""
    names = tuple(draw(st.lists(st.sampled_from(_NAMES), unique=True, max_size=4)))
    headers: dict[str, tuple[str, ...]] = {"accept": ("*/*",), "authorization": ("Bearer x",)}
    headers |= {name: (draw(_VALUES),) for name in names}
    seen = draw(st.sampled_from(["same", "less", "none"]))
    rules = {name: each for name, each in headers.items() if name != "authorization"}
    replay = ReplayFacts(
        rules_headers=headers if seen == "same" else rules,
        looked_at_headers=frozenset(draw(st.lists(st.sampled_from(_NAMES), max_size=2))),
    )
    shadow = ShadowFacts(
        policy="a/b", action="DENY", matched=None, effect="allow", outcome="same", detail="x"
    )
    first = AuditRecord(
        decision_id="",
        received_at=0.0,
        decided_at=0.0,
        revision=draw(_TEXTS),
        request=RequestFacts(
            method="GET",
            host=draw(_TEXTS),
            path=draw(_VALUES),
            headers=headers,
            token_carriers=frozenset({"authorization", "access_token"}),
        ),
        decision=DecisionFacts(
            effect="allow", reason="r", layer="ALLOW", http_status=200, detail=draw(_VALUES)
        ),
        peer=PeerFacts(principal=draw(_VALUES)),
        subject=SubjectFacts(issuer="i", sub="s", claims={"aud": draw(_VALUES), "n": 1.5}),
        destination=DestinationFacts(namespace="shop"),
        shadow=(shadow,) if draw(st.booleans()) else (),
        replay=None if seen == "none" else replay,
    )
    return first, names


@st.composite
def _repeated(draw: st.DrawFn) -> list[RepeatedRecord]:
    first, names = draw(_firsts())
    made = _worn(RecordMould(first, names))
    times = st.floats(min_value=0, max_value=4e9) | st.sampled_from([1.9999995, -1.0, 1e18])
    return [
        RepeatedRecord(
            made,
            draw(st.from_regex("[0-9a-f]{32}", fullmatch=True)),
            draw(times),
            draw(times),
            draw(_VALUES),
            draw(_VALUES | _PATHS),
            draw(st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 2)),
            tuple((name, draw(_VALUES)) for name in names),
            draw(st.integers(-5, 10**9)),
            draw(st.sampled_from([{}, {"recall": 3}, {"decode": 1, "recall": 2}])),
        )
        for _ in range(3)
    ]


def _the_long_way(record: RepeatedRecord, redactor: Redactor) -> Mapping[str, Any]:
    return document_from_record(record.whole(), node="n", redactor=redactor)


@given(_repeated(), st.sampled_from(_REDACTORS))
def test_a_mould_gives_what_the_long_way_gives(
    records: list[RepeatedRecord], redactor: Redactor
) -> None:
    """Whatever stands in a record and its headers, the line is the same byte for byte."""
    for record in records:
        rendered = render_repeated(record, "n", redactor)
        if rendered is not None:
            state = ChainState(7, "a" * 64)
            long = link_line(state, _the_long_way(record, redactor))
            assert link_text(state, rendered.text) == long


def _plain(
    value: str = "4f2e-17", name: str = "x-request-id", path: str = "/x", **parts: Any
) -> RepeatedRecord:
    """Return a record whose first has these parts beside the plainest ones."""
    request = RequestFacts(method="GET", path="/x", headers={name: ("0",), "accept": ("*/*",)})
    decision = DecisionFacts(effect="allow", reason="r", layer="ALLOW", http_status=200)
    first = AuditRecord(
        decision_id="",
        received_at=0.0,
        decided_at=0.0,
        revision="r",
        request=request,
        decision=decision,
        replay=ReplayFacts(rules_headers=request.headers),
    )
    made = _worn(RecordMould(replace(first, **parts), (name,)))
    values = ((name, value),)
    return RepeatedRecord(made, "a" * 32, 1.0, 2.0, "7", path, 12, values, 5, {"recall": 4})


_DEEP: Any = reduce(lambda inner, _: [inner], range(100_000), "x")


@pytest.mark.parametrize(
    ("parts", "fits"),
    [
        ({}, True),
        ({"revision": "a" * 32}, True),
        ({"revision": "100%s"}, True),
        ({"destination": DestinationFacts(namespace="shop", labels={"a": "%"})}, True),
        ({"destination": DestinationFacts(namespace="a", labels={"a": object()})}, False),
        ({"destination": DestinationFacts(namespace="a", labels={"a": float("nan")})}, False),
        ({"destination": DestinationFacts(namespace="a", labels={"a": _DEEP})}, False),
    ],
    ids=["plain", "a revision like an id", "a place", "a sign", "no JSON", "no number", "deep"],
)  # fmt: skip
def test_which_records_have_a_mould(parts: dict[str, Any], fits: bool) -> None:
    """Signs of templates and texts that look like ids do no harm; what is no JSON has none."""
    record = _plain(**parts)
    rendered = render_repeated(record, "n", Redactor())
    assert (rendered is not None) is fits
    if rendered is not None:
        assert rendered.text == encode_json(_the_long_way(record, Redactor()))[1:-1]
    # What was made once is there the next time.
    cast = record.mould.cast("n", _REDACTORS[0])
    assert record.mould.cast("n", _REDACTORS[0]) is cast


def test_a_record_that_is_too_long_has_no_mould(monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest template is one of so many letters, and no longer one."""
    assert mould.LONGEST == 65_536
    template = _plain().mould.cast("n", Redactor()).template
    # Nine marks of 32 letters, in quotes, have become `%s`, three of them in quotes or braces.
    size = len(template) + 9 * (34 - 2) - 3 * 2
    for longest, fits in ((size, True), (size - 1, False)):
        monkeypatch.setattr(mould, "LONGEST", longest)
        assert (render_repeated(_plain(), "n", Redactor()) is not None) is fits


@pytest.mark.parametrize(
    "value", ["4f2e-17", "two words", "xeyJx", "ewkiYQ", "x ewoiYQ", "viewkit x", "", "é", "***"]
)
@pytest.mark.parametrize("looked_at", [frozenset[str](), frozenset({"x-trace"})], ids=len)
@pytest.mark.parametrize("redactor", _REDACTORS, ids=["plain", "shown", "secret", "hashed"])
@pytest.mark.parametrize("name", ["x-trace", "x-request-id", "traceparent", "x-api-key"])
def test_a_value_of_its_own(
    value: str, looked_at: frozenset[str], redactor: Redactor, name: str
) -> None:
    """However a header is shown, and whoever looks at it, the line is that of the long way."""
    headers = {name: ("0",), "accept": ("*/*",)}
    replay = ReplayFacts(rules_headers=headers, looked_at_headers=looked_at)
    record = _plain(value, name, replay=replay)
    rendered = render_repeated(record, "n", redactor)
    if rendered is not None:
        assert rendered.text == encode_json(_the_long_way(record, redactor))[1:-1]
    if redactor is _REDACTORS[3] and name == "x-request-id":
        assert rendered is None
    elif redactor is _REDACTORS[1] and name in ("x-trace", "x-request-id"):
        assert (rendered is not None) is (value in ("4f2e-17", "two words", "viewkit x", "", "é"))


@pytest.mark.parametrize("number", [-2, -1, 0, 1])
def test_numbers_have_their_bounds(number: int) -> None:
    """A size nobody knows is -1, and no time is less than none."""
    record = _plain()._replace(size=number, duration_microseconds=number)
    rendered = render_repeated(record, "n", Redactor())
    assert rendered is not None
    assert rendered.text == encode_json(_the_long_way(record, Redactor()))[1:-1]
    document = json.loads("{" + rendered.text + "}")
    assert document["request"]["size"] == max(-1, number)
    assert document["duration_microseconds"] == max(0, number)


_HEADERS = {"x-trace": ("0",), "accept": ("*/*",), "authorization": ("Bearer x",)}


@pytest.mark.parametrize(
    ("replay", "seen"),
    [
        (None, None),
        (ReplayFacts(rules_headers=_HEADERS), _HEADERS | {"x-trace": ("7",)}),
        (
            ReplayFacts(rules_headers={"x-trace": ("0",), "accept": ("a",)}, scheme="https"),
            {"x-trace": ("7",), "accept": ("a",)},
        ),
        (ReplayFacts(rules_headers={"accept": ("*/*",)}), {"accept": ("*/*",)}),
        (ReplayFacts(), {}),
    ],
    ids=["none", "the same", "fewer", "without it", "nothing"],
)
def test_a_repeated_record_is_whole(
    replay: ReplayFacts | None, seen: Mapping[str, tuple[str, ...]] | None
) -> None:
    """It has its own values, wherever they stand, and everything else of the first."""
    request = RequestFacts(method="GET", host="h", path="/x", headers=_HEADERS)
    record = _plain("7", "x-trace", "/y", request=request, replay=replay)
    first = record.mould.first
    assert record.whole() == replace(
        first,
        decision_id="a" * 32,
        received_at=1.0,
        decided_at=2.0,
        request=replace(
            request, id="7", path="/y", size=12, headers=_HEADERS | {"x-trace": ("7",)}
        ),
        replay=None if replay is None else replace(replay, rules_headers=seen),
        duration_microseconds=5,
        phases={"recall": 4},
    )


def test_the_everyday_record_is_filled_in() -> None:
    """A plain value goes by the mould, and stands on record."""
    rendered = render_repeated(_plain(), "n", Redactor())
    assert rendered is not None
    document = json.loads("{" + rendered.text + "}")
    assert document["request"]["headers"]["x-request-id"] == ["4f2e-17"]
    assert document["phases_microseconds"] == {"recall": 4}


@pytest.mark.parametrize(
    "value", ["Bearer ABCDEF12345", "token=hunter2hunter2", "eyJhbGciOi.eyJz.c2ln"]
)
def test_a_secret_goes_the_long_way(value: str) -> None:
    """A value that a mask would touch is never filled in as it came."""
    record = _plain(value)
    rendered = render_repeated(record, "n", Redactor())
    text = rendered.text if rendered else json.dumps(_the_long_way(record, Redactor()))
    assert value not in text


def test_who_sends_the_mask_in_a_secret_header_goes_the_long_way() -> None:
    """The mould says that the header was masked, and then it was not."""
    redactor = Redactor()
    assert render_repeated(_plain(MASK, "x-api-key"), "n", redactor) is None
    assert render_repeated(_plain("4f2e-17", "x-api-key"), "n", redactor) is not None


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/orders/7?page=2", "/orders/7?page=2"),
        ('/"\\%s%%', '/"\\%s%%'),
        ("/x?access_token=hunter2", "/x?access_token=***"),
        ("/x/eyJhbGciOiJub25lIn0.eyJhIjoxfQ.c2ln", None),
    ],
)
def test_a_path_of_its_own(path: str, shown: str | None) -> None:
    """A path is filled in like an id, unless a mask touches it: then it goes the long way."""
    record = _plain(path=path)
    rendered = render_repeated(record, "n", Redactor())
    assert (rendered is not None) is (shown == path)
    document = json.loads("{" + rendered.text + "}") if rendered else None
    document = document or _the_long_way(record, Redactor())
    assert shown is None or document["request"]["path"] == shown
    assert "hunter2" not in json.dumps(document)
    assert "eyJhIjoxfQ" not in json.dumps(document)


def test_writers_do_not_share_a_mould() -> None:
    """Another node, or other rules of masking, get their own; no line has another's words."""
    record = _plain("feed", "x-trace")
    shown, other = Redactor(headers=("x-trace",)), Redactor()
    texts = [
        render_repeated(record, node, redactor)
        for node, redactor in (("a", shown), ("b", shown), ("b", other), ("a", shown))
    ]
    assert all(texts)
    assert ["feed" in each.text for each in texts if each] == [True, True, False, True]
    assert ['"node":"a"' in each.text for each in texts if each] == [True, False, False, True]


@pytest.mark.parametrize("mode", list(AuditMode))
def test_the_chain_holds_over_both_ways(tmp_path: Path, mode: AuditMode) -> None:
    """Lines of both ways follow each other in one chain that verifies, in every mode."""
    settings = AuditSettings(folder=tmp_path, mode=mode, queue_wait_milliseconds=5000)
    writer = AuditWriter(settings, node="n")
    for number in range(20):
        record = _plain("ab" if number % 3 else "Bearer ABCDEF12345")
        writer.offer(record.whole() if number % 2 else record)
    writer.close()
    assert verify_folder(tmp_path).intact
    lines = [
        json.loads(line)
        for path in sorted(tmp_path.glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    decisions = [line for line in lines if line["kind"] == "decision"]
    assert len(decisions) == 20
    assert len({json.dumps(each["request"]) for each in decisions}) == 2
