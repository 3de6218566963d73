"""Values by their keyed hash: equal ones can be told on record, none can be read from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from audit_records import make_record
from pydantic import ValidationError

from audit.document import document_from_record
from audit.errors import AuditKeyError
from audit.keyed_hash import PREFIX, KeyedHash, open_keyed_hash
from audit.reader import read_records
from audit.record import RequestFacts, SubjectFacts
from audit.redact import Redactor
from audit.replay_facts import ReplayFacts
from audit.settings import AuditSettings
from audit.writer import AuditWriter

_KEY = b"k" * 32
_NAMES: dict[str, Any] = {"headers": ["X-Device", "Cookie"], "claims": ["email", "sub", "card"]}
_SECRETS = ("alice@example.org", "device-7", "session=abc", "subject-9", "4111111111111111")


def _document(key: bytes = _KEY, names: dict[str, Any] = _NAMES) -> dict[str, Any]:
    headers = {"x-device": ("device-7",), "cookie": ("session=abc",), "accept": ("a/b",)}
    claims = {
        "iss": "https://issuer",
        "sub": "subject-9",
        "email": "alice@example.org",
        "card": {"number": "4111111111111111"},
    }
    record = make_record(
        request=RequestFacts(method="GET", path="/", headers=headers),
        subject=SubjectFacts(issuer="https://issuer", sub="subject-9", claims=claims),
        replay=ReplayFacts(
            rules_headers=headers,
            looked_at_headers=frozenset(headers),
            looked_at_claims=frozenset({("email",), ("sub",), ("card", "number")}),
        ),
    )
    redactor = Redactor(hashing=KeyedHash(key, **names))
    return dict(document_from_record(record, node="n", redactor=redactor))


def test_no_hashed_value_is_anywhere_in_a_record() -> None:
    """What is hashed stands nowhere else: not for people, not for the replay; masking says so."""
    document = _document()
    text = json.dumps(document)
    assert not any(secret in text for secret in _SECRETS)
    assert document["request"]["headers"]["x-device"][0].startswith(PREFIX)
    assert document["request"]["headers"]["cookie"][0].startswith(PREFIX)
    assert document["subject"]["sub"].startswith(PREFIX)
    assert document["subject"]["issuer"] == "https://issuer"
    assert set(document["subject"]["claims"]) == {"email", "card"}
    assert {"x-device", "cookie"} <= set(document["replay"]["hidden_headers"])
    assert {"email", "sub", "card"} <= set(document["replay"]["hidden_claims"])
    assert {"/subject/sub", "/request/headers/x-device", "/subject/claims/email"} <= set(
        document["masked"]
    )


def test_equal_values_have_equal_hashes_under_one_key() -> None:
    """Under one key the same value has the same hash, under another it has none in common."""
    one, same, other = _document(), _document(), _document(b"o" * 32)
    assert one["subject"] == same["subject"]
    assert one["subject"]["sub"] != other["subject"]["sub"]
    assert one["request"]["headers"]["x-device"] != other["request"]["headers"]["x-device"]
    # RFC 4231, test case 2, cut to half.
    assert KeyedHash(b"Jefe").text("what do ya want for nothing?") == (
        PREFIX + "5bdcc146bf60754e6a042426089575c7"
    )


def test_without_names_nothing_is_hashed() -> None:
    """A header and a claim that nobody named stand as they did: hidden, or masked."""
    document = _document(names={})
    assert PREFIX not in json.dumps(document)
    assert document["request"]["headers"]["cookie"] == ["***"]
    assert document["subject"]["sub"] == "subject-9"


def test_a_writer_takes_the_key_from_its_file(tmp_path: Path) -> None:
    """The settings name key and names; what is written holds the hash."""
    key = tmp_path / "hash.key"
    key.write_bytes(_KEY + b"\n")
    settings = AuditSettings(folder=tmp_path / "log", hash_key_file=key, hashed_claims=("sub",))
    writer = AuditWriter(settings, node="n")
    writer.offer(make_record())
    writer.close()
    (document,) = read_records(tmp_path / "log")
    assert document["subject"]["sub"] == KeyedHash(_KEY).text("alice")


@pytest.mark.parametrize("raw", [None, b"", b"short"])
def test_a_key_that_hides_nothing_is_refused(tmp_path: Path, raw: bytes | None) -> None:
    """A key that is missing or short is an error at the start, and so are names without one."""
    key = tmp_path / "hash.key"
    if raw is not None:
        key.write_bytes(raw)
    with pytest.raises(AuditKeyError):
        open_keyed_hash(AuditSettings(hash_key_file=key, hashed_headers=("x-a",)))
    with pytest.raises(ValidationError, match="hashKeyFile"):
        AuditSettings(hashed_headers=("x-a",))
