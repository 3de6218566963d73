"""A text that is edited, and read again in part, is what it is when it is read whole."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies import set_memory, stretches
from policies.documents import parse_documents
from policies.load import Inspected, inspect_file
from policies.pace import Pace, no_pace
from policies.set_memory import SetMemory, Texts
from policies.stretches import cut

_HEAD = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n"
_GOOD = _HEAD + "metadata: {name: a, namespace: shop}\nspec: {rules: [{}]}\n"
_ODD = _HEAD + "metadata: {name: b}\nspec: {rules: [{to: [{operation: {paths: [x, y?]}}]}]}\n"
_PIECES = [
    "---\n", "--- ", "---", "--- # begins\n", "----\n", "---x: 1\n", " ---\n", "...\n",
    "... # ends\n",
    "%YAML 1.1\n", "%TAG ! tag:yaml.org,2002:\n", "% \n", "# a comment\n", "\n", "  \n", "\t\n",
    _GOOD, _GOOD, _GOOD.replace("a,", "c,"), _GOOD.replace("[{}]", "[]"), _ODD, _ODD,
    _ODD + "#\n",
    _GOOD.replace("\n", "\r\n"), _GOOD.replace("\n", "\x85"), "\u2028---\n", "\ufeff",
    "\ufeff---\n",
    "kind: ConfigMap\napiVersion: v1\n", "kind: List\napiVersion: v1\nitems:\n- " +
    _GOOD.replace("\n", "\n  ") + "\n- " + _ODD.replace("\n", "\n  ") + "\n",
    "text: |\n  ---\n", "text: |+\n---\n", "--- |\n---\n", "--- >-\n  x\n\n---\n", "|\n",
    "x: 'a\n---\nb'\n",
    "x: \"a\n", "\"\n", "'", "[", "]", "{", "}", "a: &b c\n", "d: *b\n", "&", "*b\n", "\x07",
    "\ud800",
    "? a\n", "- ", ": ", "a: b: c\n", "a: 1\na: 2\n", "1: 2\n", "null\n", "~\n",
]  # fmt: skip
_EDITS = st.lists(
    st.tuples(
        st.integers(min_value=0, max_value=12),
        st.integers(min_value=0, max_value=3),
        st.lists(st.sampled_from(_PIECES), max_size=3),
    ),
    max_size=4,
)


def _told(found: Inspected) -> str:
    """Return all that was found, places included, but for the count of nodes, which is a bound."""
    return repr((found.resources, found.findings))


@settings(max_examples=400)
@given(st.lists(st.sampled_from(_PIECES), max_size=12), _EDITS)
def test_edit_after_edit_is_read_as_if_whole(
    pieces: list[str], edits: list[tuple[int, int, list[str]]]
) -> None:
    """Whatever is put in or taken out, of whatever YAML, the outcome is that of the whole text."""
    memory = SetMemory()
    text = "".join(pieces)
    memory.files([("p.yaml", text)], no_pace)

    for place, gone, put in edits:
        pieces[place : place + gone] = put
        text = "".join(pieces)
        (found,) = memory.files([("p.yaml", text)], no_pace)
        assert _told(inspect_file("p.yaml", text)) == _told(found)


_NAMES = st.lists(st.sampled_from("abcdefgh"), max_size=8, unique=True)


@given(_NAMES, st.lists(_NAMES, max_size=4), st.sampled_from(["---\n", "\n---\n", "--- # p\n"]))
def test_what_is_gone_is_gone(names: list[str], later: list[list[str]], between: str) -> None:
    """Of documents that are taken out, from the end too, nothing is left, nor of their warnings."""
    memory = SetMemory()

    for chosen in (names, *later, names):
        documents = [(_ODD if each < "d" else _GOOD) + f"# {each}\n" for each in chosen]
        text = between.join(documents)
        (found,) = memory.files([("p.yaml", text)], no_pace)
        assert _told(inspect_file("p.yaml", text)) == _told(found)


@pytest.mark.parametrize("left", [1, 2, 3])
def test_a_set_may_lose_its_end(left: int) -> None:
    """A policy that was the last of its file is gone with its text."""
    memory, documents = SetMemory(), _set(4)
    _read(memory, documents)

    names = [each.metadata.name for each in _read(memory, documents[:left]).resources]

    assert [f"p{number}" for number in range(left)] == names


@settings(max_examples=400)
@given(st.lists(st.sampled_from(_PIECES), max_size=12))
def test_stretches_hold_what_the_text_holds(pieces: list[str]) -> None:
    """What is cut is the whole text, and what no error was found in reads the same in parts."""
    text = "".join(pieces)
    found = cut(text)
    if found is None:
        return
    whole = inspect_file("p", text)
    parts = [inspect_file("p", *each) for each in zip(found[1], found[0].lines, strict=True)]

    assert text == "".join(found[1])
    assert whole.has_errors is any(each.has_errors for each in parts)
    if not whole.has_errors:
        resources = tuple(one for each in parts for one in each.resources)
        assert whole.resources == resources
        assert whole.findings == tuple(one for each in parts for one in each.findings)
        assert whole.nodes == sum(each.nodes for each in parts)


class _Reader:
    """Reads as always, and keeps what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    def __call__(self, texts: Texts, pace: Pace) -> Iterable[Inspected]:
        """Read the texts."""
        self.asked += [(text, line) for _, text, line in texts]
        return [inspect_file(*each) for each in texts]


