"""Health and reflection beside the services of the CA, asked as grpcurl and probes ask."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from contextlib import contextmanager
from datetime import timedelta
from itertools import chain, repeat
from pathlib import Path

import grpc
import pytest
from delivering import delivering_ca
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpclib.reflection.v1.reflection_pb2 import (
    ServerReflectionRequest,
    ServerReflectionResponse,
)
from h2.connection import H2Connection
from signing_clients import signing_ca

ISTIO = "istio.v1.auth.IstioCertificateService"
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"


def _reflect(channel: grpc.Channel, *requests: dict[str, str]) -> list[ServerReflectionResponse]:
    call = channel.stream_stream(
        REFLECTION,
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=ServerReflectionResponse.FromString,
    )
    return list(call(iter([ServerReflectionRequest(**each) for each in requests])))


def _file(response: ServerReflectionResponse) -> FileDescriptorProto:
    [content] = response.file_descriptor_response.file_descriptor_proto
    return FileDescriptorProto.FromString(content)


@contextmanager
def _istio(folder):
    with signing_ca(folder) as ca:
        credentials = grpc.ssl_channel_credentials(ca.roots)
        with grpc.secure_channel(f"localhost:{ca.istio_port}", credentials) as channel:
            yield ca, channel


def test_reflection_of_both_services(tmp_path):
    """Each service is listed with health, and described down to its fields."""
    (tmp_path / "i").mkdir()
    with _istio(tmp_path / "i") as (_, channel):
        listed, ours, health, unknown = _reflect(
            channel,
            {"list_services": "*"},
            {"file_containing_symbol": ISTIO},
            {"file_containing_symbol": "grpc.health.v1.Health"},
            {"file_containing_symbol": "no.such"},
        )
    names = [each.name for each in listed.list_services_response.service]
    assert names == [ISTIO, "grpc.health.v1.Health"]
    [service] = _file(ours).service
    assert [(m.name, m.input_type) for m in service.method] == [
        ("CreateCertificate", ".istio.v1.auth.IstioCertificateRequest")
    ]
    assert _file(health).service[0].name == "Health"
    assert unknown.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
    with (
        delivering_ca(tmp_path, lifetime=timedelta(hours=1)) as ca,
        grpc.insecure_channel(ca.endpoint) as channel,
    ):
        [found] = _reflect(channel, {"file_containing_symbol": "SpiffeWorkloadAPI"})
        methods = {m.name: m.server_streaming for m in _file(found).service[0].method}
        assert (len(methods), methods["FetchX509SVID"], methods["FetchJWTSVID"]) == (5, True, False)


def test_health_follows_the_records(tmp_path):
    """A CA that cannot record is not serving, which a watcher is told, and is again later."""
    with _istio(tmp_path) as (ca, channel):
        stub, audit = HealthStub(channel), ca.folder / "state/audit"
        for name in ("", ISTIO):
            found = stub.Check(HealthCheckRequest(service=name))
            assert found.status == HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as caught:
            stub.Check(HealthCheckRequest(service="other"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        unknown = stub.Watch(HealthCheckRequest(service="other"))
        assert next(unknown).status == HealthCheckResponse.SERVICE_UNKNOWN
        watching = stub.Watch(HealthCheckRequest())
        assert next(watching).status == HealthCheckResponse.SERVING
        audit.rename(audit.with_name("away"))
        words = ("--spiffe-id", f"spiffe://example.org/{os.getpid()}", "--selector", "unix:uid:1")
        with pytest.raises(AssertionError):
            ca.command("entries", "add", *words)
        assert next(watching).status == HealthCheckResponse.NOT_SERVING
        audit.with_name("away").rename(audit)
        assert next(watching).status == HealthCheckResponse.SERVING
        watching.cancel()


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _raw_call(endpoint: str, path: str, parts: Iterable[bytes]) -> tuple[str, int]:
    """Send a call's bytes as they are; return its status and how many bytes were taken."""
    connection = H2Connection()
    connection.initiate_connection()
    address = endpoint.removeprefix("unix://")
    sent = 0
    with socket.socket(socket.AF_UNIX) as plain:
        plain.connect(address)
        plain.settimeout(10)
        names = [(":method", "POST"), (":scheme", "http"), (":authority", "x"), (":path", path)]
        names += [("te", "trailers"), ("content-type", "application/grpc")]
        names += [("workload.spiffe.io", "true")]
        connection.send_headers(1, names)
        waiting, status = iter(parts), ""
        while not status:
            while not status and connection.local_flow_control_window(1) >= 16_384:
                part = next(waiting, b"")
                if not part:
                    break
                connection.send_data(1, part)
                sent += len(part)
            plain.sendall(connection.data_to_send())
            for event in connection.receive_data(plain.recv(65_536)):
                headers = dict(getattr(event, "headers", ()))
                status = headers.get(b"grpc-status", headers.get("grpc-status", status))
    return (status.decode() if isinstance(status, bytes) else status), sent


@pytest.mark.parametrize(
    ("prefix", "status"),
    [
        (b"\0\xff\xff\xff\xff", str(grpc.StatusCode.RESOURCE_EXHAUSTED.value[0])),
        (b"\0\x00\x10\x00\x00", str(grpc.StatusCode.RESOURCE_EXHAUSTED.value[0])),
        (b"\1\x00\x00\x00\x01x", str(grpc.StatusCode.INVALID_ARGUMENT.value[0])),
        (b"\0\x00\x00\x00\x01\xff", str(grpc.StatusCode.INVALID_ARGUMENT.value[0])),
    ],
    ids=["4 GiB", "1 MiB", "compressed", "no message"],
)
def test_a_caller_cannot_fill_the_memory(tmp_path, prefix, status):
    """A message that says to be huge is refused by its first five bytes, whoever sends it."""
    with delivering_ca(tmp_path) as ca:
        before = _resident_bytes()
        parts = chain([prefix], repeat(b"\0" * 16_384, 2000 if len(prefix) == 5 else 0))
        path = "/SpiffeWorkloadAPI/FetchJWTSVID"
        found, sent = _raw_call(ca.endpoint, path, parts)
        assert found == status
        assert sent < 16 << 20
        assert _resident_bytes() - before < 32 << 20
        with grpc.insecure_channel(ca.endpoint) as channel:
            found = HealthStub(channel).Check(HealthCheckRequest())
            assert found.status == HealthCheckResponse.SERVING
