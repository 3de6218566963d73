"""`policy lint` with what stands beside policies: Rego, settings, the CA, a revision; and --fix."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from authz.commands.policy import policy_main

POLICY = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: front
  namespace: shop
spec:
  rules:
  - from:
    - source:
        principals: ["mesh.example/ns/web/sa/front"]
    to:
    - operation:
        methods: ["GET"]
"""
CONFIG = """\
mesh:
  trustDomain: mesh.example
policies:
  paths: [policies]
providers:
- name: outside
  rego:
    paths: [rego]
    entrypoint: envoy/authz/allow
"""
REGO = """\
package envoy.authz

default allow := false

allow if input.attributes.request.http.method == "GET"
"""
CA = "stateFolder: s\ntrustDomain: mesh.example\nworkloads: []\n"


def _run(*args: object) -> Result:
    return CliRunner().invoke(policy_main, ["lint", *map(str, args)])


def _codes(*args: object) -> list[str]:
    return [found["code"] for found in json.loads(_run(*args, "--format", "json").output)]


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """Return a folder of policies, Rego and settings without a fault."""
    (tmp_path / "policies").mkdir()
    (tmp_path / "rego").mkdir()
    (tmp_path / "policies" / "front.yaml").write_text(POLICY)
    (tmp_path / "rego" / "allow.rego").write_text(REGO)
    (tmp_path / "rego" / "allow_test.rego").write_text("package t\ntest_a if nothing_known\n")
    (tmp_path / "meshwarden.yaml").write_text(CONFIG)
    (tmp_path / "ca.yaml").write_text(CA)
    return tmp_path


def test_settings_tell_mesh_and_rego(world: Path) -> None:
    """With --config the Rego of the providers is linted, and the mesh is the one it says."""
    config = world / "meshwarden.yaml"
    assert _codes(world / "policies", "--config", config) == []
    (world / "rego" / "allow.rego").write_text(REGO.replace("false", "true"))
    assert _codes(world / "policies", "--config", config) == ["MW0904"]
    config.write_text(CONFIG.replace("authz/allow", "authz/alow"))
    (found,) = json.loads(_run(world / "policies", "--config", config, "--format", "json").output)
    assert (found["code"], found["file"], found["line"]) == ("MW0906", str(config), 9)
    assert "envoy/authz/allow" in found["help"]


def test_settings_in_the_folder_are_no_policy(world: Path) -> None:
    """A folder with everything in it is linted as one; the settings of a part are not its own."""
    assert _codes(world) == ["MW0610"]
    (world / "meshwarden.yaml").write_text(CONFIG.replace("authz/allow", "authz/alow"))
    assert _codes(world) == ["MW0906", "MW0610"]
    (world / "other").mkdir()
    (world / "other" / "meshwarden.yaml").write_text(CONFIG)
    assert _codes(world) == ["MW0906", "MW0610"]
    assert _codes(world, world / "other") == ["MW0610"]
    (world / "other" / "meshwarden.yaml").write_text("kind: AuthorizationPolici\n")
    assert "no-kind" in _codes(world)


def test_a_foreign_trust_domain(world: Path) -> None:
    """A trust domain that the settings do not know is told; one that is federated is not."""
    policy = world / "policies" / "front.yaml"
    policy.write_text(POLICY.replace("mesh.example", "partner.example"))
    config = world / "meshwarden.yaml"
    assert _codes(policy, "--config", config) == ["MW0607"]
    assert _codes(policy) == []
    bundles = "identity:\n  trustBundles:\n  - trustDomain: partner.example\n    file: p.pem\n"
    config.write_text(CONFIG + bundles)
    assert _codes(policy, "--config", config) == []


def test_a_folder_of_rego_alone(world: Path) -> None:
    """Rego needs no policies beside it; tests in it are not linted."""
    assert _codes(world / "rego") == []
    (world / "rego" / "allow.rego").write_text(REGO + "allow if {\n")
    found = json.loads(_run(world / "rego", "--format", "json").output)
    assert [each["code"] for each in found] == ["MW0901"]


@pytest.mark.parametrize("name", ["only_test.rego", ".hidden/allow.rego"])
def test_a_folder_of_no_rego_that_serves(tmp_path: Path, name: str) -> None:
    """Tests and hidden files are no policy: a folder of them alone holds none, as before."""
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(REGO)
    assert _codes(tmp_path) == ["unreadable-file"]


def test_registrations(world: Path) -> None:
    """An identity that the CA gives to nobody is told, once all registrations are known."""
    policy, ca, entries = world / "policies", world / "ca.yaml", world / "entries.json"
    assert _codes(policy, "--ca", ca) == ["MW0610"]
    entries.write_text('[{"spiffeId": "spiffe://mesh.example/ns/{ns}/sa/{sa}"}]')
    assert _codes(policy, "--ca", ca, "--ca-entries", entries) == []
    ca.write_text(CA.replace("workloads: []", "workloadApi: {socket: /run/w.sock}"))
    assert _codes(policy, "--ca", ca) == []


