"""Results of the wrong shape are errors, never verdicts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opa_bridge.errors import ResultError
from opa_bridge.result import read_verdict
from policies.decision import Effect


@pytest.mark.parametrize(
    "result",
    [
        None,
        1,
        "true",
        [],
        {},
        {"allowed": "true"},
        {"allowed": 1},
        {"allowed": None},
        {"allowed": True, "headers": "x"},
        {"allowed": True, "headers": {"x": 1}},
        {"allowed": True, "headers": {":path": "/x"}},
        {"allowed": True, "headers": {"x": "a\r\ny: b"}},
        {"allowed": True, "headers": {"": "a"}},
        {"allowed": True, "headers": [["x", "y"]]},
        {"allowed": True, "response_headers_to_add": {"x": [1]}},
        {"allowed": True, "request_headers_to_remove": "x"},
        {"allowed": True, "request_headers_to_remove": [1]},
        {"allowed": True, "query_parameters_to_set": {"x": 1}},
        {"allowed": True, "query_parameters_to_remove": {"x": 1}},
        {"allowed": True, "dynamic_metadata": []},
        {"allowed": False, "body": 1},
        {"allowed": False, "http_status": "403"},
        {"allowed": False, "http_status": 403.5},
        {"allowed": False, "http_status": True},
        {"allowed": False, "http_status": 100},
        {"allowed": False, "http_status": 999},
        {"allowed": False, "headers": {"x": None}},
    ],
)
def test_malformed_result_is_an_error(result: Any) -> None:
    """Neither allow nor deny is read into a result of another shape."""
    with pytest.raises(ResultError):
        read_verdict(result)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(json_values)
def test_only_true_allows(result: Any) -> None:
    """Whatever the policy says, only a true boolean lets a request pass."""
    try:
        verdict = read_verdict(result)
    except ResultError:
        return
    says = result if isinstance(result, bool) else result["allowed"]
    assert (verdict.effect is Effect.ALLOW) is (says is True)
