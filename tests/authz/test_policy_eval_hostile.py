"""Lines that are meant to hurt `policy eval`: each is answered in its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from checking import NoKeys
from commanding import ANSWER_KEYS, as_lines, line_of, resources, run_policy
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.evaluate import Evaluator, MalformedLineError, read_lines
from authz.evaluate_state import load_evaluation
from authz.serving_state import ServingState
from authz.walk import Surroundings
from policies.mesh import Mesh

GOOD = as_lines(line_of({}))
MALFORMED = {
    "no JSON": (b"nope", "not JSON"),
    "half a line": (b'{"attributes": {', "not JSON"),
    "a list": (b"[]", "not a JSON object"),
    "a number": (b"5", "not a JSON object"),
    "invalid UTF-8": (b'{"attributes": "\xff"}', "not UTF-8"),
    "deep lists": (b"[" * 100_000, "nested too deep"),
    "deep objects": (b'{"a":' * 100_000, "nested too deep"),
    "deep metadata": (
        as_lines({"attributes": {"metadataContext": {"filterMetadata": {"a": {}}}}})
        .replace(b"{}", b'{"a":' * 150 + b"1" + b"}" * 150)
        .strip(),
        "not a CheckRequest",
    ),
    "twice the same key": (b'{"attributes": {}, "attributes": {}}', "stands twice"),
    "no number": (b'{"attributes": NaN}', "is no number"),
    "a number of 5,000 digits": (
        b'{"attributes": {"request": {"http": {"size": ' + b"9" * 5000 + b"}}}}", "not JSON"
    ),
    "an unknown field": (b'{"attributes": {"sauce": {}}}', '"sauce"'),
    "an unknown field beside": (b'{"attributes": {}, "nope": 1}', '"nope"'),
    "attributes that are a number": (b'{"attributes": 3}', "`attributes`"),
    "a header that is a number": (
        b'{"attributes": {"request": {"http": {"headers": {"a": 1}}}}}',
        "`attributes.request.http.headers`",
    ),
    "half a surrogate pair": (
        b'{"attributes": {"request": {"http": {"method": "\\ud800"}}}}',
        "`attributes.request.http.method`",
    ),
    "bytes that are not base64": (
        b'{"attributes": {"request": {"http": {"rawBody": "!!"}}}}', "`rawBody` is not base64"
    ),
    "a port beyond all ports": (
        b'{"attributes": {"source": {"address": {"socketAddress": {"portValue": 4294967296}}}}}',
        "out of range",
    ),
    "a clock that is a number": (b'{"at": 5}', "`at` is not an RFC 3339 time"),
    "a clock without a zone": (b'{"at": "2026-01-09T12:00:00"}', "`at` is not an RFC 3339 time"),
    "a clock of another calendar": (b'{"at": "2026-02-30T12:00:00Z"}', "`at` is no time"),
    "a request that asks nothing": (b'{"attributes": {}}', ""),
    "nothing at all": (b"{}", ""),
}  # fmt: skip


@pytest.mark.parametrize(("line", "why"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_line_is_a_denial_in_its_place(line: bytes, why: str, folder: Path) -> None:
    """What is no request is denied on its own line, told with its number, and the rest goes on."""
    (folder / "p.yaml").write_text(resources([{"name": "open", "spec": {"rules": [{}]}}]))
    stdin = GOOD + line + b"\n\n" + GOOD

    result = run_policy("eval", "--policies", "p.yaml", "--requests", "-", stdin=stdin)

    answers = [json.loads(text) for text in result.stdout.splitlines()]
    assert ["allow", "deny", "allow"] == [answer["decision"] for answer in answers]
    assert (400, "request_malformed", None) == tuple(
        answers[1][key] for key in ("status", "reason", "policy")
    )
    assert ANSWER_KEYS == tuple(answers[1])[: len(ANSWER_KEYS)]
    assert "Traceback" not in result.output
    if why:
        assert why in answers[1]["detail"]
        assert f"<stdin>:2: error: {answers[1]['detail']}" in result.stderr
    assert (1 if why else 0) == result.exit_code


def test_a_line_that_is_too_long_is_passed_over(tmp_path: Path) -> None:
    """Of a line beyond the limit only its number is kept; the next one counts."""
    path = tmp_path / "lines"
    path.write_bytes(b"\xef\xbb\xbf{}\n" + b"x" * 1000 + b"\nshort\n\n" + b"y" * 30)

    with path.open("rb") as stream:
        assert [(1, b"{}\n"), (2, None), (3, b"short\n"), (5, None)] == list(read_lines(stream, 10))


def open_state() -> ServingState:
    """Return a state that allows everything there is to ask."""
    folder = Path(__file__).resolve().parents[2] / "examples" / "policies"
    return load_evaluation([folder], Mesh(), {})


STATE = open_state()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(
            ("attributes", "at", "source", "request", "http", "headers", "principal", "time",
             "headerMap", "rawValue", "key", "metadataContext", "filterMetadata", "path")
        )
        | st.text(max_size=4),
        inner,
        max_size=4,
    ),
    max_leaves=20,
)  # fmt: skip


@given(st.binary(max_size=100) | JSON.map(lambda value: json.dumps(value).encode()))
@settings(max_examples=300, deadline=None)
def test_any_line(line: bytes) -> None:
    """Whatever a line holds, it is answered or refused with a reason on one line."""
    evaluator = Evaluator(STATE, Surroundings(keys=NoKeys()), "shop")

    try:
        answer = evaluator.answer(line)
    except MalformedLineError as exc:
        assert str(exc)
        assert "\n" not in str(exc)
    else:
        assert answer["decision"] in ("allow", "deny")
        assert "internal_error" != answer["reason"]
        json.dumps(answer, allow_nan=False)