def _set(count: int) -> list[str]:
    """Return documents that have no form, so that what is asked of a reader shows."""
    good = _GOOD.replace("}\n", "} # é\n")
    return ["---\n" + good.replace("a,", f"p{number},") for number in range(count)]


def _read(memory: SetMemory, documents: list[str]) -> Inspected:
    return memory.files([("p.yaml", "".join(documents))], no_pace)[0]


def test_of_many_documents_the_edited_are_read() -> None:
    """Two edits are two readings; what stands between them is the very same object."""
    reader = _Reader()
    memory, documents = SetMemory(reader), _set(9)
    before = _read(memory, documents)
    reader.asked.clear()

    documents[2] = documents[2].replace("shop", "bank")
    documents[3] = documents[3].replace("shop", "bank")
    documents[7] = documents[7].replace("p7", "q7")
    after = _read(memory, documents)

    assert [(documents[2] + documents[3], 11), (documents[7], 36)] == reader.asked
    same = [one is other for one, other in zip(before.resources, after.resources, strict=True)]
    assert [True, True, False, False, True, True, True, False, True] == same


def test_what_moved_is_read_again() -> None:
    """A line more before a document is another place for all of it."""
    reader = _Reader()
    memory, documents = SetMemory(reader), _set(4)
    _read(memory, documents)
    reader.asked.clear()

    documents[2] += "# a line more\n"
    _read(memory, documents)

    assert [(documents[2] + documents[3], 11)] == reader.asked


def test_an_error_has_the_file_read_whole() -> None:
    """Of a file that is refused every error is told, also where it was read in part before."""
    reader = _Reader()
    memory, documents = SetMemory(reader), _set(3)
    _read(memory, documents)
    documents[1] += "x: [\n"
    reader.asked.clear()

    found = _read(memory, documents)

    assert [(documents[1] + documents[2], 6), ("".join(documents), 1)] == reader.asked
    assert inspect_file("p.yaml", "".join(documents)) == found
    assert inspect_file("p.yaml", "".join(_set(3))) == _read(memory, _set(3))


def test_the_budget_of_a_text_holds_over_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that grows by edits is refused where it would be if it were read at once."""
    memory, documents = SetMemory(), _set(3)
    nodes = _read(memory, documents).nodes
    monkeypatch.setattr(set_memory, "MAX_NODES", nodes)
    monkeypatch.setattr("policies.documents.MAX_NODES", nodes)

    for _ in range(3):
        documents[1] = documents[1].replace("shop", "shop1")
        assert nodes == _read(memory, documents).nodes
    assert _read(memory, [*documents, "---\n" + _GOOD]).has_errors


@pytest.mark.parametrize(
    "text",
    ["a: 1\n---\n%TAG ! x\n", "%YAML 1.1\n---\n", "---\na: &b 1\n---\n", "---\r\na\r\n---\r\n"]
    + [f"---\na: {odd}\n---\n" for odd in ("\x85", "\u2028", "\u2029", "\ufeff")],
)
def test_what_reaches_beyond_a_document_is_not_cut(text: str) -> None:
    """Directives, anchors, and lines that are not counted by line feeds."""
    assert cut(text) is None


def test_too_many_documents_are_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader counts empty documents together, so that they are read together."""
    monkeypatch.setattr(stretches, "_MAX_STRETCHES", 5)

    assert cut("---\n" * 4) is not None
    assert cut("---\n" * 6) is None


def test_documents_begin_where_the_parser_says() -> None:
    """Each stretch is one document, however it begins and ends."""
    text = "a: 1\n--- # one\nb: 2\n---\tc\n---\n- |\n ---\n---\n...\n--- >\n x\n---"
    found = cut(text)

    assert found is not None
    assert [len(parse_documents(each, "p")) for each in found[1]] == [1, 1, 1, 1, 0, 1, 0]
    assert [1, 2, 4, 5, 8, 10, 12] == list(found[0].lines)
