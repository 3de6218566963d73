"""What clients may have open, send, break off and leave undone, before Envoy ends it for them.

One client's doing costs the others nothing, and what it can have the process keep is bounded:
by number (connections, calls of one, headers), by time (a call, a client that is gone), and by
memory in all. Whatever exceeds a limit is refused or closed: none of them lets anybody in.

Spec: Envoy 1.40 `envoy.config.core.v3.Http2ProtocolOptions`, `envoy.config.overload.v3`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from envoy_data_plane.envoy.config.bootstrap.v3 import LayeredRuntime, RuntimeLayer
from envoy_data_plane.envoy.config.core.v3 import (
    Http2ProtocolOptions,
    HttpProtocolOptions,
    HttpProtocolOptionsHeadersWithUnderscoresAction,
    KeepaliveSettings,
)
from envoy_data_plane.envoy.config.overload.v3 import (
    BufferFactoryConfig,
    OverloadAction,
    OverloadManager,
    ResourceMonitor,
    ScaledTrigger,
    Trigger,
)
from envoy_data_plane.envoy.extensions.resource_monitors.downstream_connections.v3 import (
    DownstreamConnectionsConfig,
)
from envoy_data_plane.envoy.extensions.resource_monitors.fixed_heap.v3 import FixedHeapConfig
from envoy_data_plane.envoy.type.v3 import Percent
from envoy_data_plane.google.protobuf import Struct, Value

from authz.envoy_config import pack

# BUDGET: Envoys that ask, times their worker threads.
_CONNECTIONS: Final = 4096
# BUDGET: of each stream and of each connection, unread. A check has 1 to 8 KiB.
_STREAM_WINDOW: Final = 256 * 1024
CONNECTION_WINDOW: Final = 1024 * 1024
_HEADERS: Final = 50
# BUDGET: calls that a client may break off on a connection, at once, and then each second for
# each call that it may have open: an Envoy whose checks are all ended by a time-out of 100 ms.
_BROKEN_OFF_AT_ONCE: Final = 1000
_BROKEN_OFF_A_SECOND: Final = 10
# The guard of Envoy's that counts over a connection's whole life would come to it all the same.
_BROKEN_OFF_IN_ALL: Final = 2**31
# BUDGET: of a connection's life; a tenth more or less, so that not all come again at once.
_CONNECTION_SECONDS: Final = 3600
_JITTER: Final = Percent(value=10.0)
# How often a client is asked whether it is there still, and how long it has to say so.
_ASK_SECONDS: Final = 60
_SAY_SECONDS: Final = 30
# BUDGET: heap of Envoy's that bodies may fill; from half of it on, the longest are broken off, and
# none is that is shorter than 1 MiB.
_HEAP_BYTES: Final = 1024 * 1024 * 1024
_HEAP_SHARES: Final = (0.5, 0.9)
_LONG_BODY_BITS: Final = 20
_HEAP: Final = "envoy.resource_monitors.fixed_heap"


def http2_limits(calls: int) -> Http2ProtocolOptions:
    """Return the limits of one connection, which may have so many calls open."""
    return Http2ProtocolOptions(
        max_concurrent_streams=calls,
        initial_stream_window_size=_STREAM_WINDOW,
        initial_connection_window_size=CONNECTION_WINDOW,
        # WHY: what one call does wrong is no reason to break its neighbours off.
        override_stream_error_on_invalid_http_message=True,
        stream_reset_burst=_BROKEN_OFF_AT_ONCE,
        stream_reset_rate=_BROKEN_OFF_A_SECOND * calls,
        # WHY: who is gone without a word would hold its connection for an hour.
        connection_keepalive=KeepaliveSettings(
            interval=timedelta(seconds=_ASK_SECONDS), timeout=timedelta(seconds=_SAY_SECONDS)
        ),
    )


def http_limits() -> HttpProtocolOptions:
    """Return the limits of one call's headers, and of a connection's life.

    WHY of its life: a client's certificate is judged when it connects, and workers share
    connections, not calls. It ends with GOAWAY, and no call with it.
    """
    underscores = HttpProtocolOptionsHeadersWithUnderscoresAction
    return HttpProtocolOptions(
        # WHY: WSGI shows `-` and `_` alike, and one would pass for the other.
        headers_with_underscores_action=underscores.DROP_HEADER,
        max_headers_count=_HEADERS,
        max_connection_duration=timedelta(seconds=_CONNECTION_SECONDS),
        max_connection_duration_jitter=_JITTER,
    )


def runtime_limits() -> LayeredRuntime:
    """Return what of limits is set by Envoy's runtime alone.

    WHY: half of a connection's calls broken off in less than two seconds would have it closed, with
    all that is open on it. That is what honest Envoys do whose time-out (200 ms) ends their
    checks, while we cannot answer in time. How many a second is what tells an attack.
    """
    told = {"overload.premature_reset_total_stream_count": Value(number_value=_BROKEN_OFF_IN_ALL)}
    return LayeredRuntime(layers=[RuntimeLayer(name="limits", static_layer=Struct(fields=told))])


def limits_of_all() -> OverloadManager:
    """Return the limits of all clients together: connections, and memory for long bodies."""
    begins, ends = _HEAP_SHARES
    return OverloadManager(
        resource_monitors=[
            ResourceMonitor(
                name="envoy.resource_monitors.global_downstream_max_connections",
                typed_config=pack(
                    DownstreamConnectionsConfig(max_active_downstream_connections=_CONNECTIONS)
                ),
            ),
            ResourceMonitor(
                name=_HEAP, typed_config=pack(FixedHeapConfig(max_heap_size_bytes=_HEAP_BYTES))
            ),
        ],
        actions=[
            OverloadAction(
                name="envoy.overload_actions.reset_high_memory_stream",
                triggers=[
                    Trigger(
                        name=_HEAP,
                        scaled=ScaledTrigger(scaling_threshold=begins, saturation_threshold=ends),
                    )
                ],
            )
        ],
        buffer_factory_config=BufferFactoryConfig(
            minimum_account_to_track_power_of_two=_LONG_BODY_BITS
        ),
    )
