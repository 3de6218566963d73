"""What is remembered of an issuer's answers about opaque tokens has its bounds."""

from __future__ import annotations

import json

from identity.document_fetch import Document
from identity.introspection import MAX_ANSWER_BYTES, IntrospectionProvider, Introspector
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
    assert sum(known.length for known, _ in introspector._answers.values()) <= MAX_ANSWER_BYTES
    introspector.close()
