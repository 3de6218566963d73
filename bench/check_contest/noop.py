"""The limit: a `grpc.server` whose handler returns the same bytes for every message.

Run as `python -m bench.check_contest.noop PORT THREADS`.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse


def main(port: str, threads: str) -> None:
    """Serve until killed."""
    response = CheckResponse()
    response.status.code = 0
    answer = bytes(response.SerializeToString())

    def check(message: bytes, context: grpc.ServicerContext) -> bytes:
        del message, context
        return answer

    server = grpc.server(ThreadPoolExecutor(int(threads)))
    handlers = {"Check": grpc.unary_unary_rpc_method_handler(check)}
    service = "envoy.service.auth.v3.Authorization"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main(*sys.argv[1:])
