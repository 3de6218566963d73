"""Health and reflection beside the services of the CA, asked as grpcurl and probes ask."""

from __future__ import annotations

import os
from contextlib import contextmanager
from datetime import timedelta

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
