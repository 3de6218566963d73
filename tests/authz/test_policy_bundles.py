"""Providers from bundles: what serves, what is refused, what a restart brings, what is told."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from google.protobuf.json_format import ParseDict
from prometheus_client import CollectorRegistry, generate_latest

from authz.build import load_state
from authz.cli import main
from authz.policy_bundle_parts import (
    PolicyBundles,
    TakeBundle,
    shown_policy_bundle,
    watch_policy_bundles,
)
from authz.policy_bundle_settings import PolicyBundleSettings
from authz.provider_memory import ProviderMemory
from authz.provider_settings import ProviderSettings
from authz.reload import Loaded, StateKeeper
from authz.serving_state import ServingState
from policies.diagnostic import Diagnostic, LoadError
from policies.mesh import Mesh
from policies.request import Request, Workload
from tests.loopback import EAGER

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "opa_bridge"))

from bundling import FILES, Signer, packed, revised, write_folder
from policy_bundle_server import BundleServer, bundle_server

from tests.serving_here import served_here
from tests.waiting import until

POLICY = (
    "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n"
    "metadata: {name: ask, namespace: shop}\n"
    "spec: {action: CUSTOM, provider: {name: rego}, rules: [{}]}\n"
)
PROVIDER = ProviderSettings.model_validate(
    {"name": "rego", "rego": {"bundles": ["b"], "workers": 1, "timeoutSeconds": 10}}
)


def request(method: str) -> Request:
    """A request by that method."""
    return Request(
        method=method, path="/", host="shop", headers={}, workload=Workload(namespace="shop")
    )


class Serving:
    """Bundles, a keeper over a folder of policies, and what the two have told."""

    def __init__(self, folder: Path, bundles: Sequence[Mapping[str, Any]]) -> None:
        """Load the first state."""
        self.loads: list[tuple[Loaded | None, Sequence[Diagnostic]]] = []
        self._changed = threading.Condition()
        self.memory = ProviderMemory()
        self.paths = [folder]
        settings = [PolicyBundleSettings.model_validate(each) for each in bundles]
        self.bundles = PolicyBundles(settings)
        self.keeper = StateKeeper(
            self.bundles.begin(self.build),
            [folder, *(path for each in settings for path in each.files)],
            interval_seconds=0.02,
            on_reload=self._note,
        )

    def build(self, take: TakeBundle) -> ServingState:
        """The state of the folder and of the bundles."""
        return load_state(self.paths, Mesh(), [PROVIDER], take=take, memory=self.memory)

    def _note(self, loaded: Loaded | None, problems: Sequence[Diagnostic]) -> None:
        with self._changed:
            self.loads.append((loaded, problems))
            self._changed.notify_all()

    def wait_for(self, loads: int) -> tuple[Loaded | None, Sequence[Diagnostic]]:
        """Wait for the n-th load after the first and return it."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.loads) >= loads, 20), self.status()
            return self.loads[loads - 1]

    def allows(self, method: str) -> bool:
        """Whether the provider allows a method now."""
        verdict = self.keeper.current().providers["rego"].evaluate(request(method))
        return verdict.effect.name == "ALLOW"

    def status(self) -> Any:
        """How the one bundle stands."""
        return self.bundles.status()[0]


@contextmanager
def running(folder: Path, *bundles: Mapping[str, Any]) -> Iterator[Serving]:
    """Everything watched, and stopped in the end."""
    found = Serving(folder, bundles)
    found.bundles.start(lambda take, keep: found.keeper.adopt(lambda: found.build(take), keep))
    found.keeper.start()
    try:
        yield found
    finally:
        found.bundles.stop()
        found.keeper.stop()


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    """A folder with one CUSTOM policy."""
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "ask.yaml").write_text(POLICY)
    return folder


def served(service: BundleServer, **more: Any) -> dict[str, Any]:
    """The settings of a bundle from a test's service."""
    return {
        "name": "b",
        "service": {"url": service.url.removesuffix("/bundles/b"), "timeoutSeconds": 5},
        "polling": {"minDelaySeconds": 0.02, "maxDelaySeconds": 0.05},
        **more,
    }