@pytest.mark.parametrize("text", ["", "{}", "[7]", "["])
def test_wrong_registrations_are_refused(world: Path, text: str) -> None:
    """What is no list of entries ends the command with 2, and says what was wanted."""
    (world / "e.json").write_text(text)
    done = _run(world / "policies", "--ca", world / "ca.yaml", "--ca-entries", world / "e.json")
    assert done.exit_code == 2
    assert "entries list --json" in done.output
    without_ca = _run(world / "policies", "--ca-entries", world / "e.json")
    assert without_ca.exit_code == 2, "registrations that nobody needs are refused all the same"


def test_a_baseline_that_cannot_be_written_is_named(world: Path) -> None:
    """The message names the file that was asked for, not the one it is written to first."""
    done = _run(world / "policies", "--write-baseline", world / "missing" / "b.json")
    assert done.exit_code == 2
    assert "missing/b.json`: No such file" in done.output


@pytest.mark.parametrize(
    ("before", "after", "is_wider"),
    [
        ('["GET"]', '["GET", "POST"]', True),
        ('["GET", "POST"]', '["GET"]', False),
        ('["GET"]', '["*"]', True),
        ('["POST", "GET"]', '["GET", "POST"]', False),
        ('["GET"]', '["POST"]', True),
    ],
)
def test_a_revision_that_widens(world: Path, before: str, after: str, is_wider: bool) -> None:
    """What the new revision lets in and the old one did not is told, with the request."""
    old = world / "old.yaml"
    old.write_text(POLICY.replace('["GET"]', before))
    new = world / "policies" / "front.yaml"
    new.write_text(POLICY.replace('["GET"]', after))
    found = json.loads(_run(new, "--against", old, "--format", "json").output)
    assert [each["code"] for each in found] == ["MW0511"] * is_wider
    for each in found:
        assert each["witness"]["answer"] == "allow"
        assert each["witness"]["peer"] == "spiffe://mesh.example/ns/web/sa/front"


def test_a_revision_that_drops_a_denial(world: Path) -> None:
    """A DENY that is gone is told where the rule stands that now lets in."""
    deny = POLICY.replace("name: front", "name: no-get").replace("rules", "action: DENY\n  rules")
    old = world / "old"
    old.mkdir()
    (old / "front.yaml").write_text(POLICY)
    (old / "deny.yaml").write_text(deny)
    (found,) = json.loads(_run(world / "policies", "--against", old, "--format", "json").output)
    assert (found["code"], found["resource"]) == ("MW0511", "AuthorizationPolicy/shop/front")
    assert found["related"][0]["file"].endswith("deny.yaml")


def test_a_revision_that_closes_what_was_open(world: Path) -> None:
    """Where nothing was written everything was allowed, so the first ALLOW widens nothing."""
    old = world / "old.yaml"
    old.write_text("apiVersion: v1\nkind: Service\nmetadata: {name: x}\n")
    assert _codes(world / "policies", "--against", old) == []
    (world / "policies" / "front.yaml").write_text("apiVersion: v1\nkind: Service\n")
    old.write_text(POLICY)
    assert _codes(world / "policies", "--against", old) == ["MW0511"]


def test_fix_writes_and_diff_does_not(world: Path) -> None:
    """`--fix --diff` prints the edit alone; `--fix` makes it, and then lints what there is."""
    path = world / "policies" / "front.yaml"
    bad = POLICY.replace('"GET"', '"get"  # all')
    path.write_text(bad.replace('["get"  # all]', '["get"]  # all'))
    before = path.read_text()
    shown = _run(path, "--fix", "--diff")
    assert shown.exit_code == 0
    assert '-        methods: ["get"]  # all' in shown.output
    assert '+        methods: ["GET"]  # all' in shown.output
    assert path.read_text() == before
    done = _run(path, "--fix")
    assert done.exit_code == 0
    assert path.read_text() == before.replace("get", "GET")
    assert _run(path, "--fix", "--diff").output == ""


def test_diff_alone_is_refused(world: Path) -> None:
    """`--diff` says nothing without `--fix`."""
    assert _run(world / "policies", "--diff").exit_code == 2


def test_a_suppression_in_rego(world: Path) -> None:
    """A comment accepts a finding for its module, with a reason; an old one is told."""
    rego = world / "rego" / "allow.rego"
    wrong = REGO.replace("false", "true")
    rego.write_text(wrong + "# meshwarden:lint-ignore MW0904: a canary, until 2099-01-01\n")
    assert _codes(rego) == []
    rego.write_text(wrong + "# meshwarden:lint-ignore MW0904: a canary, until 2020-01-01\n")
    assert _codes(rego) == ["MW0904", "MW0813"]


def test_the_witness_is_shown_to_people(world: Path) -> None:
    """A finding about several policies ends with the request that shows it."""
    path = world / "policies" / "front.yaml"
    path.write_text(POLICY + "---\n" + POLICY.replace("name: front", "name: again"))
    output = _run(path).output
    assert "MW0501" in output
    assert "witness: GET any.example/ on port 8080 to `shop` from" in output
