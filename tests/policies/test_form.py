"""A document that is read by the form of another one holds what it holds when read in full."""

from __future__ import annotations

import re
from itertools import accumulate
from pathlib import Path

import pytest
import yaml
from form_texts import BLOCK, CHANGES, FLOW, FORMED, KNOWING, assert_as_in_full, changed, knowing
from hypothesis import given, settings
from hypothesis import strategies as st

from policies import form_memory
from policies.diagnostic import location_at
from policies.form import between, split
from policies.form_memory import FormMemory
from policies.load import inspect_file
from policies.stretches import cut

_HERE = Path(__file__).parent
_CORPUS = sorted(
    {
        piece
        for folder in ("tests", "demo", "docs")
        for path in (_HERE.parents[1] / folder).rglob("*.yaml")
        if (pieces := cut(path.read_text("utf-8"))) is not None
        for piece in pieces[1]
        if "\nkind: AuthorizationPolicy" in piece and len(piece) < 3000
    }
)


def _has_form(memory: FormMemory, text: str) -> bool:
    """Whether a text is read without the reader."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(form_memory, "inspect_file", None)
        try:
            return memory.read("p.yaml", text, 1) is not None
        except TypeError:
            return False


@settings(max_examples=250)
@given(st.sampled_from(FORMED), CHANGES, st.integers(1, 3000))
def test_other_words_are_read_as_in_full(
    text: str, changes: list[tuple[int, str]], line: int
) -> None:
    """Whatever takes the place of a piece of a policy, its form makes what the reader makes."""
    other = changed(text, changes)

    assert_as_in_full(KNOWING.read("p.yaml", other, line), other, line)


@settings(max_examples=250)
@given(st.sampled_from(_CORPUS), CHANGES)
def test_every_policy_of_the_tests_is_as_good_a_form(
    text: str, changes: list[tuple[int, str]]
) -> None:
    """Policies in every spelling, the wrong ones too, are forms for others or for none."""
    memory = knowing(text)

    for other in (text, changed(text, changes), changed(text, changes[:1])):
        assert_as_in_full(memory.read("p.yaml", other, 5), other, 5)


_LINES = ('["/api/1/*", "*"]', '[\n/api, "*b"]', '\n  [/api, "*b"]')


@pytest.mark.parametrize("text", [*FORMED, *(FLOW.replace(_LINES[0], each) for each in _LINES[1:])])
@pytest.mark.parametrize("word", ["/a", "a", "x" * 30])
def test_every_word_in_turn_is_read_as_in_full(text: str, word: str) -> None:
    """One word that is shorter or longer moves what stands behind it; one held fast is no other."""
    memory, parts = knowing(text), split(text)

    for number in range(1, len(parts), 2):
        other = "".join([*parts[:number], word, *parts[number + 1 :]])
        assert_as_in_full(memory.read("p.yaml", other, 9), other, 9)


_PIECES = [
    "a", "b-1", "c/d.e", "1.5", "x_y", "true", ": ", ":", ", ", ",", "- ", "-", "[", "]", "{", "}",
    '"', "'", "''", "#", " # ", "\n", "\n  ", "\n    ", "\n- ", " ", "*", ".", "---", "--- ", "...",
    "=", "<", "(", "~", "$", ";",
]  # fmt: skip


def _events(text: str) -> list[object] | None:
    """Return the events of a text with the parts that they begin and end in.

    None for what is no YAML or has aliases: no policy has one without an anchor.
    """
    starts = [0, *accumulate(map(len, split(text)))]
    place = {start: number for number, start in reversed(list(enumerate(starts)))}
    found: list[object] = []

    def at(mark: yaml.Mark) -> object:
        # Within what stands between words: the part and how far in.
        part = max(number for number, start in enumerate(starts) if start <= mark.index)
        return place.get(mark.index, (part, mark.index - starts[part]))

    try:
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            if isinstance(event, yaml.AliasEvent):
                return None
            style = getattr(event, "style", None)
            found.append((type(event), at(event.start_mark), at(event.end_mark), style))
    except yaml.YAMLError:
        return None
    return found


@settings(max_examples=500)
@given(st.lists(st.sampled_from(_PIECES), max_size=30), st.data())
def test_one_word_is_as_good_as_another_to_yaml(pieces: list[str], data: st.DataObject) -> None:
    """Of any text, another one with other words between the same is YAML of the same shape."""
    text = "".join(pieces)
    parts = split(text)
    words = st.sampled_from(["z", "true", "12", "_", "/", "n-", "w.-", "L" * 80])
    for number in range(1, len(parts), 2):
        parts[number] = data.draw(words)
    other = "".join(parts)

    assert between(split(text)) == between(split(other))
    assert _events(text) == _events(other)


@given(st.text("ab0/._-:* \n\"'é"))
def test_a_text_is_its_parts(text: str) -> None:
    """Nothing is lost where a text is split, and words and what is between them take turns."""
    parts = split(text)

    assert text == "".join(parts)
    assert all(re.fullmatch(r"[A-Za-z0-9_/][A-Za-z0-9_./-]*", each) for each in parts[1::2])
    assert not any(re.search("[A-Za-z0-9_/]", each) for each in parts[::2])


@pytest.mark.parametrize("text", FORMED)
def test_the_common_spellings_have_a_form(text: str) -> None:
    """Blocks and JSON, with labels and with targets: names and values may differ."""
    other = text
    for was, is_now in (
        ("space: shop", "space: bank"), ("  name: orders", "  name: pay-7"),
        ("app: orders", "app: a"),
        ("app-1", "app-22"), ("/api/v1", "/API/"), ("name: at", "name: to"), ("PUT", "DELETE"),
    ):  # fmt: skip
        other = other.replace(was, is_now)
    assert other != text

    assert _has_form(knowing(text), other)


@pytest.mark.parametrize(
    ("was", "is_now"),
    [
        ("kind: A", "kind: B"), ("apiVersion: s", "apiVersion: t"), ("dry-run", "dryrun"),
        ('"true"', '"false"'), ("old", "new"), ("2026-01", "2025-01"), ("app:", "apps:"),
        ("paths:", "hosts:"), ("claims[groups]", "claims[roles]"), ("x-team", "x-tean"),
        ("of the shop", "of the bank"), ("all", "any"), ("spec", "spek"),
    ],
)  # fmt: skip
def test_what_is_no_value_is_held_fast(was: str, is_now: str) -> None:
    """Keys, kinds, annotations, times, comments: with another word there it is another form."""
    assert not _has_form(knowing(BLOCK), BLOCK.replace(was, is_now))


@pytest.mark.parametrize(
    ("was", "is_now"),
    [
        ("name: orders", "name: Orders"), ("name: orders", "name: 12"),
        ("name: orders", "name: on"),
        ("namespace: shop", "namespace: a.b"), ("app: orders", "app: null"),
        ("app: orders", "app: 1.0"), ('"2"', '"' + "x" * 64 + '"'), ("GET", "get"), ("GET", "1"),
        ("/api/v1/*", "api/v1/*"), ("8080", "80800"), ("10.0.0.0/8", "10.0.0.1/8"),
        ("10.0.0.0/8", "10.0.0.0/33"), ("/ready", "/" + "x" * 600), ("jobs", "sa"),
        ("td/ns", "spiffe//td/ns"), ("red", "yes"), ("/api/v1/*", "/a{*}*"), ("ready", "rea\tdy"),
        ("ready", "réady"), ("/ready", "\\/ready"), ("orders", "orders&"), ("orders", "x # y"),
    ],
)  # fmt: skip
def test_a_value_with_anything_to_tell_is_read_in_full(was: str, is_now: str) -> None:
    """A wrong one, one that is warned of, one that means another type, one that is too long."""
    other = BLOCK.replace(was, is_now, 1)
    memory = knowing(BLOCK)

    found = memory.read("p.yaml", other, 1)

    if "spiffe" not in is_now:
        assert found is None
    assert_as_in_full(found, other, 1)


@pytest.mark.parametrize("name", ["deny-1000", "x" * 100, "x" * 101, "x" * 253])
def test_a_policy_that_is_warned_of_is_a_form_as_well(name: str) -> None:
    """What is told of a rule and hangs on no value is told of each, by its own name and place."""
    other = FLOW.replace("a-1", name).replace("/api/1/", "/b/")
    memory = knowing(FLOW)

    assert _has_form(memory, other)
    found = memory.read("p.yaml", other, 3000)
    assert found is not None
    assert ["denies-all-tcp"] == [each.code for each in found.findings]
    assert_as_in_full(found, other, 3000)


@pytest.mark.parametrize(
    "text",
    [
        BLOCK.replace("/ready", "/r\\u0065ady"), BLOCK.replace("[jobs]", "&x [jobs]"),
        BLOCK.replace("'old'", "!!str old"), BLOCK.replace("  - /api/v1/*", "  - >\n    /api*"),
        BLOCK.replace("orders", "é"), BLOCK.replace("\n", "\r\n"), BLOCK + "---\n" + BLOCK,
        BLOCK.replace("name: orders", "name: Orders"), BLOCK.replace("GET", "get"),
        BLOCK.replace("  namespace: shop\n", ""), BLOCK.replace("AuthorizationPolicy", "Other"),
        BLOCK.replace('"/ready"', '"/re\n          ady"'), BLOCK.replace("shop\n", "'it''s'\n"),
        BLOCK.replace("principals", "trustDomains"), BLOCK.replace("paths", "notHosts"),
        BLOCK.replace("ipBlocks", "notIpBlocks"), "a: 1\n", "", "--- #\n",
        "kind: AuthorizationPolicy",
        "x" * 20_000, BLOCK + "#" * 20_000, BLOCK + "#" * (16_384 - len(BLOCK)) + "#",
        BLOCK.replace("'*/private'", "'*/a''b'''"), BLOCK + "---\na: 1\n",
        BLOCK + "---\nkind: ConfigMap\napiVersion: v1\nmetadata: {name: a}\n",
    ],
)  # fmt: skip
def test_what_means_more_than_it_says_has_no_form(text: str) -> None:
    """Escapes, anchors, tags, folded lines, errors, warnings of values, and what is no policy."""
    memory = knowing(text)

    assert not _has_form(memory, text)
    assert_as_in_full(memory.read("p.yaml", text, 1), text, 1)


@pytest.mark.parametrize(
    ("first", "other"),
    [
        ("from: [{source: {trustDomains: [td]}}]", "from: [{source: {trustDomains: [a/b]}}]"),
        ('to: [{operation: {ports: ["1"], hosts: [a.b, "a.b:*"]}}]',
         'to: [{operation: {ports: ["1"], hosts: [a.b, "a.c:*"]}}]'),
        ("to: [{operation: {methods: [get]}}]", "to: [{operation: {methods: [PUT]}}]"),
        ("to: [{operation: {paths: [a]}}]", "to: [{operation: {paths: [/a/]}}]"),
        ("to: [{operation: {paths: [/a/b]}}]", "to: [{operation: {paths: [/a]}}]"),
        ("to: [{operation: {notPaths: [/a/b]}}]", "to: [{operation: {notPaths: [/a]}}]"),
        ('when: [{key: "request.headers[x-a]", values: ["a*"]}]',
         'when: [{key: "request.headers[x-a]", values: ["ab"]}]'),
        ('when: [{key: "request.headers[x-a]", notValues: ["a*"]}]',
         'when: [{key: "request.headers[x-a]", notValues: ["ab"]}]'),
        ('when: [{key: "request.headers[x-a]", notValues: [a]}]',
         'when: [{key: "request.headers[x-a]", notValues: [b]}]'),
    ],
)  # fmt: skip
@pytest.mark.parametrize("action", ["DENY", "ALLOW"])
def test_what_hangs_on_values_is_told_of_those_it_hangs_on(
    first: str, other: str, action: str
) -> None:
    """Nothing that was found of one document is told of another, or left out for another."""
    begin = FLOW[: FLOW.index('"rules"')].replace("{", "{ ").replace("DENY", action)
    texts = [begin + "rules: [{" + each + "}]}}\n" for each in (first, other)]
    memory = knowing(texts[0])

    for text in texts:
        assert_as_in_full(memory.read("p.yaml", text, 1), text, 1)


def test_a_single_document_is_no_form() -> None:
    """What was met once is not learned: of a set in which no two are alike nothing is kept."""
    memory = FormMemory()

    assert memory.read("p.yaml", BLOCK, 1) is None
    assert memory.read("p.yaml", FLOW, 1) is None
    assert not _has_form(memory, BLOCK)


def test_the_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many forms there are, and however many documents have none, it begins anew."""
    monkeypatch.setattr(form_memory, "_FORMS_MAX", 3)
    monkeypatch.setattr(form_memory, "_TRIES_MAX", 4)
    monkeypatch.setattr(form_memory, "_SEEN_MAX", 5)
    memory = FormMemory()

    for number in range(40):
        text = FLOW if number % 2 else FLOW.replace("/api/1/", "api/")
        for _ in range(2):
            spaced = text + " " * number
            assert_as_in_full(memory.read("p.yaml", spaced, 1), spaced, 1)
        assert len(memory._alike) <= 5
        assert len(memory._seen) <= 5
        assert sum(len(each.forms) for each in memory._alike.values()) <= 3


