"""What the configuration opens beside SDS, on a CA that really serves, driven by command lines."""

from __future__ import annotations

import json
import os
import queue
import ssl
import threading
from datetime import UTC, datetime

import grpc
import httpx
import pytest
from delivering import served, write_certificate
from spiffe import WorkloadApiClient
from spiffe._proto import workload_pb2
from spiffe._proto.workload_pb2_grpc import SpiffeWorkloadAPIStub
from structlog.testing import capture_logs

CART = "spiffe://example.org/ns/shop/sa/cart"
MINE = f"unix:uid:{os.getuid()}"
HEADER = (("workload.spiffe.io", "true"),)


def test_entry_to_certificate(tmp_path):
    """An entry that is added reaches a waiting client, one that is removed ends its stream."""
    with served(tmp_path) as command:
        command("entries", "add", "--spiffe-id", CART, "--selector", MINE, "--entry-id", "cart")
        endpoint = f"unix://{tmp_path / 'run/api.sock'}"
        with WorkloadApiClient(endpoint) as client:
            svid = client.fetch_x509_svid()
            assert str(svid.spiffe_id) == CART
            token = client.fetch_jwt_svid(audience={"pay"})
            assert token.expiry > datetime.now(UTC).timestamp()
        with grpc.insecure_channel(endpoint) as channel:
            stub = SpiffeWorkloadAPIStub(channel)
            calls = stub.FetchX509SVID(workload_pb2.X509SVIDRequest(), metadata=HEADER)
            assert next(calls).svids[0].spiffe_id == CART
            status = json.loads(command("status", "--json"))
            assert status["streams"] == {"workload_x509": 1}
            command("rotate", "prepare")
            assert len(next(calls).svids[0].bundle) > 1000
            command("entries", "remove", "cart")
            with pytest.raises(grpc.RpcError) as caught:
                next(calls)
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        issued = json.loads(command("list", "--json"))
        assert {row["method"] for row in issued} == {"unix"}
        bundle = json.loads(command("bundle", "export", "--format", "spiffe"))
        uses = sorted(key["use"] for key in bundle["keys"])
        assert uses == ["jwt-svid", "jwt-svid", "x509-svid", "x509-svid"]


def test_stop_ends_streams(tmp_path):
    """A CA that stops ends its streams with UNAVAILABLE, at which clients come back."""
    ended: queue.Queue[grpc.StatusCode] = queue.Queue()
    with grpc.insecure_channel(f"unix://{tmp_path / 'run/api.sock'}") as channel:
        with served(tmp_path) as command:
            command("entries", "add", "--spiffe-id", CART, "--selector", MINE)
            stub = SpiffeWorkloadAPIStub(channel)
            calls = stub.FetchX509SVID(workload_pb2.X509SVIDRequest(), metadata=HEADER)
            next(calls)

            def read() -> None:
                try:
                    next(calls)
                except grpc.RpcError as exc:
                    ended.put(exc.code())

            reader = threading.Thread(target=read)
            reader.start()
        reader.join()
    assert ended.get() is grpc.StatusCode.UNAVAILABLE
    assert not (tmp_path / "run/api.sock").exists()


def test_bundle_endpoint(tmp_path):
    """`bundleEndpoint` serves the very bundle that is exported."""
    certificate, _ = write_certificate(tmp_path)
    endpoint = {"listen": "127.0.0.1:0", "certificateFile": "tls.crt", "keyFile": "tls.key"}
    with capture_logs() as logs, served(tmp_path, bundleEndpoint=endpoint) as command:
        port = next(log["port"] for log in logs if log["event"] == "bundle_endpoint_ready")
        context = ssl.create_default_context(cafile=str(certificate))
        fetched = httpx.get(f"https://localhost:{port}/", verify=context).json()
        exported = json.loads(command("bundle", "export", "--format", "spiffe"))
    assert fetched["keys"] == exported["keys"]
    assert fetched["spiffe_sequence"] == exported["spiffe_sequence"]
