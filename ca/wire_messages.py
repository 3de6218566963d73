"""The protobuf messages of the Workload API and of Istio's certificate service, as tables.

Theory of operation. The messages are built at import from the tables below, in a descriptor pool of
their own: whoever loads a generated module with the same message names into the process's default
pool (every SPIFFE client library does) meets no conflict.

Spec: SPIFFE Workload API, appendix A (no proto package); istio.v1.auth, `ca.proto`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from google.protobuf import struct_pb2
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    ServiceDescriptorProto,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

_Fields: TypeAlias = Mapping[str, tuple[int, str]]
"""Field name -> (number, type); the type is as a `.proto` file spells it."""

_Method: TypeAlias = tuple[str, bool]
"""What a method's messages are called before `Request` and `Response`; whether it streams."""

_STRUCT: Final = "google.protobuf.Struct"
_SCALARS: Final = {
    "string": FieldDescriptorProto.TYPE_STRING,
    "bytes": FieldDescriptorProto.TYPE_BYTES,
    "int64": FieldDescriptorProto.TYPE_INT64,
}

_WORKLOAD_API: Final[Mapping[str, _Fields]] = {
    "X509SVIDRequest": {},
    "X509SVID": {
        "spiffe_id": (1, "string"),
        "x509_svid": (2, "bytes"),
        "x509_svid_key": (3, "bytes"),
        "bundle": (4, "bytes"),
        "hint": (5, "string"),
    },
    "X509SVIDResponse": {
        "svids": (1, "repeated X509SVID"),
        "crl": (2, "repeated bytes"),
        "federated_bundles": (3, "map string bytes"),
    },
    "X509BundlesRequest": {},
    "X509BundlesResponse": {"crl": (1, "repeated bytes"), "bundles": (2, "map string bytes")},
    "JWTSVIDRequest": {"audience": (1, "repeated string"), "spiffe_id": (2, "string")},
    "JWTSVID": {"spiffe_id": (1, "string"), "svid": (2, "string"), "hint": (3, "string")},
    "JWTSVIDResponse": {"svids": (1, "repeated JWTSVID")},
    "JWTBundlesRequest": {},
    "JWTBundlesResponse": {"bundles": (1, "map string bytes")},
    "ValidateJWTSVIDRequest": {"audience": (1, "string"), "svid": (2, "string")},
    "ValidateJWTSVIDResponse": {"spiffe_id": (1, "string"), "claims": (2, _STRUCT)},
}

_ISTIO_CA: Final[Mapping[str, _Fields]] = {
    "IstioCertificateRequest": {
        "csr": (1, "string"),
        "validity_duration": (3, "int64"),
        "metadata": (4, _STRUCT),
    },
    "IstioCertificateResponse": {"cert_chain": (1, "repeated string")},
}


def _message(name: str, package: str, fields: _Fields) -> DescriptorProto:
    """Return the descriptor of one message of the tables."""
    message = DescriptorProto(name=name)
    prefix = f".{package}." if package else "."
    for field_name, (number, spelled) in fields.items():
        label, _, kind = spelled.rpartition(" ")
        field = message.field.add(name=field_name, number=number)
        field.label = FieldDescriptorProto.LABEL_OPTIONAL
        if label:
            field.label = FieldDescriptorProto.LABEL_REPEATED
        if label.startswith("map"):
            entry = message.nested_type.add(name=_entry_name(field_name))
            entry.options.map_entry = True
            for place, (part, of) in enumerate((("key", label.split()[1]), ("value", kind)), 1):
                entry.field.add(
                    name=part, number=place, type=_SCALARS[of]
                ).label = FieldDescriptorProto.LABEL_OPTIONAL
            field.type, field.type_name = (
                FieldDescriptorProto.TYPE_MESSAGE,
                f"{prefix}{name}.{entry.name}",
            )
        elif kind in _SCALARS:
            field.type = _SCALARS[kind]
        else:
            field.type = FieldDescriptorProto.TYPE_MESSAGE
            field.type_name = f".{kind}" if "." in kind else f"{prefix}{kind}"
    return message


def _entry_name(field_name: str) -> str:
    """Return what protobuf calls the entries of a map field: `a_map` -> `AMapEntry`."""
    return "".join(part.capitalize() for part in field_name.split("_")) + "Entry"


def _service(name: str, package: str, methods: Mapping[str, _Method]) -> ServiceDescriptorProto:
    """Return the descriptor of a service of the tables, for reflection."""
    prefix = f".{package}." if package else "."
    service = ServiceDescriptorProto(name=name)
    for method, (of, is_stream) in methods.items():
        service.method.add(
            name=method,
            input_type=f"{prefix}{of}Request",
            output_type=f"{prefix}{of}Response",
            server_streaming=is_stream,
        )
    return service


def _pool(
    file: FileDescriptorProto, table: Mapping[str, _Fields], service: ServiceDescriptorProto
) -> DescriptorPool:
    """Return a pool with the messages of a table and one service."""
    pool = DescriptorPool()
    pool.AddSerializedFile(struct_pb2.DESCRIPTOR.serialized_pb)
    file.syntax = "proto3"
    file.dependency.append(struct_pb2.DESCRIPTOR.name)
    file.message_type.extend(_message(name, file.package, fields) for name, fields in table.items())
    file.service.append(service)
    pool.Add(file)
    return pool


def _classes(pool: DescriptorPool, package: str, table: Mapping[str, _Fields]) -> dict[str, Any]:
    """Return the classes of a table's messages by name."""
    prefix = f"{package}." if package else ""
    return {name: GetMessageClass(pool.FindMessageTypeByName(prefix + name)) for name in table}


_ISTIO_PACKAGE: Final = "istio.v1.auth"

WORKLOAD_API_POOL: Final = _pool(
    FileDescriptorProto(name="workload_api.proto"),
    _WORKLOAD_API,
    _service(
        "SpiffeWorkloadAPI",
        "",
        {
            "FetchX509SVID": ("X509SVID", True),
            "FetchX509Bundles": ("X509Bundles", True),
            "FetchJWTSVID": ("JWTSVID", False),
            "FetchJWTBundles": ("JWTBundles", True),
            "ValidateJWTSVID": ("ValidateJWTSVID", False),
        },
    ),
)
"""The descriptors of the SPIFFE Workload API."""

WORKLOAD_API: Final[Mapping[str, Any]] = _classes(WORKLOAD_API_POOL, "", _WORKLOAD_API)
"""The messages of the SPIFFE Workload API by name."""

ISTIO_CA_POOL: Final = _pool(
    FileDescriptorProto(name="istio_ca.proto", package=_ISTIO_PACKAGE),
    _ISTIO_CA,
    _service(
        "IstioCertificateService",
        _ISTIO_PACKAGE,
        {"CreateCertificate": ("IstioCertificate", False)},
    ),
)
"""The descriptors of `istio.v1.auth.IstioCertificateService`."""

ISTIO_CA: Final[Mapping[str, Any]] = _classes(ISTIO_CA_POOL, _ISTIO_PACKAGE, _ISTIO_CA)
"""The messages of `istio.v1.auth.IstioCertificateService` by name."""
