"""`policy eval -c` and `explain -c` tell what the configured candidate set would have answered."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from commanding import as_lines, line_of, resources, run_policy

DENY_ADMIN = {"action": "DENY", "rules": [{"to": [{"operation": {"paths": ["/admin"]}}]}]}
ASK = {"action": "CUSTOM", "provider": {"name": "rego"}, "rules": [{}]}
REGO = "package envoy.authz\nimport rego.v1\ndefault allow := %s\n"
ADMIN, ORDERS = line_of({"http": {"path": "/admin"}}), line_of({"http": {"path": "/orders"}})


def told(*lines: Mapping[str, Any], of: str = "meshwarden.yaml") -> list[dict[str, Any]]:
    """Return the shadows of each line, as `policy eval` tells them."""
    result = run_policy("eval", "-c", of, "--requests", "-", stdin=as_lines(*lines))
    assert 0 == result.exit_code, result.output
    return [json.loads(line)["shadow"] for line in result.stdout.splitlines()]


@pytest.fixture
def configured(folder: Path) -> Path:
    """A folder whose enforced set allows all and whose candidate keeps `/admin` shut."""
    (folder / "now.yaml").write_text(resources([{"name": "open", "spec": {"rules": [{}]}}]))
    (folder / "next.yaml").write_text(resources([{"name": "shut", "spec": DENY_ADMIN}]))
    (folder / "meshwarden.yaml").write_text(
        "policies: {paths: [now.yaml]}\nworkload: {namespace: shop}\n"
        "dryrun: {candidate: {paths: [next.yaml]}}\n"
    )
    return folder


@pytest.mark.usefixtures("configured")
def test_the_verdict_stands_beside_the_answer() -> None:
    """It names the rule of the candidate that would decide, and whether the answer differs."""
    [[shut], [same]] = told(ADMIN, ORDERS)

    assert {
        "policy": "candidate",
        "rule": None,
        "would": "deny",
        "matched": "shop/shut#0",
        "detail": "allow would become deny",
    } == shut
    assert ("allow", None, "") == (same["would"], same["matched"], same["detail"])


@pytest.mark.usefixtures("configured")
def test_the_story_tells_it() -> None:
    """`policy explain` has the verdict among the shadows, with the policy of the rule."""
    result = run_policy("explain", "-c", "meshwarden.yaml", "--to", "shop", "--path", "/admin")

    assert 0 == result.exit_code, result.output
    assert "candidate: would_deny, shop/shut#0 matched" in result.stdout


def test_its_own_rego_is_asked(configured: Path) -> None:
    """A provider of the candidate answers for it alone, one it lacks is the enforced set's."""
    for name, verdict in (("now.rego", "true"), ("next.rego", "false")):
        (configured / name).write_text(REGO % verdict)
    for name in ("now.yaml", "next.yaml"):
        (configured / name).write_text(resources([{"name": "ask", "spec": ASK}]))
    text = (configured / "meshwarden.yaml").read_text().replace("}}\n", "%s}}\n")
    text += "providers: [{name: rego, rego: {paths: [now.rego], workers: 1}}]\n"
    own = ", providers: [{name: rego, rego: {paths: [next.rego], workers: 1}}]"
    (configured / "own.yaml").write_text(text % own)
    (configured / "lacks.yaml").write_text(text % "")

    assert "deny" == told(ADMIN, of="own.yaml")[0][0]["would"]
    assert "allow" == told(ADMIN, of="lacks.yaml")[0][0]["would"]


def test_one_that_does_not_load_is_told(configured: Path) -> None:
    """As with a server, the enforced answer stands; the finding has its file and line."""
    (configured / "next.yaml").write_text("kind: [\n")

    result = run_policy("eval", "-c", "meshwarden.yaml", "--requests", "-", stdin=as_lines(ADMIN))

    assert 0 == result.exit_code
    answer = json.loads(result.stdout)
    assert ("allow", "error") == (answer["decision"], answer["shadow"][0]["would"])
    assert "next.yaml:" in result.stderr
    assert "the candidate set does not load" in result.stderr


def test_the_same_set_answers_the_same(folder: Path, repository: Path) -> None:
    """Asked of itself, with Rego and with tokens by the clock of their lines, nothing differs."""
    examples = repository / "examples"
    provider = {"name": "orders-rego", "rego": {"paths": [str(examples / "rego")]}}
    provider["rego"] |= {"entrypoint": "envoy/authz/result", "workers": 1}
    config = {
        "mesh": {"trustDomain": "demo.meshwarden.test"},
        "policies": {"paths": [str(examples / "policies")]},
        "providers": [provider],
        "dryrun": {"candidate": {"paths": [str(examples / "policies")]}},
    }
    (folder / "m.yaml").write_text(json.dumps(config))

    result = run_policy("eval", "-c", "m.yaml", "--requests", examples / "requests.jsonl")

    assert 0 == result.exit_code, result.output
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    verdicts = [
        (answer["decision"], shadow["would"])
        for answer in answers
        for shadow in answer["shadow"]
        if shadow["policy"] == "candidate"
    ]
    assert {("allow", "allow"), ("deny", "deny")} == set(verdicts)
    assert len(answers) == len(verdicts)
