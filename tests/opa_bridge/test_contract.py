"""opa-envoy-plugin's contract, case by case, on the embedded engine and on a real OPA."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)
from google.protobuf.json_format import ParseDict
from opa_process import MISSING, RealOpa, opa_binary, running_opa

from authz.check_request import decode_check_request
from identity.claims import VerifiedClaims
from identity.peer import Peer
from opa_bridge.compatibility import Compatibility
from opa_bridge.opa_address import OpaServer
from opa_bridge.provider import (
    ProviderOptions,
    RegoProvider,
    connect_provider,
    load_provider,
)
from policies.decision import ProviderError
from policies.diagnostic import LoadError, Severity
from policies.request import Request

FOLDER = Path(__file__).parent / "contract"
ENTRYPOINT = "envoy/authz/result"
# What the policy finds in its input, told by the metadata of an allow.
ECHO = """package envoy.authz
keys := ["version", "attributes", "parsed_path", "parsed_query", "parsed_body",
    "truncated_body", "source_principal"]
result := {"allowed": true, "dynamic_metadata": {key: input[key] | some key in keys}}
"""
# The request says what the policy answers.
SAY = """package envoy.authz
default result := false
result := input.parsed_body.result
"""
Load = Callable[..., RegoProvider]


def cases(name: str) -> list[Any]:
    """Return the cases of a file as pytest takes them."""
    found = yaml.safe_load((FOLDER / f"{name}.yaml").read_text("utf-8"))
    return [pytest.param(case, id=case["note"]) for case in found]


@pytest.fixture(scope="module")
def opa() -> Iterator[RealOpa]:
    """Yield a real OPA server, or skip."""
    if opa_binary() is None:
        pytest.skip(MISSING)
    with running_opa() as found:
        yield found


@pytest.fixture(
    scope="module",
    params=[
        "embedded",
        pytest.param("opa over TCP", marks=pytest.mark.opa),
        pytest.param("opa over a Unix socket", marks=pytest.mark.opa),
    ],
)
def load(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Load]:
    """Yield what makes a provider of modules and data, on each engine."""
    known: dict[str, RegoProvider] = {}
    if request.param == "embedded":
        folder = tmp_path_factory.mktemp("rego")

        def make(
            modules: Sequence[str],
            data: Mapping[str, Any],
            entrypoint: str,
            options: ProviderOptions,
        ) -> RegoProvider:
            for old in folder.iterdir():
                old.unlink()
            for index, module in enumerate(modules):
                (folder / f"m{index}.rego").write_text(module, "utf-8")
            (folder / "data.json").write_text(json.dumps(data), "utf-8")
            options = replace(options, workers=1)
            return load_provider("p", [folder], entrypoint, [folder / "data.json"], options)

    else:
        opa: RealOpa = request.getfixturevalue("opa")
        server = OpaServer(url=opa.tcp if "TCP" in request.param else opa.unix)

        def make(
            modules: Sequence[str],
            data: Mapping[str, Any],
            entrypoint: str,
            options: ProviderOptions,
        ) -> RegoProvider:
            opa.load(modules, data)
            return connect_provider("p", server, entrypoint, options)

    def found(
        modules: Sequence[str],
        data: Mapping[str, Any] | None = None,
        entrypoint: str = ENTRYPOINT,
        options: ProviderOptions | None = None,
    ) -> RegoProvider:
        options = options or ProviderOptions()
        key = repr((modules, data, entrypoint, options.budget_seconds))
        if key not in known:
            known[key] = make(modules, data or {}, entrypoint, options)
        elif request.param != "embedded":
            request.getfixturevalue("opa").load(modules, data or {})
        loaded = known[key]
        return replace(
            loaded, input_options=options.for_input(), compatibility=options.compatibility
        )

    yield found
    for provider in known.values():
        provider.engine.close()  # type: ignore[attr-defined]  # both engines have it


def options_of(case: Mapping[str, Any], **more: Any) -> ProviderOptions:
    """Return the options that a case names."""
    named = dict(case.get("options", {}))
    compatibility = Compatibility(**named.pop("compatibility", {}))
    return ProviderOptions(compatibility=compatibility, **named, **more)


def request_of(case: Mapping[str, Any]) -> Request:
    """Return the request of a case, as it is read from a CheckRequest."""
    attributes = dict(case.get("attributes") or {"request": {"http": case.get("http", {})}})
    headers = attributes["request"]["http"].get("headers", {})
    for name, value in headers.items():
        if isinstance(value, dict):
            headers[name] = "x" * value["repeat"]
    message = ParseDict({"attributes": attributes}, CheckRequest())
    request = decode_check_request(message.SerializeToString())
    principal = case.get("peer") or attributes.get("source", {}).get("principal")
    claims = case.get("claims")
    return replace(
        request,
        peer=Peer.from_principal(principal) if principal else None,
        claims=VerifiedClaims(claims) if claims else None,
    )


def expect_seen(case: Mapping[str, Any], provider: RegoProvider, request: Request) -> None:
    """Hold what the policy found in its input against a case."""
    verdict = provider.evaluate(request)
    if "refused" in case:
        assert (verdict.effect, verdict.http_status) == ("deny", case["refused"])
        # Nothing of a parser reaches the client.
        assert verdict.body == "request_parse_error"
        return
    assert verdict.effect == "allow"
    seen = verdict.mutations.dynamic_metadata
    assert case.get("seen", {}) == {key: seen.get(key, "absent") for key in case.get("seen", {})}
    assert not set(case.get("absent", ())) & set(seen)
    for name, length in case.get("seen_length", {}).items():
        assert len(seen["attributes"]["request"]["http"]["headers"][name]) == length


@pytest.mark.parametrize("case", [*cases("body"), *cases("path"), *cases("attributes")])
def test_input(case: dict[str, Any], load: Load) -> None:
    """The policy sees of a request what opa-envoy-plugin shows it."""
    provider = load([ECHO], options=options_of(case))
    expect_seen(case, provider, request_of(case))


def descriptor_set() -> bytes:
    """Return the descriptors of the services that grpc.yaml calls."""
    file = FileDescriptorProto(name="shop.proto", package="shop", syntax="proto3")
    text, whole = FieldDescriptorProto.TYPE_STRING, FieldDescriptorProto.TYPE_INT64
    file.message_type.add(name="Line").field.add(
        name="count", number=1, type=FieldDescriptorProto.TYPE_INT32, label=1
    )
    order: DescriptorProto = file.message_type.add(name="Order")
    order.field.add(name="customer", number=1, type=text, label=1)
    order.field.add(name="amount_cents", number=2, type=whole, label=1)
    order.field.add(
        name="line",
        number=5,
        type=FieldDescriptorProto.TYPE_MESSAGE,
        type_name=".shop.Line",
        label=1,
    )
    item = file.message_type.add(name="Item")
    item.field.add(name="name", number=1, type=text, label=1)
    orders = file.service.add(name="Orders")
    for name, client, server in (("Place", 0, 0), ("Watch", 0, 1), ("Upload", 1, 0)):
        orders.method.add(
            name=name,
            input_type=".shop.Order",
            output_type=".shop.Item",
            client_streaming=bool(client),
            server_streaming=bool(server),
        )
    file.service.add(name="Stock").method.add(
        name="Find", input_type=".shop.Item", output_type=".shop.Item"
    )
    return FileDescriptorSet(file=[file]).SerializeToString()


@pytest.mark.parametrize("case", cases("grpc"))
def test_grpc_body(case: dict[str, Any], load: Load, tmp_path: Path) -> None:
    """The policy sees of a gRPC call its first message, where that can be read."""
    path = tmp_path / "services.pb"
    path.write_bytes(descriptor_set())
    descriptor = {} if case.get("plain") else {"proto_descriptor": path}
    provider = load([ECHO], options=options_of(case, **descriptor))
    body = b""
    if "frame" in case:
        message = bytes.fromhex(case["frame"])
        size = case.get("size", len(message))
        body = bytes([case.get("flag", 0)]) + size.to_bytes(4) + message
        body += bytes.fromhex(case.get("more", ""))
    elif "bytes" in case:
        body = bytes.fromhex(str(case["bytes"]).rjust(8, "0"))
    headers = {"content-type": ("application/grpc+proto",)}
    if case.get("partial"):
        headers["x-envoy-auth-partial-body"] = ("true",)
    request = Request(
        method="POST",
        path=case["path"],
        host="h",
        headers=headers,
        body=case.get("text", "").encode() or body,
        body_is_raw="text" not in case,
    )
    expect_seen(case, provider, request)


def expect_verdict(case: Mapping[str, Any], provider: RegoProvider, request: Request) -> None:
    """Hold the verdict or the error against a case."""
    if "error" in case:
        with pytest.raises(ProviderError) as failed:
            provider.evaluate(request)
        assert case["error"] == str(failed.value)
        return
    verdict = provider.evaluate(request)
    want = dict(case["want"])
    mutations = want.pop("mutations", {})
    assert mutations == {
        name: json.loads(json.dumps(getattr(verdict.mutations, name))) for name in mutations
    }
    assert want == {name: getattr(verdict, name) for name in want}


def expect_result(case: Mapping[str, Any], provider: RegoProvider) -> None:
    """Let the policy answer what a case says, and hold the verdict against it."""
    body = json.dumps({"result": case["result"]}).encode()
    headers = {"content-type": ("application/json",)}
    path = case.get("path", "/")
    request = Request(method="POST", path=path, host="h", headers=headers, body=body)
    expect_verdict(case, provider, request)


@pytest.mark.parametrize("case", cases("result"))
def test_result(case: dict[str, Any], load: Load) -> None:
    """A result means what opa-envoy-plugin makes of it, or is an error."""
    expect_result(case, load([SAY], options=options_of(case)))


@pytest.mark.parametrize("case", cases("dry_run"))
def test_dry_run(case: dict[str, Any], load: Load) -> None:
    """Of a policy that is tried out, denials pass and are told; everything else stays."""
    expect_result(case, replace(load([SAY]), dry_run=True))


@pytest.mark.parametrize("case", cases("policy"))
def test_policy(case: dict[str, Any], load: Load) -> None:
    """Whole policies, with their errors, come out the same."""
    modules, data = case.get("modules") or [case["module"]], case.get("data")
    entrypoint = case.get("entrypoint", ENTRYPOINT)
    if "refusal" in case:
        with pytest.raises(LoadError) as refused:
            load(modules, data, entrypoint, options_of(case))
        codes = {d.code for d in refused.value.diagnostics if d.severity is Severity.ERROR}
        assert codes == {case["refusal"]}
        return
    provider = load(modules, data, entrypoint, options_of(case))
    expect_verdict(case, provider, request_of(case))


def test_time_that_is_over(load: Load) -> None:
    """When the caller's time is over before the policy is asked, there is no verdict."""
    provider = load([ECHO])
    with pytest.raises(ProviderError):
        provider.evaluate(Request(method="GET", path="/", host="h"), 0.0)