def test_the_longest_document_with_a_form() -> None:
    """One letter more has none, above; a form that was just learned tells what was found."""
    text = BLOCK + "#" * (16_384 - len(BLOCK))
    memory = FormMemory()

    assert memory.read("p.yaml", text, 1) is None
    assert memory.read("p.yaml", text, 1) == inspect_file("p.yaml", text, 1)
    assert _has_form(memory, text)


@pytest.mark.parametrize("bound", ["_FORMS_MAX", "_TRIES_MAX"])
def test_each_bound_alone_begins_anew(monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    """At the third form, or the third try for one, nothing is known any more."""
    monkeypatch.setattr(form_memory, bound, 3)
    memory = FormMemory()
    has_none = bound == "_TRIES_MAX"
    kinds = [FLOW.replace("/api/1/", "api/") if has_none else FLOW] * 7

    known = []
    for number, text in enumerate(kinds):
        for _ in range(2):
            memory.read("p.yaml", text + " " * number, 1)
        known.append(len(memory._alike))

    assert known == [1, 2, 0, 1, 2, 0, 1]


def test_what_was_met_once_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of documents that nothing is like, so many are remembered, and then the next ones."""
    monkeypatch.setattr(form_memory, "_SEEN_MAX", 3)
    memory = FormMemory()

    seen = []
    for number in range(7):
        assert memory.read("p.yaml", FLOW + " " * number, 1) is None
        seen.append(len(memory._seen))

    assert seen == [1, 2, 3, 1, 2, 3, 1]
    assert memory.read("p.yaml", FLOW + " " * 6, 1) is not None


def test_documents_that_are_alike_and_have_no_form_are_tried_seldom() -> None:
    """After a few tries they are left to who reads in full."""
    text = FLOW.replace("/api/1/", "api/")
    memory = FormMemory()

    found = [memory.read("p.yaml", text, 1) is not None for _ in range(12)]

    assert found == [False, *[True] * 8, *[False] * 3]


@pytest.mark.parametrize(("line", "column"), [(0, 0), (1, 1023), (1024, 5), (70_000, 70_000)])
def test_places_are_places(line: int, column: int) -> None:
    """Small numbers and large ones."""
    assert ("f", line, column) == location_at("f", line, column)
