"""What stands beside each gRPC service of ours: health and reflection.

Spec: gRPC Health Checking Protocol; gRPC Server Reflection; SPIFFE Workload Endpoint §5.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

from google.protobuf.descriptor_pool import Default, DescriptorPool
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError
from grpclib.reflection.service import ServerReflection

from ca.grpc_bounds import Bounded

_SERVICE: Final = "grpc.health.v1.Health"
# BUDGET: how late a watcher learns that we can sign no more, or again.
_LOOK_SECONDS: Final = 1.0


def with_companions(service: Any, pool: DescriptorPool, is_able: Callable[[], bool]) -> list[Any]:
    """Return `service` with health, which `is_able` decides, and reflection of its descriptors.

    Of each of them callers may send messages of a bounded length.
    """
    name = next(iter(service.__mapping__())).split("/")[1]
    services: list[Any] = ServerReflection.extend(
        [service, _Health(frozenset({"", name}), is_able)], pool=_Pools(pool)
    )
    return [Bounded(each) for each in services]


class _Health:
    """The health service as grpclib serves it.

    WHY not grpclib's own: its messages and those that grpcio's packages bring do not bear each
    other in one process.
    """

    def __init__(self, names: frozenset[str], is_able: Callable[[], bool]) -> None:
        self._names = names
        self._is_able = is_able

    def __mapping__(self) -> Mapping[str, Handler]:
        """Return the methods by their paths."""
        methods = {
            "Check": (self._check, Cardinality.UNARY_UNARY),
            "Watch": (self._watch, Cardinality.UNARY_STREAM),
        }
        return {
            f"/{_SERVICE}/{name}": Handler(method, kind, HealthCheckRequest, HealthCheckResponse)
            for name, (method, kind) in methods.items()
        }

    async def _check(self, stream: Any) -> None:
        """Answer once."""
        request = await stream.recv_message()
        # "If the service name is not registered, the server returns a NOT_FOUND GRPC status."
        if request is None or request.service not in self._names:
            raise GRPCError(Status.NOT_FOUND, "no such service is here")
        await stream.send_message(self._answer())

    async def _watch(self, stream: Any) -> None:
        """Answer at once, and again whenever it is otherwise."""
        request = await stream.recv_message()
        if request is None or request.service not in self._names:
            # A service that is not here will not come later, so the call ends.
            await stream.send_message(
                HealthCheckResponse(status=HealthCheckResponse.SERVICE_UNKNOWN)
            )
            raise GRPCError(Status.NOT_FOUND, "no such service is here")
        last = None
        while True:
            if (answer := self._answer()) != last:
                await stream.send_message(answer)
                last = answer
            await asyncio.sleep(_LOOK_SECONDS)

    def _answer(self) -> HealthCheckResponse:
        """Return how it is now."""
        found = HealthCheckResponse.SERVING if self._is_able() else HealthCheckResponse.NOT_SERVING
        return HealthCheckResponse(status=found)


class _Pools:
    """Our descriptors first, those that every program has (health, reflection) after them.

    WHY not one pool: ours stay out of the process's own, where SPIFFE libraries have theirs.
    """

    def __init__(self, ours: DescriptorPool) -> None:
        self._ours = ours

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Return a look-up of that name which asks both; reflection knows several."""

        def find(*arguments: Any) -> Any:
            try:
                return getattr(self._ours, name)(*arguments)
            except KeyError:
                return getattr(Default(), name)(*arguments)

        return find
