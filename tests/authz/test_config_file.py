"""The configuration file: what is refused, where, and with what advice."""

from __future__ import annotations

from pathlib import Path

import pytest

from authz.config_file import load_settings
from policies.diagnostic import LoadError

CASES = [
    ("listen: {gprc: x}", 1, "unknown setting `listen.gprc`", "did you mean `grpc`?"),
    ("mesh:\n  trustdomain: a", 2, "unknown setting `mesh.trustdomain`", "`trustDomain`"),
    ("polices: {}", 1, "unknown setting `polices`", "did you mean `policies`?"),
    ("listen:\n  threads: many", 2, "`listen.threads`", "not `many`"),
    ("listen: {grpc: nowhere}", 1, "must be `host:port` or `unix:///path`", "nowhere"),
    ("providers:\n- name: a\n  rego: {path: [x]}", 3, "`providers.0.rego.path`", "`paths`"),
    ("providers:\n- name: a", 2, "the setting `providers.0.rego` is missing", ""),
    ("audit:\n  queueSize: 0", 2, "audit.queueSize", "not `0`"),
    ("a: [\n", 2, "not valid YAML", ""),
    ("[]", 1, "must be a mapping", ""),
    ("listen: {grpc: 'a:99999'}", 1, "`listen.grpc`: a port ends at 65535", "a:99999"),
    ("listen: {http: 'a:65536'}", 1, "`listen.http`: a port ends at 65535", "a:65536"),
    ("listen: {http: 'unix:///a'}", 1, "`listen.http`: must be `host:port`", "unix:///a"),
    ("policies: {paths: []}", 1, "`policies.paths`: must have at least 1 entry", ""),
    ("log: {level: loud}", 1, "log.level", "loud"),
    ("{}\n---\n{}", 3, "one document", ""),
    ("listen: {threads: 1.5}", 1, "`listen.threads`: must be a whole number, not `1.5`", ""),
    ("policies: {paths: a}", 1, "`policies.paths`: must be a list, not `a`", ""),
    ("log:", 1, "`log`: must be a mapping, and nothing is written", ""),
    ("audit:\n  folder: 12", 2, "`audit.folder`: must be a path, not the number `12`", "quote it"),
    ("log: {level: off}", 1, "must be 'debug', 'info', 'warning' or 'error', not `off`", ""),
    ("mesh: {rootNamespace: 1e3}", 1, "must be a text, not the number `1e3`", 'quote it: `"1e3"`'),
    ("workload:\n  labels:\n    a: y", 3, "a text, not the boolean `y`", 'quote it: `"y"`'),
    ("workload: {labels: {a: &b No}}", 1, "a text, not the boolean `No`", 'quote it: `"No"`'),
    ("listen:\n  workers: yes", 2, "`listen.workers`: must be a number, not the boolean `yes`", ""),
    ("listen: {drainSeconds: off}", 1, "must be a number, not the boolean `off`", ""),
    (
        "providers:\n- {name: a, rego: {paths: [x]}}\n- {name: b, rego: {paths: [x],"
        " timeoutSeconds: on}}",
        3,
        "`providers.1.rego.timeoutSeconds`: must be a number",
        "",
    ),
]


@pytest.mark.parametrize(("text", "line", "message", "help_"), CASES)
def test_refusal(tmp_path: Path, text: str, line: int, message: str, help_: str) -> None:
    """A wrong setting is refused with its place and the nearest known name."""
    path = tmp_path / "m.yaml"
    path.write_text(text)

    with pytest.raises(LoadError) as caught:
        load_settings(path)

    said = str(caught.value)
    assert f"m.yaml:{line}:" in said
    assert message in said
    assert help_ in said


def test_missing_file(tmp_path: Path) -> None:
    """A file that is not there is said to be so."""
    with pytest.raises(LoadError, match="cannot be read"):
        load_settings(tmp_path / "none.yaml")


def test_two_providers_of_one_name(tmp_path: Path) -> None:
    """A provider name means one provider."""
    path = tmp_path / "m.yaml"
    path.write_text("providers:\n- {name: a, rego: {paths: [x]}}\n- {name: a, rego: {paths: [z]}}")

    with pytest.raises(LoadError, match="defined twice"):
        load_settings(path)


def test_paths_count_from_the_file(tmp_path: Path) -> None:
    """Relative paths count from the configuration's folder, not from where one stands."""
    path = tmp_path / "m.yaml"
    path.write_text(
        "policies: {paths: [p]}\naudit: {folder: a}\nproviders:\n- {name: r, rego: {paths: [r]}}"
    )

    settings = load_settings(path)

    assert (tmp_path / "p",) == settings.policies.paths
    assert tmp_path / "a" == settings.audit.folder
    assert (tmp_path / "r",) == settings.providers[0].rego.paths


def test_empty_file_is_all_defaults(tmp_path: Path) -> None:
    """An empty configuration is a whole one."""
    path = tmp_path / "m.yaml"
    path.write_text("# nothing\n")

    assert "cluster.local" == load_settings(path).mesh.trust_domain
