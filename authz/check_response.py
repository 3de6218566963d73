"""A Decision to CheckResponse bytes.

Spec: `envoy.service.auth.v3.CheckResponse`. Laws of this file: `status` is always
set (a response without one counts as OK), and every header we set says both
`append: false` and OVERWRITE, because Envoy's default has changed between versions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse
from envoy.type.v3.http_status_pb2 import HttpStatus
from google.protobuf.wrappers_pb2 import BoolValue
from google.rpc import code_pb2

from policies.decision import Decision, Reason

_OVERWRITE = HeaderValueOption.HeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD
_APPEND = HeaderValueOption.HeaderAppendAction.APPEND_IF_EXISTS_OR_ADD
_UNAUTHORIZED = 401


def encode_check_response(
    decision: Decision,
    metadata: Mapping[str, Any],
    *,
    response_headers: Iterable[tuple[str, str]] | None = None,
    is_http: bool = True,
) -> bytes:
    """Return the serialized answer; `metadata` becomes the filter's dynamic metadata.

    `response_headers` are set on what the client gets, in the place of the decision's. The
    answer about a connection (`is_http` false) is its status alone.

    Raises:
        Exception: of many kinds, when no message can hold a provider's values.
    """
    response = CheckResponse()
    told = decision.mutations.set_response_headers if response_headers is None else response_headers
    if not is_http:
        _fill_connection(response, decision)
    elif decision.is_allowed:
        _fill_allowed(response, decision, told)
    else:
        _fill_denied(response, decision, told)
    response.dynamic_metadata.update(metadata)
    answer = bytes(response.SerializeToString())
    if decision.mutations.dynamic_metadata:
        # WHY read back: what a provider nests too deep is written, but no Envoy can read it.
        CheckResponse.FromString(answer)
    return answer


def _fill_connection(response: CheckResponse, decision: Decision) -> None:
    response.status.code = code_pb2.OK if decision.is_allowed else code_pb2.PERMISSION_DENIED
    response.status.message = "" if decision.is_allowed else decision.reason


def _fill_allowed(
    response: CheckResponse, decision: Decision, told: Iterable[tuple[str, str]]
) -> None:
    mutations = decision.mutations
    response.status.code = code_pb2.OK
    ok = response.ok_response
    ok.headers.extend(_options(mutations.set_request_headers))
    ok.headers.extend(_additions(mutations.append_request_headers))
    ok.headers_to_remove.extend(mutations.remove_request_headers)
    ok.response_headers_to_add.extend(_options(told))
    for name, value in mutations.set_query_parameters:
        ok.query_parameters_to_set.add(key=name, value=value)
    ok.query_parameters_to_remove.extend(mutations.remove_query_parameters)


def _fill_denied(
    response: CheckResponse, decision: Decision, told: Iterable[tuple[str, str]]
) -> None:
    status = decision.http_status
    is_unauthenticated = status == _UNAUTHORIZED
    response.status.code = (
        code_pb2.UNAUTHENTICATED if is_unauthenticated else code_pb2.PERMISSION_DENIED
    )
    response.status.message = decision.reason
    answer = response.denied_response
    # "error_response": the authorizer itself failed. Envoy counts it as an error; only an
    # operator who chose `failure_mode_allow` lets such a request pass.
    if decision.reason is Reason.INTERNAL_ERROR:
        response.status.code = code_pb2.INTERNAL
        answer = response.error_response
    answer.status.CopyFrom(HttpStatus(code=status))
    answer.headers.extend(_options(told))
    answer.body = decision.body


def _options(headers: Iterable[tuple[str, str]]) -> Iterable[HeaderValueOption]:
    """Yield header options that overwrite; a repeated name appends to our own first value."""
    seen: set[str] = set()
    for name, value in headers:
        repeated = name in seen
        seen.add(name)
        yield _option(name, value, is_added=repeated)


def _additions(headers: Iterable[tuple[str, str]]) -> Iterable[HeaderValueOption]:
    """Yield header options that leave what is there."""
    for name, value in headers:
        yield _option(name, value, is_added=True)


def _option(name: str, value: str, *, is_added: bool) -> HeaderValueOption:
    return HeaderValueOption(
        header=HeaderValue(key=name, value=value),
        append=BoolValue(value=is_added),
        append_action=_APPEND if is_added else _OVERWRITE,
    )
