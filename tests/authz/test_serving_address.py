"""Where a server listens is told as it came to be, not as it was asked for."""

from __future__ import annotations

import queue
import threading
from pathlib import Path

import grpc
import httpx
import pytest
from checking import make_message
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse
from structlog.testing import capture_logs

from authz.config_file import load_settings
from authz.grpc_server import SERVICE
from authz.serve import Seat, serve
from tests.loopback import EAGER

CONFIGURATION = """
listen: {{grpc: "{grpc}", http: "127.0.0.1:0", drainSeconds: 0}}
policies: {{paths: [policy.yaml]}}
audit: {{folder: audit}}
"""
POLICY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: a, namespace: shop}
spec: {rules: [{}]}
"""


@pytest.mark.parametrize("asked", ["127.0.0.1:0", "[::1]:0", "unix:///SOCKET"])
def test_both_listeners_answer_where_the_log_says(asked: str, short_path: Path) -> None:
    """Port 0 is told as the port that was bound; a socket has none."""
    folder = short_path
    asked = asked.replace("/SOCKET", str(folder / "s"))
    (folder / "policy.yaml").write_text(POLICY)
    path = folder / "meshwarden.yaml"
    path.write_text(CONFIGURATION.format(grpc=asked))
    stop, is_up = threading.Event(), queue.Queue[int]()
    seat = Seat(listening=is_up.put)
    with capture_logs() as told:
        server = threading.Thread(
            target=serve, args=(load_settings(path),), kwargs={"stop": stop, "seat": seat}
        )
        server.start()
        try:
            port = is_up.get(timeout=30)
            [found] = [each for each in told if each["event"] == "serving"]
            with (
                httpx.Client(trust_env=False) as client,
                grpc.insecure_channel(found["grpc"], EAGER) as channel,
            ):
                assert 200 == client.get(f"http://{found['http']}/readyz").status_code
                ask = channel.unary_unary(f"/{SERVICE}/Check", None, CheckResponse.FromString)
                answer = ask(make_message().SerializeToString(), timeout=10)
        finally:
            stop.set()
            server.join(30)
    assert answer.dynamic_metadata["decision_id"]
    assert f"127.0.0.1:{port}" == found["http"]
    assert (asked == found["grpc"]) == asked.startswith("unix")
