"""A document that is read by the form of another one holds what it holds when read in full."""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from identity.peer import Peer
from policies import form_memory
from policies.diagnostic import location_at
from policies.form import between, split
from policies.form_memory import FormMemory
from policies.load import Inspected, inspect_file
from policies.mesh import Mesh
from policies.model import AuthorizationPolicy
from policies.request import Request
from policies.set_memory import SetMemory
from policies.snapshot import Snapshot, build_snapshot
from policies.stretches import cut

_HERE = Path(__file__).parent
_BLOCK = """\
# of the shop
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: orders
  namespace: shop
  annotations: {istio.io/dry-run: "true", note: 'old'}
  creationTimestamp: 2026-01-31T12:00:00Z
spec:
  selector:
    matchLabels: {app: orders, version: "2"}
  rules:
  - from:
    - source: {principals: [td/ns/shop/sa/web, "td/ns/shop/sa/*"], notNamespaces: [jobs]}
    - source: {ipBlocks: [10.0.0.0/8]}
    to:
    - operation:
        methods: [GET, HEAD]
        paths:
        - /api/v1/*  # all
        - "/ready"
        notPaths: ['*/private']
        ports: ["8080"]
    when:
    - {key: "request.headers[x-team]", values: [red, blue]}
    - key: request.auth.claims[groups]
      values: [admins]
"""
_FLOW = (
    '{"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name":'
    ' "a-1", "namespace": "shop"}, "spec": {"action": "DENY", "selector": {"matchLabels": {"app":'
    ' "app-1"}}, "rules": [{"to": [{"operation": {"paths": ["/api/1/*", "*"]}}]}]}}\n'
)
_TARGETS = """\
apiVersion: security.istio.io/v1beta1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: at}
spec:
  targetRefs: [{kind: Service, name: orders}]
  action: CUSTOM
  provider: {name: rego}
  rules: [{to: [{operation: {methods: [PUT]}}]}, {when: []}]
"""
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
_FORMED = [_BLOCK, _FLOW, _TARGETS]
_OTHER_WORDS = [
    "a", "a-1", "A.b", "b-", "c.", "shop", "Shop", "sa", "true", "Off", "no", "null", "Null", "y",
    "0", "1", "08", "0x1f", "1_000", "1.5", "1e3", "9/8", "8080", "80800", "10.0.0.1", "10.0.0.1/8",
    "10.0.0.1/33", "2026-01-31", "x" * 64, "x" * 254, "x" * 600, "x" * 1100, "/", "//", "/a//b",
    "/api/", "spiffe", "GET", "get", "DENY", "ALLOW", "AUDIT", "CUSTOM", "v1", "kind", "paths",
    "notPaths", "hosts", "ports", "name", "namespace", "rego", "_", "-", "*", "", " ", ":", "\n",
    "'", '"', "\\", "{", "}", "[]", "#", ",", "é", "&a", "!", "|", "- ", "a: b", "%", "{*}", "**",
    "---", "...", "\t", "\r", "\ufeff", "\x07",
]  # fmt: skip
_CHANGES = st.lists(
    st.tuples(st.integers(0, 200), st.sampled_from(_OTHER_WORDS)), min_size=1, max_size=5
)


def _changed(text: str, changes: Sequence[tuple[int, str]]) -> str:
    parts = split(text)
    for number, word in changes:
        parts[number % len(parts)] = word
    return "".join(parts)


def _knowing(*texts: str) -> FormMemory:
    """Return a memory that has met each text twice."""
    memory = FormMemory()
    for each in [*texts, *texts]:
        memory.read("first.yaml", each, 7)
    return memory


def _assert_as_in_full(found: Inspected | None, text: str, line: int) -> None:
    if found is None:
        return
    whole = inspect_file("p.yaml", text, line)
    assert whole == found
    # Equal is not all: `True` equals `1`, and a value's place is a part of it.
    assert repr(whole) == repr(found)


