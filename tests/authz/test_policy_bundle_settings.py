"""The `bundles:` section: what cannot be meant is refused with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from authz.config_file import load_settings
from policies.diagnostic import LoadError

REFUSED = {
    "no source": ("bundles: [{name: b}]", "a `path` or a `service`, one of them"),
    "two sources": (
        "bundles: [{name: b, path: x, service: {url: 'https://h'}}]", "one of them",
    ),
    "kept without a service": ("bundles: [{name: b, path: x, persist: z}]", "to a `service`"),
    "a token in the clear": (
        "bundles: [{name: b, service: {url: 'http://h', tokenFile: t}}]", "in the clear",
    ),
    "an unknown algorithm": (
        "bundles: [{name: b, path: x, signing: {keys: [{algorithm: none, file: k}]}}]", "RS256",
    ),
    "no keys": ("bundles: [{name: b, path: x, signing: {keys: []}}]", "at least 1"),
    "pauses the wrong way": (
        "bundles: [{name: b, service: {url: 'https://h'}, polling: {minDelaySeconds: 500}}]",
        "less than `minDelaySeconds`",
    ),
    "a resource that steps up": (
        "bundles: [{name: b, service: {url: 'https://h'}, resource: a/../b}]", "plain path",
    ),
    "two of one name": ("bundles: [{name: b, path: x}, {name: b, path: z}]", "defined twice"),
    "an unknown bundle": (
        "providers: [{name: p, rego: {bundles: [bb]}}]\nbundles: [{name: b, path: x}]",
        "no bundle `bb` is configured; did you mean `b`?",
    ),
    "a bundle beside paths": (
        "providers: [{name: p, rego: {bundles: [b], paths: [x]}}]\nbundles: [{name: b, path: x}]",
        "cannot be had beside `bundles`",
    ),
    "a bundle for OPA": (
        "providers: [{name: p, rego: {engine: opa, opa: {url: 'http://h:1'}, bundles: [b]}}]\n"
        "bundles: [{name: b, path: x}]",
        "`providers.0.rego.bundles`",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "why"), REFUSED.values(), ids=REFUSED)
def test_settings_that_cannot_be_meant_are_refused(tmp_path: Path, text: str, why: str) -> None:
    """A wrong setting is told with its place, before anything is fetched."""
    path = tmp_path / "meshwarden.yaml"
    path.write_text(f"policies: {{paths: [p]}}\naudit: {{folder: a}}\n{text}\n")

    with pytest.raises(LoadError) as refusal:
        load_settings(path)
    assert why in str(refusal.value)


def test_paths_count_from_the_configuration(tmp_path: Path) -> None:
    """Relative paths of bundles, copies, tokens and keys are those beside the file."""
    path = tmp_path / "meshwarden.yaml"
    path.write_text(
        "policies: {paths: [p]}\naudit: {folder: a}\nbundles:\n"
        "- {name: b, path: x, signing: {keys: [{algorithm: ES256, file: k}]}}\n"
        "- {name: c, service: {url: 'https://h/v1/', tokenFile: t}, resource: /c.tgz, persist: z}\n"
    )
    disk, remote = load_settings(path).bundles

    assert (tmp_path / "x", tmp_path / "k") == disk.files
    plan = remote.to_served()
    assert ("https://h/v1/c.tgz", tmp_path / "t") == (plan.service.url, plan.service.token_file)
    assert tmp_path / "z" == remote.persist
