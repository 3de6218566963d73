"""What the configuration opens beside SDS, on a CA that really serves, driven by command lines."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import ssl
import threading
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import grpc
import httpx
import pytest
import yaml
from click.testing import CliRunner
from delivering import write_certificate
from spiffe import WorkloadApiClient
from spiffe._proto import workload_pb2
from spiffe._proto.workload_pb2_grpc import SpiffeWorkloadAPIStub
from structlog.testing import capture_logs

from authz.cli import main
from authz.commands.ca_slots import load_ca_settings
from ca.server import serve

CART = "spiffe://example.org/ns/shop/sa/cart"
MINE = f"unix:uid:{os.getuid()}"
HEADER = (("workload.spiffe.io", "true"),)
WAIT = 10


@contextmanager
def served(folder: Path, **changes):
    """Serve a configuration in a thread; yields what runs a command line on it."""
    config = folder / "ca.yaml"
    settings = {
        "stateFolder": "state",
        "trustDomain": "example.org",
        "workloadApi": {"socket": "run/api.sock"},
    } | changes
    config.write_text(yaml.safe_dump(settings))
    loop, ready, stop = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    outcome: queue.Queue[BaseException | None] = queue.Queue()

    def run() -> None:
        try:
            parsed = load_ca_settings(config)
            loop.run_until_complete(serve(parsed, ready=ready.set, stop=stop))
            outcome.put(None)
        except BaseException as exc:
            outcome.put(exc)
        finally:
            ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(WAIT)

    def command(*words: str) -> str:
        result = CliRunner().invoke(main, ["ca", *words, "-c", str(config)])
        assert result.exit_code == 0, result.output
        return result.stdout

    try:
        yield command
    finally:
        if not loop.is_closed():
            loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
        error = outcome.get()
        if error is not None:
            raise error


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
