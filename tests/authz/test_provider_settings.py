"""`providers:` in the configuration: what is refused, what is warned of, what it comes to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from authz.build import load_state
from authz.config_file import load_settings
from authz.provider_parts import make_terms, patient
from authz.serve import watched_paths
from opa_bridge.opa_address import OpaServer
from opa_bridge.provider import ProviderOptions
from policies.diagnostic import LoadError, Severity
from policies.mesh import ExtensionProvider, Mesh

REGO = {"paths": ["p.rego"]}
OPA = {"engine": "opa", "opa": {"url": "unix:///run/opa.sock"}}


def load(folder: Path, *providers: dict[str, Any]) -> Any:
    """Return the settings with these providers."""
    path = folder / "meshwarden.yaml"
    path.write_text(yaml.safe_dump({"providers": list(providers)}))
    return load_settings(path)


@pytest.mark.parametrize(
    ("providers", "told"),
    [
        ([{"name": "a", "rego": {}}], "`providers.0.rego.paths`: must have at least 1 entry"),
        ([{"name": "a", "rego": {"paths": []}}], "must have at least 1 entry"),
        ([{"name": "a", "rego": {"engine": "opa"}}], "needs to know where OPA is"),
        ([{"name": "a", "rego": OPA | REGO}], "`providers.0.rego.paths`: is for the embedded"),
        ([{"name": "a", "rego": OPA | {"data": ["d"]}}], "`providers.0.rego.data`: is for the"),
        ([{"name": "a", "rego": REGO | {"opa": OPA["opa"]}}], "is for `engine: opa` alone"),
        ([{"name": "a", "rego": REGO | {"engine": "wasm"}}], "`providers.0.rego.engine`"),
        ([{"rego": REGO, "failOpen": True}], "the setting `providers.0.name` is missing"),
        ([{"name": "a", "rego": REGO | {"timeoutSeconds": 0}}], "greater than 0"),
        ([{"name": "a", "rego": REGO | {"maxBodyBytes": 2**30}}], "less than or equal"),
        ([{"name": "a", "rego": REGO | {"failOpen": True}}], "unknown setting"),
        ([{"name": "a", "rego": REGO}] * 2, "provider `a` is defined twice"),
        (
            [{"name": n, "rego": REGO, "default": True} for n in "ab"],
            "`providers.1.default`: `a` is the default provider already",
        ),
    ],
)
def test_refused(providers: list[dict[str, Any]], told: str, tmp_path: Path) -> None:
    """What does not go together is refused, by the name of the setting and its line."""
    with pytest.raises(LoadError) as refused:
        load(tmp_path, *providers)

    [found] = refused.value.diagnostics
    assert told in found.message
    assert found.location.line > 0


def test_paths_count_from_the_configuration(tmp_path: Path) -> None:
    """Modules, data, descriptor, token and certificates are found beside the file; edits count."""
    opa = {"url": "https://h", "tokenFile": "t", "caFile": "c", "certificateFile": "d"}
    settings = load(
        tmp_path,
        {"name": "a", "rego": REGO | {"data": ["d.json"], "protoDescriptor": "p.pb"}},
        {"name": "b", "rego": {"engine": "opa", "opa": opa}},
    )

    assert set(watched_paths(settings)) == {
        tmp_path / each for each in ("policies", "p.rego", "d.json", "p.pb")
    }
    assert settings.providers[1].rego.opa.to_server() == OpaServer(
        url="https://h",
        token_file=tmp_path / "t",
        ca_file=tmp_path / "c",
        certificate_file=tmp_path / "d",
    )


def test_options_reach_the_provider(tmp_path: Path) -> None:
    """Every setting of a provider is one of its options."""
    rego = REGO | {
        "timeoutSeconds": 0.05,
        "workers": 3,
        "maxBodyBytes": 9,
        "skipRequestBodyParse": True,
        "compatibility": {"appendHeaders": True},
    }
    options = load(tmp_path, {"name": "a", "rego": rego}).providers[0].rego.to_options()

    assert (options.budget_seconds, options.workers, options.max_body_bytes) == (0.05, 3, 9)
    assert options.skip_body
    assert options.compatibility.append_headers
    assert not options.compatibility.rewrite_target
    assert patient(ProviderOptions(budget_seconds=0.05)).budget_seconds > 1


def test_terms(tmp_path: Path) -> None:
    """Default, failure and status come from the providers and from the mesh."""
    providers = load(
        tmp_path,
        {"name": "a", "rego": REGO, "default": True},
        {"name": "b", "rego": REGO, "failOpen": True},
    ).providers
    known = ExtensionProvider(name="a", kind="rego", status_on_error="503")

    terms = make_terms(providers, Mesh(extension_providers=(known,)))

    assert terms.default == "a"
    assert (terms.terms_of("a").error_status, terms.terms_of("a").fails_open) == (503, False)
    assert (terms.terms_of("b").error_status, terms.terms_of("b").fails_open) == (403, True)
    assert make_terms(providers, Mesh()).asks_several
    assert not make_terms(providers, Mesh(multiple_providers=False)).asks_several


def test_open_door_is_warned_of(tmp_path: Path) -> None:
    """A provider that fails open is a warning of the loaded set, by its name."""
    (tmp_path / "p.rego").write_text("package envoy.authz\ndefault allow := false\n")
    settings = load(tmp_path, {"name": "gate", "rego": REGO, "failOpen": True, "default": True})

    state = load_state((), Mesh(), settings.providers)

    [found] = [each for each in state.warnings if each.code == "fail-open"]
    assert found.severity is Severity.WARNING
    assert "`gate` fails open" in found.message


def test_opa_that_is_not_there_refuses_the_load(tmp_path: Path) -> None:
    """A provider whose server does not answer loads nothing."""
    opa = {"url": f"unix://{tmp_path}/none.sock", "startSeconds": 0}
    settings = load(tmp_path, {"name": "a", "rego": {"engine": "opa", "opa": opa}})

    with pytest.raises(LoadError, match="OPA is not ready"):
        load_state((), Mesh(), settings.providers)


def test_no_policies_without_a_default_provider(tmp_path: Path) -> None:
    """An empty list of policies would let everybody in: only beside a default provider."""
    path = tmp_path / "meshwarden.yaml"
    path.write_text("policies:\n  paths: []\n")
    with pytest.raises(LoadError, match=r"meshwarden.yaml:2:.*at least 1 entry, or a provider"):
        load_settings(path)

    path.write_text(
        "policies: {paths: []}\nproviders: [{name: a, default: true, rego: {paths: [p]}}]\n"
    )
    assert load_settings(path).policies.paths == ()
