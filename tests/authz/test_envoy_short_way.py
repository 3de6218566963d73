"""Which requests go the short way, and that no others do."""

from __future__ import annotations

import re

import pytest
from envoy_data_plane.envoy.config.route.v3 import FilterConfig
from envoy_data_plane.envoy.extensions.filters.http.grpc_http1_reverse_bridge.v3 import (
    FilterConfig as BridgeConfig,
)

from authz.envoy_config import pack
from authz.envoy_short_way import by_the_long_way, is_a_check, short_way
from authz.grpc_over_wsgi import CHECK_PATH, GRPC, HEALTH_PATH

_LUA, _BRIDGE = (f"envoy.filters.http.{name}" for name in ("lua", "grpc_http1_reverse_bridge"))


@pytest.mark.parametrize(
    ("kind", "is_short"),
    [
        ("application/grpc", True),
        ("application/grpc+proto", True),
        ("application/grpc+json", False),
        ("application/grpc+protobuf", False),
        ("application/grpc-web", False),
        ("application/grpc-web+proto", False),
        ("application/grpc; charset=utf-8", False),
        ("application/grpcproto", False),
        ("x-application/grpc", False),
        ("application/json", False),
        ("", False),
    ],
)
def test_what_a_check_is(kind: str, is_short: bool) -> None:
    """A POST to the one method with a type that is answered; Envoy holds a pattern to the whole."""
    match = is_a_check()
    assert match.path == CHECK_PATH != HEALTH_PATH
    by_name = {each.name: each.string_match for each in match.headers}
    assert by_name.keys() == {":method", "content-type"}
    method, types = by_name[":method"], by_name["content-type"]
    assert method is not None
    assert types is not None
    assert types.safe_regex is not None
    assert method.exact == "POST"
    assert (re.fullmatch(types.safe_regex.regex, kind) is not None) is is_short
    assert not any(
        each.invert_match or each.treat_missing_header_as_empty for each in match.headers
    )


def test_the_long_way_goes_by_none_of_the_filters() -> None:
    """Each filter of the short way is turned off for all other requests."""
    names = [each.name for each in short_way()]
    assert names == [_LUA, _BRIDGE]
    disabled = pack(FilterConfig(disabled=True))
    assert by_the_long_way() == dict.fromkeys(names, disabled)
    assert FilterConfig.parse(disabled.value).disabled


def test_the_answer_keeps_its_frame() -> None:
    """The application writes the message's prefix itself, and the type is that of gRPC."""
    configured = short_way()[1].typed_config
    assert configured is not None
    bridge = BridgeConfig.parse(configured.value)
    assert bridge.content_type == GRPC
    assert not bridge.withhold_grpc_frames
