"""Plain scalars mean what `kubectl apply` makes of them: held against sigs.k8s.io/yaml."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from policies.diagnostic import LoadError
from policies.documents import is_text, parse_documents

TABLE: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("scalars.yaml").read_text("utf-8"))
VALUES = [(each["as"], text) for each in TABLE["values"] for text in each["written"]]


def _read(text: str) -> Any:
    (document,) = parse_documents(text, "f.yaml")
    return document.plain()


@pytest.mark.parametrize(("meaning", "written"), VALUES)
def test_value(meaning: str, written: str) -> None:
    """A plain scalar is the boolean, number or text that it is to `kubectl`; quoted it is text."""
    found = _read(f"a: {written}\nb: '{written}'\n")
    wanted = written if meaning == "text" else json.loads(meaning)
    assert found == {"a": wanted, "b": written}
    assert isinstance(found["a"], bool) == (meaning in ("true", "false"))
    assert is_text(written) == (meaning == "text")


@pytest.mark.parametrize("form", ["{}", "-{}", "+{}", "0{}", "{}.5", ".{}", "{}e1"])
def test_many_digits_are_a_number(form: str) -> None:
    """A number of more digits than anybody writes is no text, and larger than any that counts."""
    written = form.format("7" * TABLE["digits"])
    assert not is_text(written)
    assert _read(f"a: {written}\n")["a"] >= 10**60


@pytest.mark.parametrize("key", TABLE["keys"])
def test_key_that_would_be_another_is_refused(key: str) -> None:
    """A plain key that `kubectl` would write otherwise is refused, quoted it is taken."""
    with pytest.raises(LoadError, match="quote it"):
        parse_documents(f"{key}: x\n", "f.yaml")
    assert _read(f"'{key}': x\n") == {key: "x"}


@pytest.mark.parametrize("key", TABLE["steady_keys"])
def test_key_that_stays_is_taken(key: str) -> None:
    """A plain key that stays as it is written is that text."""
    assert _read(f"{key}: x\n") == {key: "x"}


@pytest.mark.parametrize(
    "text", ["\ufeffa: x\n", "---\n\ufeffa: x\n", "\ufeff# c\n--- # d\n\ufeffa: x\n"]
)
def test_mark_before_a_document_is_nothing(text: str) -> None:
    """A byte order mark may begin a text, and a document of files that were put together."""
    assert _read(text) == {"a": "x"}


def test_mark_before_a_key_is_refused() -> None:
    """A byte order mark within a document would be part of a key elsewhere: it is refused."""
    with pytest.raises(LoadError) as refusal:
        parse_documents("a: x\n\ufeffb: y\n", "f.yaml")
    (found,) = refusal.value.diagnostics
    assert (found.location.line, "U+FEFF" in found.message) == (2, True)
    assert _read('a: "x\ufeff"\nb: \ufeffz\n') == {"a": "x\ufeff", "b": "\ufeffz"}
