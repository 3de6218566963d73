"""Questions about the record: the engine's answers are those of reading every line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit.chain import ChainState, link_line, segment_name
from audit.document import document_from_record
from audit.errors import AuditQueryError, AuditReadError
from audit.query import FIELDS, Query
from audit.query_engine import LogQueries
from audit.reader import read_records
from audit.record import (
    AuditRecord,
    DecisionFacts,
    DestinationFacts,
    PeerFacts,
    RequestFacts,
    SubjectFacts,
)
from audit.redact import Redactor
from audit.time_range import TimeRange

_ALLOW = DecisionFacts(effect="allow", reason="no_allow_policy", layer="default", http_status=200)


def _seqs(log: Path, query: Query = Query(), **options: Any) -> list[int]:  # noqa: B008 - immutable
    with LogQueries([log]) as queries:
        return [document["seq"] for document in queries.records(query, **options)]


def _read(log: Path, query: Query) -> list[int]:
    """Return what the question has to find, by reading every line."""
    return [document["seq"] for document in read_records(log) if query.matches(document)]


@pytest.fixture
def mixed(tmp_path: Path, record: Callable[..., AuditRecord]) -> Path:
    """The folder of a log with callers, requests and answers of all sorts."""
    awkward = ["plain", "50%_\\", "é\U0001f600", "a\udc80b", "\x00\x1f", "*", "\"'", "\\udc80", ""]
    records = [
        record(
            number,
            peer=PeerFacts(principal=f"spiffe://td/ns/a/sa/{text}") if number % 3 else None,
            subject=SubjectFacts(issuer=text, sub=text) if number % 2 else None,
            destination=DestinationFacts(namespace=text) if number % 4 else None,
            request=RequestFacts(method="GET", host=text, path=f"/{text}?q={number}"),
        )
        for number, text in enumerate(awkward * 3)
    ]
    records += [replace(each, decision=_ALLOW) for each in records[:9]]
    return write_log(tmp_path / "mixed", records)


def write_log(folder: Path, records: list[AuditRecord]) -> Path:
    """Write decisions as one chained segment, without a writer's thread."""
    folder.mkdir(parents=True)
    redactor, state = Redactor(), ChainState()
    with (folder / segment_name(1)).open("wb") as file:
        for each in records:
            line, state = link_line(state, document_from_record(each, node="n", redactor=redactor))
            file.write(line)
    return folder


def test_everything_is_found_in_reading_order(log: Path) -> None:
    """Without a filter every decision is answered with, over all segments and in their order."""
    assert _seqs(log) == [document["seq"] for document in read_records(log)]
    assert len(_seqs(log)) == 40


def test_limit_takes_the_newest(log: Path) -> None:
    """A limit keeps the newest decisions, and still tells them oldest first."""
    assert _seqs(log, limit=3) == _seqs(log)[-3:]


_texts = st.text(st.sampled_from("*%_\\ab?é/"), max_size=4)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    wanted=st.dictionaries(
        st.sampled_from(sorted(FIELDS)),
        st.lists(
            _texts | st.sampled_from(["*", "", "*plain*", "deny", "GET", "shop/no-orders#0"]),
            min_size=1,
            max_size=2,
        ).map(tuple),
        max_size=2,
    )
)
def test_engine_and_reader_agree(mixed: Path, wanted: dict[str, tuple[str, ...]]) -> None:
    """Whatever is asked, SQL over the segments finds what reading every line finds."""
    query = Query(wanted=wanted)
    assert _seqs(mixed, query) == _read(mixed, query)


@pytest.mark.parametrize("field", sorted(FIELDS))
def test_every_value_finds_itself(mixed: Path, field: str) -> None:
    """The exact value of any record finds that record, signs of patterns and all."""
    values = {_first(FIELDS[field](document)) for document in read_records(mixed)}
    with LogQueries([mixed]) as queries:
        for value in values:
            if "*" not in value and "\udc80" not in value:
                query = Query(wanted={field: (value,)})
                found = [document["seq"] for document in queries.records(query)]
                assert found
                assert found == _read(mixed, query)


def _first(value: object) -> str:
    return str((value[0] if isinstance(value, tuple) else value) or "")


def test_a_byte_that_is_no_text_hides_nobody(mixed: Path) -> None:
    """Records with a byte that is no UTF-8 are found, by all that is text in them."""
    found = _seqs(mixed, Query(wanted={"host": ("ab",)}))
    assert len(found) == 4
    assert set(found) <= set(_seqs(mixed))