@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_an_edit_of_a_bundle_on_disk_is_served(tmp_path: Path, policies: Path, kind: str) -> None:
    """A folder or archive serves; an edit is a new state; a bad one keeps the last good one."""
    path = tmp_path / "bundle"

    def put(files: Mapping[str, bytes]) -> None:
        if kind == "folder":
            write_folder(path, files)
            return
        beside = tmp_path / "new"
        beside.write_bytes(packed(files))
        beside.replace(path)

    put(revised("r1"))
    with running(policies, {"name": "b", "path": path}) as serving:
        assert (True, False) == (serving.allows("GET"), serving.allows("PUT"))
        assert ("r1", "disk") == (serving.status().revision, serving.status().origin)
        activated = serving.status().last_activation_at

        put(revised("r2", methods=["PUT"]))
        serving.wait_for(1)
        assert (False, True) == (serving.allows("GET"), serving.allows("PUT"))
        assert "r2" == serving.status().revision
        assert serving.status().last_activation_at > activated

        put({**revised("r3"), "settings/data.json": b"{"})
        loaded, problems = serving.wait_for(2)
        assert loaded is None
        assert "bundle `b`: `settings/data.json` is no JSON" in str(problems[0])
        assert serving.allows("PUT")
        assert "r2" == serving.status().revision
        assert "bundle.data" in serving.status().last_error


def test_a_new_revision_of_a_service_is_swapped_in(policies: Path) -> None:
    """A revision that loads serves at once; one that does not changes nothing and is told."""
    with (
        bundle_server(packed(revised("r1"))) as service,
        running(policies, served(service)) as serving,
    ):
        assert serving.allows("GET")
        before = serving.keeper.current()
        service.serve(packed(revised("r2", methods=["PUT"])))
        serving.wait_for(1)
        assert serving.allows("PUT")
        assert before.providers["rego"].evaluate(request("GET")).effect.name == "ALLOW"
        assert before.revision != serving.keeper.current().revision

        broken = b"package envoy.authz\n\nallow if nowhere.to.be.found(1)\n"
        service.serve(packed({**revised("r3"), "envoy/allow.rego": broken}))
        loaded, problems = serving.wait_for(2)
        assert loaded is None
        assert problems[0].location.file == "b/envoy/allow.rego"
        assert serving.allows("PUT")
        assert "bundle.activation" in serving.status().last_error
        assert () == serving.keeper.status().problems

        # An edit of the policies meanwhile is built with the revision that serves.
        (policies / "more.yaml").write_text(POLICY.replace("name: ask", "name: more"))
        while (found := serving.wait_for(len(serving.loads) + 1)[0]) is None:
            pass
        assert 2 == found.policies
        assert serving.allows("PUT")


def test_a_provider_is_made_again_only_for_its_own_bundle(policies: Path) -> None:
    """An edit of an Istio policy leaves the compiled Rego as it is."""
    with bundle_server(packed(FILES)) as service, running(policies, served(service)) as serving:
        provider = serving.keeper.current().providers["rego"]
        (policies / "more.yaml").write_text(POLICY.replace("name: ask", "name: more"))
        loaded, _ = serving.wait_for(1)

        assert loaded is not None
        assert serving.keeper.current().providers["rego"] is provider
        service.serve(packed(revised("r2")))
        loaded, _ = serving.wait_for(2)
        assert loaded is not None
        assert serving.keeper.current().providers["rego"] is not provider


def test_a_restart_without_the_service(tmp_path: Path, policies: Path) -> None:
    """The kept copy serves, verified again; without one, nothing starts."""
    signer = Signer()
    key = tmp_path / "key.pem"
    key.write_bytes(signer.public)
    signing = {"keys": [{"algorithm": "ES256", "file": key}]}
    kept = {"persist": tmp_path / "kept", "signing": signing}
    with bundle_server(packed(signer.signed(revised("r1")))) as service:
        with running(policies, served(service, **kept)) as serving:
            assert serving.allows("GET")
        service.serve(status=503)
        with running(policies, served(service, **kept)) as serving:
            assert serving.allows("GET")
            assert "kept copy" == serving.status().origin
        with pytest.raises(LoadError, match="bundle `b`: .* answered with status 503"):
            Serving(policies, [served(service, signing=signing)])
        key.write_bytes(Signer().public)
        with pytest.raises(LoadError, match="no configured key verifies"):
            Serving(policies, [served(service, **kept)])


