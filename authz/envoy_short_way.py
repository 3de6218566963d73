"""The short way of a check through Envoy: nothing on it waits for Envoy's loop a second time.

Theory of operation. An application that reads a body asks Envoy's loop for it, and one that
writes trailers hands them over on their own. Each of these is a turn of the loop, with a change
of threads both ways, and while more checks come than can be answered a turn is long. So
Envoy carries the body of a usual check in a header, which the application has from the start,
and ends the answer with `grpc-status: 0` by itself, once all of it is there. Whatever is not
carried (other methods, other types, long bodies) goes the long way, which needs none of this.

INVARIANT: an answer whose status is not OK never has a body, so that what ends it here is
an answer of `check`, or nothing: a client sees no message without having been given one.

Spec: Envoy 1.40 `envoy.extensions.filters.http.lua.v3.Lua`,
`envoy.extensions.filters.http.grpc_http1_reverse_bridge.v3.FilterConfig`.
"""

from __future__ import annotations

from typing import Final

import betterproto2
from envoy_data_plane.envoy.config.core.v3 import DataSource
from envoy_data_plane.envoy.config.route.v3 import FilterConfig, HeaderMatcher, RouteMatch
from envoy_data_plane.envoy.extensions.filters.http.grpc_http1_reverse_bridge.v3 import (
    FilterConfig as BridgeConfig,
)
from envoy_data_plane.envoy.extensions.filters.http.lua.v3 import Lua
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatcher, StringMatcher
from envoy_data_plane.google.protobuf import Any as AnyMessage

from authz.envoy_config import pack
from authz.grpc_over_wsgi import BODY_HEADER, CHECK_PATH, GRPC

# BUDGET: of a body that is carried. A check has 1 to 8 KiB; base64 makes 64 of these 48.
CARRIED_MAX: Final = 48 * 1024

_CARRY: Final = f"""
function envoy_on_request(handle)
  local body = handle:body(true)
  local length = body:length()
  if length > 0 and length <= {CARRIED_MAX} then
    handle:headers():replace("{BODY_HEADER}", handle:base64Escape(body:getBytes(0, length)))
  end
end
"""


def short_way() -> list[HttpFilter]:
    """Return the filters, which come right before the application."""
    return [
        _filter("lua", Lua(default_source_code=DataSource(inline_string=_CARRY))),
        _filter("grpc_http1_reverse_bridge", BridgeConfig(content_type=GRPC)),
    ]


def is_a_check() -> RouteMatch:
    """Return which requests go the short way."""
    types = RegexMatcher(regex=r"application/grpc(\+proto)?")
    kind = HeaderMatcher(name="content-type", string_match=StringMatcher(safe_regex=types))
    method = HeaderMatcher(name=":method", string_match=StringMatcher(exact="POST"))
    return RouteMatch(path=CHECK_PATH, headers=[method, kind])


def by_the_long_way() -> dict[str, AnyMessage]:
    """Return what a route says of the filters whose requests go the long way."""
    return {each.name: pack(FilterConfig(disabled=True)) for each in short_way()}


def _filter(name: str, configuration: betterproto2.Message) -> HttpFilter:
    return HttpFilter(name=f"envoy.filters.http.{name}", typed_config=pack(configuration))
