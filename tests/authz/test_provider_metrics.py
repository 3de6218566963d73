"""What is counted about Rego providers, as Prometheus reads it."""

from __future__ import annotations

from pathlib import Path

from checking import FixedProvider, MemoryRecorder, NoKeys, ask, make_message
from prometheus_client import CollectorRegistry, generate_latest

from authz.build import load_state
from authz.metrics import Metrics
from authz.pipeline import Authorizer
from authz.provider_metrics import ProviderMetrics
from authz.provider_settings import ProviderSettings, RegoSettings
from authz.serving_state import ServingState
from authz.serving_watch import shown_rego
from authz.walk import Surroundings
from policies.decision import Effect, ProviderVerdict
from policies.mesh import Mesh
from policies.snapshot import build_snapshot

POLICY = """package envoy.authz
allow := input.attributes.request.http.headers["x-user"] == "a" if {
    input.attributes.request.http.headers["x-user"] != "broken"
} else := true if {
    not input.attributes.request.http.headers["x-user"]
}
"""


def test_what_is_counted_of_a_provider(tmp_path: Path) -> None:
    """Verdicts, failures, time, remembered results, and whether it fails open."""
    (tmp_path / "p.rego").write_text(POLICY)
    rego = RegoSettings(paths=(tmp_path / "p.rego",), timeout_seconds=5, workers=1)
    settings = ProviderSettings(name="gate", rego=rego, default=True, fail_open=True)
    state = load_state((), Mesh(), [settings])
    metrics = Metrics()
    counting = ProviderMetrics(metrics.registry, lambda: state)
    authorizer = Authorizer(
        state=lambda: state,
        around=Surroundings(keys=NoKeys(), observe=counting.observe),
        recorder=MemoryRecorder(),
        metrics=metrics,
    )

    for user in ("a", "a", "b", "broken"):
        ask(authorizer, make_message(x_user=user))
    told = metrics.text().decode()

    for line in (
        'meshwarden_rego_evaluations_total{provider="gate",result="allowed"} 2.0',
        'meshwarden_rego_evaluations_total{provider="gate",result="denied"} 1.0',
        'meshwarden_rego_evaluations_total{provider="gate",result="provider_error"} 1.0',
        'meshwarden_rego_seconds_count{provider="gate"} 4.0',
        # Two sample requests at load.
        'meshwarden_rego_in_process_total{provider="gate"} 5.0',
        'meshwarden_rego_handed_over_total{provider="gate"} 0.0',
        'meshwarden_rego_evaluation{provider="gate",where="process",why=""} 1.0',
        'meshwarden_rego_remembered_total{provider="gate"} 0.0',
        'meshwarden_rego_workers_replaced_total{provider="gate"} 0.0',
        'meshwarden_rego_fails_open{provider="gate"} 1.0',
        'meshwarden_provider_failed_open_total{provider="gate",reason="provider_error"} 1.0',
    ):
        assert line in told


def test_what_is_counted_of_workers(tmp_path: Path) -> None:
    """What is for the workers tells why, and remembers its answers."""
    module = "package envoy.authz\nallow := count(numbers.range(1, 3)) == 3\n"
    (tmp_path / "p.rego").write_text(module)
    rego = RegoSettings(paths=(tmp_path / "p.rego",), timeout_seconds=5, workers=1)
    state = load_state((), Mesh(), [ProviderSettings(name="gate", rego=rego, default=True)])
    registry = CollectorRegistry()
    ProviderMetrics(registry, lambda: state)
    told = generate_latest(registry).decode()

    why = f"{tmp_path}/p.rego:2: the built-in `numbers.range`"
    for line in (
        # The sample requests at load are alike to this policy.
        'meshwarden_rego_remembered_total{provider="gate"} 1.0',
        'meshwarden_rego_in_process_total{provider="gate"} 0.0',
        f'meshwarden_rego_evaluation{{provider="gate",where="worker",why="{why}"}} 1.0',
    ):
        assert line in told
    [shown] = shown_rego(state)
    assert shown == {
        "provider": "gate",
        "revision": state.provider_revisions["gate"],
        "where": "worker",
        "why": why,
    }


def test_a_provider_of_another_kind_has_no_engine() -> None:
    """What has no engine is left out of the engines' figures."""
    other = FixedProvider(ProviderVerdict(effect=Effect.ALLOW))
    state = ServingState(
        snapshot=build_snapshot([], Mesh()), providers={"other": other}, revision="r"
    )
    registry = CollectorRegistry()
    ProviderMetrics(registry, lambda: state)

    assert b'provider="other"' not in generate_latest(registry)