def _has_form(memory: FormMemory, text: str) -> bool:
    """Whether a text is read without the reader."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(form_memory, "inspect_file", None)
        try:
            return memory.read("p.yaml", text, 1) is not None
        except TypeError:
            return False


@settings(max_examples=250)
@given(st.sampled_from(_FORMED), _CHANGES, st.integers(1, 3000))
def test_other_words_are_read_as_in_full(
    text: str, changes: list[tuple[int, str]], line: int
) -> None:
    """Whatever takes the place of a piece of a policy, its form makes what the reader makes."""
    other = _changed(text, changes)

    _assert_as_in_full(_KNOWING.read("p.yaml", other, line), other, line)


@settings(max_examples=250)
@given(st.sampled_from(_CORPUS), _CHANGES)
def test_every_policy_of_the_tests_is_as_good_a_form(
    text: str, changes: list[tuple[int, str]]
) -> None:
    """Policies in every spelling, the wrong ones too, are forms for others or for none."""
    memory = _knowing(text)

    for other in (text, _changed(text, changes), _changed(text, changes[:1])):
        _assert_as_in_full(memory.read("p.yaml", other, 5), other, 5)


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


@pytest.mark.parametrize("text", _FORMED)
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

    assert _has_form(_knowing(text), other)


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
    assert not _has_form(_knowing(_BLOCK), _BLOCK.replace(was, is_now))


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
    other = _BLOCK.replace(was, is_now, 1)
    memory = _knowing(_BLOCK)

    found = memory.read("p.yaml", other, 1)

    if "spiffe" not in is_now:
        assert found is None
    _assert_as_in_full(found, other, 1)


def test_a_policy_that_is_warned_of_is_a_form_as_well() -> None:
    """What is told of a rule and hangs on no value is told of each, by its own name and place."""
    other = _FLOW.replace("a-1", "deny-1000").replace("/api/1/", "/b/")
    memory = _knowing(_FLOW)

    assert _has_form(memory, other)
    found = memory.read("p.yaml", other, 3000)
    assert found is not None
    assert ["denies-all-tcp"] == [each.code for each in found.findings]
    _assert_as_in_full(found, other, 3000)


@pytest.mark.parametrize(
    "text",
    [
        _BLOCK.replace("/ready", "/r\\u0065ady"), _BLOCK.replace("[jobs]", "&x [jobs]"),
        _BLOCK.replace("'old'", "!!str old"), _BLOCK.replace("  - /api/v1/*", "  - >\n    /api*"),
        _BLOCK.replace("orders", "é"), _BLOCK.replace("\n", "\r\n"), _BLOCK + "---\n" + _BLOCK,
        _BLOCK.replace("name: orders", "name: Orders"), _BLOCK.replace("GET", "get"),
        _BLOCK.replace("  namespace: shop\n", ""), _BLOCK.replace("AuthorizationPolicy", "Other"),
        _BLOCK.replace('"/ready"', '"/re\n          ady"'), _BLOCK.replace("shop\n", "'it''s'\n"),
        _BLOCK.replace("principals", "trustDomains"), _BLOCK.replace("paths", "notHosts"),
        _BLOCK.replace("ipBlocks", "notIpBlocks"), "a: 1\n", "", "--- #\n",
        "kind: AuthorizationPolicy",
        "x" * 20_000, _BLOCK + "#" * 20_000,
    ],
)  # fmt: skip
def test_what_means_more_than_it_says_has_no_form(text: str) -> None:
    """Escapes, anchors, tags, folded lines, errors, warnings of values, and what is no policy."""
    memory = _knowing(text)

    assert not _has_form(memory, text)
    _assert_as_in_full(memory.read("p.yaml", text, 1), text, 1)


def test_a_single_document_is_no_form() -> None:
    """What was met once is not learned: of a set in which no two are alike nothing is kept."""
    memory = FormMemory()

    assert memory.read("p.yaml", _BLOCK, 1) is None
    assert memory.read("p.yaml", _FLOW, 1) is None
    assert not _has_form(memory, _BLOCK)


def test_the_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many forms there are, and however many documents have none, it begins anew."""
    monkeypatch.setattr(form_memory, "_FORMS_MAX", 3)
    monkeypatch.setattr(form_memory, "_TRIES_MAX", 4)
    monkeypatch.setattr(form_memory, "_SEEN_MAX", 5)
    memory = FormMemory()

    for number in range(40):
        text = _FLOW if number % 2 else _FLOW.replace("/api/1/", "api/")
        for _ in range(2):
            spaced = text + " " * number
            _assert_as_in_full(memory.read("p.yaml", spaced, 1), spaced, 1)
        assert len(memory._alike) <= 5
        assert len(memory._seen) <= 5
        assert sum(len(each.forms) for each in memory._alike.values()) <= 3


