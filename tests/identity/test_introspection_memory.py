"""What is remembered of an issuer's answers about opaque tokens has its bounds."""

from __future__ import annotations

import json

import pytest

from identity import introspection_memory
from identity.document_fetch import Document
from identity.introspection import IntrospectionProvider, Introspector
from identity.introspection_memory import MAX_ANSWER_BYTES, Answer, AnswerMemory
from identity.jwt_rule import JwtRule
from identity.jwt_verify import VerifiedToken

RULE = JwtRule(issuer="https://opaque.example")
NOW = 1_800_000_000


def test_long_answers_are_bounded_together() -> None:
    """What is remembered of answers has its bound in bytes, whatever an issuer says of a token."""
    long = json.dumps({"active": True, "sub": "ann"} | {"note": "x" * 700_000}).encode()
    asked: list[bytes] = []

    def post(_url: str, *, body: bytes, **_fields: object) -> Document:
        asked.append(body)
        return Document(body=long)

    provider = IntrospectionProvider(
        issuer=RULE.issuer,
        endpoint="https://i.example/",
        client_id="c",
        client_secret="s",
        timeout_seconds=5.0,
    )
    introspector = Introspector([provider], post)
    texts = [f"token-{number}" for number in range(2 * MAX_ANSWER_BYTES // len(long))]
    for text in [*texts, texts[-1], texts[0]]:
        assert isinstance(introspector.verify(text, RULE, NOW), VerifiedToken)
    assert len(asked) == len(texts) + 1
    assert 0 < introspector._answers.size_bytes <= MAX_ANSWER_BYTES
    introspector.close()


def test_a_flood_of_no_tokens_drives_out_no_good_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind has its own bound, and of each the one used longest ago goes first."""
    monkeypatch.setattr(introspection_memory, "MAX_ANSWERS", 3)
    memory = AnswerMemory()
    good, refused = Answer(payload={"sub": "ann"}, length=9), Answer(why="not active")
    memory.remember(("i", b"good"), good, 10.0)
    for number in range(9):
        memory.remember(("i", b"%d" % number), refused, 10.0)
    assert memory.recall(("i", b"good"), 9.0) is good
    assert [memory.recall(("i", b"%d" % each), 9.0) for each in (5, 6)] == [None, refused]
    for number in range(10, 13):
        memory.remember(("i", b"%d" % number), good, 10.0)
    assert memory.recall(("i", b"good"), 9.0) is None
    assert (len(memory), memory.size_bytes) == (6, 27)


def test_the_last_answer_counts() -> None:
    """A token that is good no longer, and one that is good by now, are remembered as such."""
    memory, key = AnswerMemory(), ("i", b"x")
    good, refused = Answer(payload={"sub": "ann"}, length=9), Answer(why="not active")
    for answer in (good, refused, good, good, refused):
        memory.remember(key, answer, 10.0)
        assert memory.recall(key, 9.9) is answer
        assert memory.recall(key, 10.0) is None
        assert (len(memory), memory.size_bytes) == (1, answer.length)