def test_a_restart_during_a_bad_release(tmp_path: Path, policies: Path) -> None:
    """What does not load at the start gives way to the release before, which stays kept."""
    with bundle_server(packed(revised("r1"))) as service:
        kept = served(service, persist=tmp_path / "kept")
        with running(policies, kept):
            pass
        service.serve(packed({**revised("bad"), "envoy/allow.rego": b"package envoy.authz\n"}))
        for _ in range(2):
            found = Serving(policies, [kept])
            assert found.allows("GET")
            assert ("r1", "kept copy") == (found.status().revision, found.status().origin)
            assert "not activated" in found.status().last_error


def test_bundles_are_told_of(tmp_path: Path, policies: Path) -> None:
    """`/readyz` and `/metrics` say which revision serves, since when, and what is wrong."""
    with (
        bundle_server(packed(revised("r7"))) as service,
        running(policies, served(service)) as serving,
    ):
        shown = json.loads(json.dumps(shown_policy_bundle(serving.status())))
        registry = CollectorRegistry()
        watch_policy_bundles(registry, serving.bundles)
        metrics = generate_latest(registry).decode()

        assert ("b", "r7", "service", False) == tuple(
            shown[key] for key in ("name", "revision", "origin", "signed")
        )
        assert service.url == shown["source"]
        assert sum(map(len, revised("r7").values())) == shown["bytes"]
        assert None not in (shown["last_activation"], shown["last_success"])
        assert 'meshwarden_bundle_info{bundle="b",revision="r7"} 1.0' in metrics
        assert 'meshwarden_bundle_failing{bundle="b"} 0.0' in metrics
        assert 'meshwarden_bundle_requests_total{bundle="b"}' in metrics


CONFIGURATION = """\
listen: {grpc: "unix://SOCKET", http: "127.0.0.1:0", drainSeconds: 0}
policies: {paths: [policies]}
workload: {namespace: shop}
providers: [{name: rego, rego: {bundles: [b], workers: 1, timeoutSeconds: 5}}]
bundles:
  - name: b
    service: {url: "URL"}
    polling: {minDelaySeconds: 0.02, maxDelaySeconds: 0.05, longPollingSeconds: 20}
    persist: kept
audit: {folder: audit}
"""


def test_serve_follows_a_bundle_service(tmp_path: Path, policies: Path) -> None:
    """From a rotated revision at the service to another answer for Envoy, and a clean stop."""
    with bundle_server(packed(revised("r1"))) as service:
        path, socket = tmp_path / "meshwarden.yaml", tmp_path / "s"
        text = CONFIGURATION.replace("SOCKET", str(socket))
        path.write_text(text.replace("URL", service.url.removesuffix("/bundles/b")))
        with served_here(path), grpc.insecure_channel(f"unix://{socket}", EAGER) as channel:
            grpc.channel_ready_future(channel).result(timeout=30)
            call = channel.unary_unary(
                "/envoy.service.auth.v3.Authorization/Check",
                request_serializer=CheckRequest.SerializeToString,
                response_deserializer=CheckResponse.FromString,
            )

            def is_allowed(method: str) -> bool:
                http = {"method": method, "path": "/", "host": "shop", "scheme": "https"}
                asked = {"attributes": {"request": {"http": http}}}
                answer = call(ParseDict(asked, CheckRequest()), timeout=10)
                return int(answer.status.code) == 0

            assert (True, False) == (is_allowed("GET"), is_allowed("PUT"))
            service.serve(packed(revised("r2", methods=["PUT"])))
            until(lambda: is_allowed("PUT"))
            assert not is_allowed("GET")
        assert (tmp_path / "kept" / "b.bundle").exists()