def versions() -> list[str]:
    """Return two policies that differ in what they tell."""
    text = 'package envoy.authz\nresult := {{"allowed": true, "dynamic_metadata": {{"v": {}}}}}\n'
    return [text.format(1), text.format(2)]


def ask_meanwhile(ask: Callable[[], Any], swap: Callable[[int], None]) -> set[Any]:
    """Return what four threads were told while policies were swapped again and again."""
    told: set[Any] = set()
    over = threading.Event()

    def run() -> None:
        while not over.is_set():
            told.add(ask())

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for turn in range(6):
        swap(turn)
    over.set()
    for thread in threads:
        thread.join(20)
    return told


def version_of(provider: RegoProvider) -> Any:
    """Return the version that answers, or the error."""
    try:
        found = provider.evaluate(Request(method="GET", path="/", host="h"))
        return found.mutations.dynamic_metadata["v"]
    except ProviderError as exc:
        return str(exc)


def test_embedded_policy_swapped_under_load(tmp_path: Path) -> None:
    """While policies are swapped every request gets the old or the new one's answer."""

    def load_version(turn: int) -> RegoProvider:
        (tmp_path / "m.rego").write_text(versions()[turn % 2], "utf-8")
        return load_provider("p", [tmp_path], ENTRYPOINT, (), ProviderOptions(workers=1))

    serving = [load_version(1)]

    def swap(turn: int) -> None:
        serving[0] = load_version(turn)

    assert ask_meanwhile(lambda: version_of(serving[0]), swap) == {1, 2}


@pytest.mark.opa
def test_opa_policy_swapped_under_load(opa: RealOpa) -> None:
    """While OPA takes another policy every request gets the old or the new one's answer."""
    opa.load(versions()[:1], {})
    provider = connect_provider("p", OpaServer(url=opa.unix), ENTRYPOINT)

    def swap(turn: int) -> None:
        opa.replace(versions()[(turn + 1) % 2])
        # OPA answers once the new policy serves, so this asks once or a few times.
        while version_of(provider) != (turn + 1) % 2 + 1:
            pass

    assert ask_meanwhile(lambda: version_of(provider), swap) == {1, 2}
    provider.engine.close()  # type: ignore[attr-defined]  # both engines have it


def test_compatibility_is_documented() -> None:
    """Every switch stands in the docstring that the documents are made of."""
    told = Compatibility.__doc__ or ""
    assert all(f"\n    {name}: " in told for name in Compatibility.__dataclass_fields__)