def test_lines_that_were_changed_are_left_out(log: Path) -> None:
    """A line without its own hash is no answer: damaged, doubled, torn or no text at all."""
    path = log / "audit-00000001.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b"alice", b"mally")
    lines[3] = lines[3][:60] + b"\xff\xfe\x00" + lines[3][60:]
    lines[4] = b'"' + lines[4]
    lines[5] = lines[5][:-1] + b"  \n"
    lines[6] = lines[6][:-1] + lines[7]
    path.write_bytes(b"".join(lines)[:-20])
    assert _seqs(log) == [document["seq"] for document in read_records(log)]


def test_groups_count_answers(mixed: Path) -> None:
    """Decisions are counted by columns, allowed and denied apart, the most first."""
    with LogQueries([mixed]) as queries:
        groups = queries.groups(Query(wanted={"host": ("plain",)}), ["method", "policy"])
    assert [(group.value, group.allowed, group.denied) for group in groups] == [
        (("GET", "shop/no-orders"), 0, 3),
        (("GET", ""), 1, 0),
    ]
    assert groups[0].first_at < groups[0].last_at


def test_condition_is_sql_on_columns(log: Path) -> None:
    """A condition written by hand sees every column."""
    assert len(_seqs(log, where="port = 8080 AND path IN ('/orders/7', '/orders/8')")) == 2
    assert len(_seqs(log, where="effect = 'deny' -- all of them")) == 40


@pytest.mark.parametrize(
    "where",
    [
        "",
        "nope = 1",
        "1 = 1) UNION SELECT 1 --",
        "true; DROP VIEW decisions",
        "(SELECT count(*) FROM read_text('/etc/passwd')) > 0",
        "(SELECT count(*) FROM glob('/*')) > 0",
        "path = ",
    ],
)
def test_condition_reaches_nothing_else(log: Path, where: str) -> None:
    """What is no condition is refused, and so is one that reads another file."""
    if not where:
        assert len(_seqs(log, where=where)) == 40
        return
    with pytest.raises(AuditQueryError, match="is no condition"):
        _seqs(log, where=where)


def test_folder_names_are_taken_as_they_stand(log: Path) -> None:
    """Signs that stand for other names in a pattern, and quotes, are part of a folder's name."""
    odd = log.rename(log.with_name("a [b]*?'\" c"))
    assert len(_seqs(odd)) == 40


def test_segments_from_before_the_range_are_not_read(
    tmp_path: Path, record: Callable[..., AuditRecord]
) -> None:
    """Segments closed before the range begins are left aside, and no decision with them."""
    redactor, state = Redactor(), ChainState()
    for number in range(1, 5):
        day = f"2023-11-{number:02d}T00:00:00.000000Z"
        header = {"kind": "segment", "segment": number, "created_at": day}
        first, state = link_line(state, header)
        document = document_from_record(record(number), node="n", redactor=redactor)
        second, state = link_line(state, {**document, "decided_at": day.replace("T00", "T12")})
        (tmp_path / segment_name(number)).write_bytes(first + second)
    since = "2023-11-03T00:00:00.000000Z"
    with LogQueries([tmp_path], since=since) as queries:
        found = [each["seq"] for each in queries.records(Query(range=TimeRange(since, None)))]
        assert found == [6, 8]
        assert len(list(queries.records(Query()))) == 3


def test_what_cannot_be_asked_is_refused(tmp_path: Path, log: Path) -> None:
    """A field that is none, a pattern that is no text, and a folder without a log are errors."""
    with pytest.raises(AuditQueryError, match="`colour` is no field"):
        Query(wanted={"colour": ("red",)})
    with pytest.raises(AuditQueryError, match="not UTF-8"):
        Query(wanted={"peer": ("\udc80",)})
    with pytest.raises(AuditReadError):
        LogQueries([tmp_path / "nothing"])
    with LogQueries([log]) as queries, pytest.raises(AuditQueryError, match="`x` is no column"):
        queries.groups(Query(), ["x"])


def test_the_end_says_nothing(repository: Path) -> None:
    """A process whose objects are frozen, as after a load of policies, ends without a word."""
    code = "import gc; import audit.query_engine; gc.freeze()"
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(
        command, cwd=repository, capture_output=True, text=True, check=True,
        env={"PYTHONPATH": str(repository)},
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("", "")