SUITE = """\
apiVersion: policy.test/v1
kind: PolicyTest
metadata: {name: bundled}
policies:
  istio: [policies]
  providers: [{name: rego, rego: {bundles: [b], workers: 1}}]
  bundles: [{name: b, SOURCE}]
workloads:
  shop: {namespace: shop}
identities:
  nobody: {plaintext: true}
defaults: {from: nobody, to: shop}
cases:
- {name: GET is allowed, request: {method: GET}, expect: {decision: allow}}
- {name: PUT is not, request: {method: PUT}, expect: {decision: deny}}
"""


def test_policy_test_takes_bundles(tmp_path: Path, policies: Path) -> None:
    """A test file names a bundle by its path, and no service."""
    (tmp_path / "b.tar.gz").write_bytes(packed(FILES))
    suite = tmp_path / "bundled.policytest.yaml"
    suite.write_text(SUITE.replace("SOURCE", "path: b.tar.gz"))
    passed = CliRunner().invoke(main, ["policy", "test", str(suite)])
    assert (0, "") == (passed.exit_code, passed.stderr), passed.output

    suite.write_text(SUITE.replace("SOURCE", "service: {url: 'http://127.0.0.1:1'}"))
    refused = CliRunner().invoke(main, ["policy", "test", str(suite)])
    assert 0 != refused.exit_code
    assert "give the bundle a `path`" in refused.output + refused.stderr


def test_policy_eval_takes_the_bundles_of_the_configuration(tmp_path: Path, policies: Path) -> None:
    """`policy eval -c` answers by the service's bundle, and keeps nothing of it."""
    lines = tmp_path / "requests.jsonl"
    asked = [{"attributes": {"request": {"http": {"method": each}}}} for each in ("GET", "PUT")]
    lines.write_text("\n".join(map(json.dumps, asked)))
    with bundle_server(packed(FILES)) as service:
        path = tmp_path / "meshwarden.yaml"
        text = CONFIGURATION.replace("SOCKET", "/s")
        path.write_text(text.replace("URL", service.url.removesuffix("/bundles/b")))
        run = CliRunner().invoke(
            main, ["policy", "eval", "-c", str(path), "--requests", str(lines), "-q"]
        )

    assert ["allow", "deny"] == [
        json.loads(line)["decision"] for line in run.stdout.splitlines()
    ], run.output
    assert not (tmp_path / "kept").exists()


def allowed(channel: grpc.Channel, method: str) -> bool:
    """Whether a running server allows a method."""
    call = channel.unary_unary(
        "/envoy.service.auth.v3.Authorization/Check",
        request_serializer=CheckRequest.SerializeToString,
        response_deserializer=CheckResponse.FromString,
    )
    http = {"method": method, "path": "/", "host": "shop", "scheme": "https"}
    asked = ParseDict({"attributes": {"request": {"http": http}}}, CheckRequest())
    return int(call(asked, timeout=10).status.code) == 0


@contextmanager
def process(configuration: Path, socket: Path) -> Iterator[grpc.Channel]:
    """A server in a process of its own, killed in the end."""
    code = "from authz.cli import main; main()"
    command = [sys.executable, "-c", code, "serve", "-c", str(configuration)]
    server = subprocess.Popen(
        command, cwd=Path(__file__).resolve().parents[2], stderr=subprocess.DEVNULL
    )
    try:
        with grpc.insecure_channel(f"unix://{socket}", EAGER) as channel:
            grpc.channel_ready_future(channel).result(timeout=30)
            yield channel
    finally:
        server.kill()
        server.wait()


def test_a_killed_server_comes_back_without_the_service(tmp_path: Path, policies: Path) -> None:
    """After a SIGKILL, with the service gone, the revision that served serves again."""
    path, socket = tmp_path / "meshwarden.yaml", tmp_path / "s"
    with bundle_server(packed(revised("r1"))) as service:
        text = CONFIGURATION.replace("SOCKET", str(socket))
        path.write_text(text.replace("URL", service.url.removesuffix("/bundles/b")))
        with process(path, socket) as channel:
            service.serve(packed(revised("r2", methods=["PUT"])))
            until(lambda: allowed(channel, "PUT"))
            # It is kept after it serves; the next request is made after that.
            service.wait_for_requests(len(service.seen) + 1)
    socket.unlink(missing_ok=True)
    with process(path, socket) as channel:
        assert allowed(channel, "PUT")
        assert not allowed(channel, "GET")
