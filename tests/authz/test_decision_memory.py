"""With a memory an authorizer says what it says without one, whatever changes under way."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import pytest
from checking import make_authorizer
from hypothesis import given, settings
from hypothesis import strategies as st
from remembering import (
    BEGIN,
    ENDS,
    PEERS,
    POLICIES,
    TOKENS,
    Question,
    Side,
    Twins,
    World,
    other_peer,
    told,
    until,
)

from audit.mould import RepeatedRecord
from audit.redact import Redactor
from authz.decision_memory import DecisionMemory, memory_for, volatile_headers
from authz.settings import IdentityHeaderSettings, Settings

_REDACTOR = Redactor()
_VALUES = ("0", "4bf92f-01", "bad-one", "Bearer ABCDEF12345", "")
_QUESTIONS = st.builds(
    Question,
    peer=st.sampled_from(PEERS),
    path=st.sampled_from(["/a", "/a/b?x=1", "/no", "/b", "/%", "/a?access_token=x"]),
    token=st.sampled_from(list(TOKENS)),
    method=st.sampled_from(["GET", "OPTIONS"]),
    is_raw=st.booleans(),
    has_certificate=st.booleans(),
    is_measured=st.booleans(),
    trace_names=st.sampled_from(
        [(), ("x-request-id",), ("x-request-id", "traceparent", "b3"), ("X-Request-Id",)]
    ),
)
Step = Callable[[World, list[Side]], None]
_EVENTS: list[Step] = [
    lambda world, sides: setattr(world, "now", world.now + 30),
    lambda world, sides: setattr(world, "now", world.now + 61),
    lambda world, sides: setattr(world, "now", world.now + 4000),
    lambda world, sides: setattr(world, "now", world.now - 50),
    lambda world, sides: world.rotate(),
    lambda world, sides: world.lose_keys(),
    lambda world, sides: world.change_bundles(),
    lambda world, sides: world.deny(None),
    lambda world, sides: world.deny(until(world, 20)),
    lambda world, sides: world.allow(),
    lambda world, sides: setattr(world, "is_full", not world.is_full),
    *(
        lambda world, sides, index=index: [side.reload(index) for side in sides]
        for index in range(len(POLICIES))
    ),
]


@settings(max_examples=100)
@given(st.lists(_QUESTIONS, min_size=1, max_size=3), st.data())
def test_a_memory_changes_nothing(questions: list[Question], data: st.DataObject) -> None:
    """Whatever is asked and whatever changes, answers and records are those of a full walk."""
    twins = Twins(data.draw(st.sampled_from([1, 2, 1024])))
    for _ in range(data.draw(st.integers(1, 30))):
        step = data.draw(st.integers(0, 3 * len(_EVENTS)))
        if step < len(_EVENTS):
            _EVENTS[step](twins.world, twins.sides)
        else:
            twins.ask(data.draw(st.sampled_from(questions)), data.draw(st.sampled_from(_VALUES)))


@pytest.mark.parametrize("seed", range(4))
def test_a_long_stream_is_answered_alike(seed: int) -> None:
    """Over thousands of requests with changes in between, much is recalled and all is the same."""
    chance = random.Random(seed)
    twins = Twins(64)
    pool = [
        Question(
            peer=chance.choice(PEERS),
            path=f"/a/{number % 5}",
            token=chance.choice(list(TOKENS)),
            is_raw=chance.random() < 0.5,
            has_certificate=chance.random() < 0.3,
            trace_names=("x-request-id", "traceparent"),
        )
        for number in range(25)
    ]
    for number in range(800):
        if number % 80 == 79:
            chance.choice(_EVENTS)(twins.world, twins.sides)
            twins.world.is_full = False
        twins.ask(chance.choice(pool), chance.choice(_VALUES))
    recalled = [isinstance(each, RepeatedRecord) for each in twins.sides[0].keeper.records]
    assert sum(recalled) > 100


def test_the_third_time_is_recalled() -> None:
    """A question is walked twice; then its answer has its own id, and its record its own words."""
    twins = Twins()
    question = Question(trace_names=("x-request-id", "traceparent"))
    assert twins.is_recalled(question)
    records = twins.sides[0].keeper.records
    assert [isinstance(each, RepeatedRecord) for each in records] == [False, False, True]
    record = records[2]
    assert isinstance(record, RepeatedRecord)
    whole = record.whole()
    assert (whole.request.id, whole.request.headers["x-request-id"]) == ("3", ("0",))
    assert whole.received_at == BEGIN + 3
    assert set(whole.phases) == {"recall"}
    assert len({each.decision_id for each in records}) == 3


@pytest.mark.parametrize(
    ("question", "policies", "want"),
    [
        (Question(), 0, True),
        (Question(path="/no"), 0, True),
        (Question(path="/b"), 0, True),
        (Question(token="short"), 0, True),
        (Question(token="other issuer"), 0, True),
        (Question(token="noise"), 0, False),
        (Question(token="stranger"), 0, False),
        (Question(token="other key"), 0, False),
        (Question(token="later"), 0, False),
        (Question(path="/%"), 0, True),
        (Question(trace_names=("X-Request-Id",)), 0, False),
        (Question(), 1, True),
        (Question(path="/a"), 2, False),
        (Question(path="/b"), 2, True),
        (Question(path="/b", peer=""), 2, True),
    ],
    ids=str,
)
def test_what_is_remembered(question: Question, policies: int, want: bool) -> None:
    """What policies said is remembered, on both sides of the line; nothing that may heal is."""
    twins = Twins()
    for side in twins.sides:
        side.reload(policies)
    assert twins.is_recalled(question) is want


@pytest.mark.parametrize(
    "change",
    [
        lambda world, sides: setattr(world, "now", world.now + 60),
        lambda world, sides: setattr(world, "now", world.now - 1),
        lambda world, sides: world.keys.update({"https://a.example": None}),
        lambda world, sides: world.rotate(),
        lambda world, sides: world.change_bundles(),
        lambda world, sides: world.deny(None),
        lambda world, sides: [side.reload(0) for side in sides],
    ],
    ids=["a minute", "clock back", "keys lost", "keys", "bundles", "denied", "reload"],
)
def test_what_ends_a_memory(change: Step) -> None:
    """Each of the things that a decision rests on has it made anew once it changes."""
    twins = Twins()
    assert twins.is_recalled(Question(token="long"))
    change(twins.world, twins.sides)
    twins.ask(Question(token="long"))
    assert not isinstance(twins.sides[0].keeper.records[-1], RepeatedRecord)


@pytest.mark.parametrize("is_raw", [True, False])
def test_a_body_of_another_length_is_the_same_question(is_raw: bool) -> None:
    """How long a body is counts for no policy that does not name its header, and is on record."""
    twins = Twins()
    question = Question(method="POST", is_raw=is_raw, is_measured=True)
    assert twins.is_recalled(question)
    record = twins.sides[0].keeper.records[-1]
    assert isinstance(record, RepeatedRecord)
    whole = record.whole().request
    assert (whole.size, whole.headers["content-length"]) == (2, ("2",))


def test_a_provider_is_asked_each_time() -> None:
    """What a provider allowed, and policies as well, is put to the provider the next time."""
    twins = Twins()
    for side in twins.sides:
        side.reload(2)
    answers = [twins.ask(Question()) for _ in range(6)]
    assert [b"allow_rule_matched" in each for each in answers] == [True, False] * 3


def test_a_token_is_recalled_up_to_its_end() -> None:
    """A remembered token holds to the last second of its time, with the leeway, and no longer."""
    twins = Twins()
    question = Question(token="short", path="/b")
    twins.world.now = BEGIN + 100 + 60 - 10
    assert twins.is_recalled(question)
    twins.world.now = BEGIN + 100 + 60 + 0.9
    allowed = twins.ask(question)
    assert isinstance(twins.sides[0].keeper.records[-1], RepeatedRecord)
    twins.world.now = BEGIN + 100 + 60 + 1
    assert twins.ask(question) != allowed
    assert told(twins.sides[0].keeper.records[-1], _REDACTOR)["decision"]["http_status"] == 401


def test_a_certificate_is_recalled_up_to_its_end() -> None:
    """A remembered certificate holds to the end of its path, and no longer."""
    twins = Twins()
    twins.world.change_bundles()
    question = Question(has_certificate=True)
    twins.world.now = ENDS - 10
    assert twins.is_recalled(question)
    twins.world.now = ENDS
    twins.ask(question)
    assert isinstance(twins.sides[0].keeper.records[-1], RepeatedRecord)
    twins.world.now = ENDS + 1
    twins.ask(question)
    reason = told(twins.sides[0].keeper.records[-1], _REDACTOR)["decision"]["reason"]
    assert reason == "peer_certificate_untrusted"


def test_a_header_that_a_new_policy_looks_at_counts_at_once() -> None:
    """After a reload the value of a trace header decides, where a policy names it."""
    twins = Twins()
    question = Question()
    assert twins.is_recalled(question)
    for side in twins.sides:
        side.reload(1)
    answers = {value: twins.ask(question, value) for value in ("fine", "bad-1") * 3}
    assert b"shop/traced" in answers["bad-1"]
    assert b"shop/all" in answers["fine"]


def test_nothing_is_answered_unrecorded() -> None:
    """A remembered allow is a denial while its record is not taken, and an allow again after."""
    twins = Twins()
    assert twins.is_recalled(Question())
    twins.world.is_full = True
    assert b"audit_unavailable" in twins.ask(Question())
    twins.world.is_full = False
    assert b"allow_rule_matched" in twins.ask(Question())


def test_a_flood_of_questions_drives_out_what_nobody_asks() -> None:
    """However many questions come twice, the memory stays small and keeps what comes often."""
    twins = Twins(8)
    favourite = Question()
    for number in range(300):
        for _ in range(2):
            twins.ask(Question(method=f"M{number}"))
        twins.ask(favourite)
        assert len(twins.memory) <= 8
    recalled = [isinstance(each, RepeatedRecord) for each in twins.sides[0].keeper.records[2::3]]
    assert sum(recalled) > 100


def test_where_nothing_comes_again_little_is_looked_up() -> None:
    """Questions that never come again are soon looked up now and then only, until some do."""
    side = Side(World(), DecisionMemory())
    for number in range(2000):
        side.authorizer.check(Question(method=f"M{number}").message(number))
    misses = _counted(side, "miss")
    assert 512 <= misses < 1000
    for number in range(8000):
        side.authorizer.check(Question().message(number))
    assert _counted(side, "hit") > 2000


def _counted(side: Side, result: str) -> float:
    registry = side.authorizer.metrics.registry
    found = registry.get_sample_value("meshwarden_decision_memory_total", {"result": result})
    assert found is not None
    return found


def test_threads_get_what_belongs_to_them() -> None:
    """Many threads at once, with reloads between: each gets the answer to its own question."""
    world = World()
    side = Side(world, DecisionMemory(4))
    questions = [Question(), Question(path="/no"), Question(path="/b", peer="jobs")]
    questions += [other_peer(each) for each in questions]
    want = [b"allow_rule_matched", b"deny_rule_matched", b"no_allow_rule_matched"] * 2
    want[3] = b"no_allow_rule_matched"
    wrong: list[Any] = []

    def ask(begin: int) -> None:
        for number in range(begin, begin + 600):
            index = number % len(questions)
            answer = side.authorizer.check(questions[index].message(number))
            if want[index] not in answer:
                wrong.append((questions[index], answer))

    threads = [threading.Thread(target=ask, args=(begin,)) for begin in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        side.reload(0)
    for thread in threads:
        thread.join()
    assert not wrong
    records = side.keeper.records
    assert len(records) == len({each.decision_id for each in records}) == 2400


def test_a_memory_that_fails_is_none() -> None:
    """Whatever happens inside a memory, the request is decided and recorded in full."""

    def fail(*_: object) -> None:
        raise RuntimeError("no")

    for broken in ("look", "keep"):
        memory = DecisionMemory()
        setattr(memory, broken, fail)
        side = Side(World(), memory)
        for number in range(4):
            answer = side.authorizer.check(Question().message(number))
            assert b"allow_rule_matched" in answer
        assert [isinstance(each, RepeatedRecord) for each in side.keeper.records] == [False] * 4


def test_beside_a_candidate_nothing_is_remembered() -> None:
    """What needs every walk cannot stand beside a memory, and the configuration sees to it."""
    given = make_authorizer([{"rules": [{}]}])
    around = given.around
    with pytest.raises(ValueError, match="not remembered"):
        type(given)(
            state=given.state,
            around=around,
            recorder=given.recorder,
            metrics=given.metrics,
            trace=lambda outcome: None,
            memory=DecisionMemory(),
        )


@pytest.mark.parametrize(
    ("configured", "want"),
    [
        ({}, True),
        ({"decisionMemory": {"maxDecisions": 0}}, False),
        ({"audit": {"trace": "denied"}}, False),
        ({"tracing": {"endpoint": "http://127.0.0.1:4318/v1/traces"}}, False),
        ({"dryrun": {"candidate": {"paths": ["next"]}}}, False),
    ],
    ids=str,
)
def test_when_there_is_a_memory(configured: dict[str, Any], want: bool) -> None:
    """By default decisions are remembered; nothing is beside what needs every walk."""
    assert (memory_for(Settings.model_validate(configured)) is not None) is want


@pytest.mark.parametrize("most", [0, -1])
def test_a_memory_of_nothing_is_refused(most: int) -> None:
    """Who wants none has none; one that holds nothing would forget what it is about to keep."""
    with pytest.raises(ValueError, match="at least one"):
        DecisionMemory(most)
    assert len(DecisionMemory(1)) == 0


def test_what_rules_read_or_write_is_never_volatile() -> None:
    """A trace header that carries a token, or that a rule or the house writes, counts."""
    side = Side(World(), None)
    every = volatile_headers(side.state, IdentityHeaderSettings())
    assert {"x-request-id", "traceparent", "b3"} <= set(every)
    own = volatile_headers(side.state, IdentityHeaderSettings(peer="b3", subject="tracestate"))
    assert set(every) - set(own) == {"b3", "tracestate"}
    side.reload(1)
    assert "x-request-id" not in volatile_headers(side.state, IdentityHeaderSettings())