def test_documents_that_are_alike_and_have_no_form_are_tried_seldom(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a few tries they are left to who reads in full."""
    text = _FLOW.replace("/api/1/", "api/")
    memory = _knowing(*[text] * form_memory._ALIKE_MAX)
    monkeypatch.setattr(form_memory, "inspect_file", None)

    assert memory.read("p.yaml", text, 1) is None


@pytest.mark.parametrize(("line", "column"), [(0, 0), (1, 1023), (1024, 5), (70_000, 70_000)])
def test_places_are_places(line: int, column: int) -> None:
    """Small numbers and large ones."""
    assert ("f", line, column) == location_at("f", line, column)


_KNOWING = _knowing(*_FORMED)


def _policies(text: str, line: int) -> dict[tuple[str, str], AuthorizationPolicy]:
    """Return what a text holds, under every name that the forms have."""
    found = [
        each
        for each in inspect_file("p.yaml", text, line).resources
        if isinstance(each, AuthorizationPolicy)
    ]
    return {(each.metadata.namespace, each.metadata.name): each for each in found}


@settings(max_examples=150)
@given(st.sampled_from(_FORMED), _CHANGES, _CHANGES, st.sampled_from([1, 2]))
def test_what_was_before_changes_nothing(
    text: str, once: list[tuple[int, str]], twice: list[tuple[int, str]], line: int
) -> None:
    """Whatever a policy was before, with the same name or by another, it is what it is now."""
    before = _policies(text, 1) | _policies(_changed(text, once), 1)
    # WHY as well under these: a policy that is another one altogether may have had the name.
    before |= {name: policy for name in list(before) for policy in _policies(_BLOCK, 1).values()}
    other = _changed(text, twice)

    for known in (before, _policies(text, 1)):
        _assert_as_in_full(_KNOWING.read("p.yaml", other, line, known), other, line)


def test_what_stays_is_shared() -> None:
    """Of a policy with one new value all other clauses are those of before, compiled ones too."""
    memory, texts = SetMemory(), [("p.yaml", "---\n".join([_BLOCK, _block("pay"), _block("ship")]))]
    first = build_snapshot(texts, Mesh(), memory=memory)
    edited = [(file, text.replace("/api/v1/", "/api/v2/")) for file, text in texts]
    second = build_snapshot(edited, Mesh(), memory=memory)

    (was, was_compiled), (now, compiled) = first.policies[1], second.policies[1]
    assert now.metadata is was.metadata
    assert all(map(operator.is_, now.rules[0].sources[0], was.rules[0].sources[0]))
    assert now.rules[0].when[1] is was.rules[0].when[1]
    pairs = zip(now.rules[0].operations[0], was.rules[0].operations[0], strict=True)
    assert [True, True, False] == [one is other for one, other in pairs]
    assert compiled.rules[0].when[0] is was_compiled.rules[0].when[0]
    assert compiled.rules[0].ref is was_compiled.rules[0].ref
    assert compiled.rules[0].operations[0][2] is not was_compiled.rules[0].operations[0][2]


@pytest.mark.parametrize(
    ("was", "is_now"),
    [
        ("rules:\n", "action: DENY\n  rules:\n"), ("  namespace: shop", "  namespace: bank"),
        ("name: orders", "name: other"), ('"true"', '"false"'), ("old", "new"),
        ("        notPaths:", "        notMethods: [PUT]\n        notPaths:"),
        ("# of the shop\n", "# of the shop\n# of all\n"), ("/api/v1/*", "/api/v2/*"),
        ("  rules:\n", "  rules:\n  - {}\n"), ("values: [admins]", "notValues: [admins]"),
        ("app: orders", "app: pay"),
    ],
)  # fmt: skip
def test_what_is_taken_over_decides_as_what_is_made_anew(was: str, is_now: str) -> None:
    """Edit after edit, there and back, each rule matches what it matches when it is compiled."""
    memory = SetMemory()
    texts = [
        _block("pay"),
        _BLOCK,
        _BLOCK.replace(was, is_now),
        _BLOCK,
        _BLOCK.replace(was, is_now),
    ]

    for text in texts:
        built = build_snapshot([("p.yaml", text)], Mesh(), memory=memory)
        anew = build_snapshot([("p.yaml", text)], Mesh())
        assert _told(anew) == _told(built)


def _block(name: str) -> str:
    return _BLOCK.replace("name: orders", f"name: {name}")


def _told(snapshot: Snapshot) -> object:
    """Return what a set is and what it answers."""
    names = ("td/ns/shop/sa/web", "td/ns/jobs/sa/x", "td/ns/b/sa/x")
    peers = [None, *(Peer.from_principal(f"spiffe://{each}") for each in names)]
    requests = [
        Request(path=path, method=method, source_ip=ip, peer=peer)
        for path in ("/api/v1/a", "/api/v2/a", "/ready", "/x")
        for method in ("GET", "PUT")
        for ip in ("10.1.1.1", "11.1.1.1")
        for peer in peers
    ]
    return [
        (repr(policy), compiled.ref, compiled.action, compiled.dry_run, compiled.provider)
        + tuple(
            (rule.ref, rule.failing(request), rule.matches(request))
            for rule in compiled.rules
            for request in requests
        )
        for policy, compiled in snapshot.policies
    ]
