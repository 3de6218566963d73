"""`policy explain`: the story is that of the server's walk, and says what each condition met."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from commanding import as_lines, line_of, resources, run_policy

CASES = yaml.safe_load((Path(__file__).parent / "policy_eval.yaml").read_text())
WEB = "spiffe://cluster.local/ns/shop/sa/web"
POLICIES = [
    {
        "name": "readers",
        "spec": {
            "selector": {"matchLabels": {"app": "orders"}},
            "rules": [
                {
                    "from": [{"source": {"principals": ["cluster.local/ns/shop/sa/web"]}}],
                    "to": [{"operation": {"methods": ["GET"], "paths": ["/orders", "/orders/*"]}}],
                },
                {"when": [{"key": "request.headers[authorization]", "values": ["x"]}]},
            ],
        },
    },
    {
        "name": "no-admin",
        "spec": {
            "action": "DENY",
            "rules": [{"to": [{"operation": {"paths": ["/admin"], "notMethods": ["HEAD"]}}]}],
        },
    },
    {"name": "others", "namespace": "backoffice", "spec": {"rules": [{}]}},
    {
        "name": "front",
        "spec": {"selector": {"matchLabels": {"app": "front"}}, "rules": [{}]},
    },
    {
        "name": "trial",
        "annotations": {"istio.io/dry-run": "true"},
        "spec": {"action": "DENY", "rules": [{"to": [{"operation": {"paths": ["/orders"]}}]}]},
    },
]


@pytest.fixture
def orders(folder: Path) -> Path:
    """A folder with the policies above."""
    (folder / "p.yaml").write_text(resources(POLICIES))
    return folder


def explained(*arguments: str) -> dict[str, Any]:
    """The JSON story of a request to the orders workload."""
    result = run_policy(
        "explain", "--policies", "p.yaml", "--to", "shop/app=orders", "--format", "json", *arguments
    )
    assert 0 == result.exit_code, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_same_answer_as_eval(case: dict[str, Any], folder: Path) -> None:
    """Whatever `policy eval` answers to a line, `explain` tells the story of that answer."""
    (folder / "policies.yaml").write_text(resources(case["policies"]))
    (folder / "mesh.yaml").write_text(case.get("mesh", "{}"))
    for name, module in case.get("rego", {}).items():
        (folder / name).write_text(module)
    arguments = [
        {"--workload": "--to"}.get(each, each) if isinstance(each, str) else each
        for each in case.get("args", ())
    ]
    common = ("--policies", "policies.yaml", "--mesh", "mesh.yaml")
    for short in case["requests"]:
        line = as_lines(line_of(short))
        answer = json.loads(
            run_policy("eval", *common, *case.get("args", ()), "--requests", "-", stdin=line).stdout
        )
        story = json.loads(
            run_policy(
                "explain", *common, *arguments, "--request", "-", "--format", "json", stdin=line
            ).stdout
        )

        decision = story["decision"]
        assert (answer["decision"], answer["status"], answer["reason"], answer["detail"]) == tuple(
            decision[key] for key in ("effect", "status", "reason", "detail")
        )
        assert answer["policy"] == (decision["rule"] or {}).get("policy")
        assert_ticks_agree(story)


def assert_ticks_agree(story: dict[str, Any]) -> None:
    """Each rule's ticks come to its verdict: any of from, any of to, all of when."""
    for rule in (rule for policy in story["policies"] for rule in policy["rules"]):
        kinds: dict[str, list[bool]] = {}
        for group in rule["groups"]:
            assert group["holds"] == all(clause["holds"] for clause in group["clauses"])
            kinds.setdefault(group["kind"], []).append(group["holds"])
            for clause in group["clauses"]:
                fits = [value["fits"] for value in clause["values"] if not value["negated"]]
                kept_out = [value["fits"] for value in clause["values"] if value["negated"]]
                assert clause["holds"] == ((any(fits) or not fits) and not any(kept_out))
        assert rule["matches"] == (rule["canMatch"] and all(map(any, kinds.values())))


@pytest.mark.usefixtures("orders")
def test_the_story_of_a_denial() -> None:
    """A near miss names its one condition, what the request had, and where it stands."""
    story = explained("--from", "shop/web", "--method", "POST", "--path", "/orders?page=2")

    assert ("deny", 403, "no_allow_rule_matched") == tuple(
        story["decision"][key] for key in ("effect", "status", "reason")
    )
    assert ["methods"] == story["nearMisses"][0]["failing"]
    standings = {each["policy"]: each["standing"] for each in story["policies"]}
    assert {
        "shop/no-admin": "no_match",
        "shop/readers": "no_match",
        "shop/trial": "shadow",
    } == standings
    [methods] = [
        clause
        for policy in story["policies"]
        if policy["policy"] == "shop/readers"
        for group in policy["rules"][0]["groups"]
        for clause in group["clauses"]
        if not clause["holds"]
    ]
    assert ("methods", "POST") == (methods["field"], methods["had"])
    assert methods["place"].startswith("p.yaml:")


@pytest.mark.usefixtures("orders")
def test_what_was_not_considered_says_why() -> None:
    """Policies of other namespaces and other workloads stand there with the reason."""
    why = {each["policy"]: each["why"] for each in explained("--from", WEB)["notConsidered"]}

    assert {
        "backoffice/others": "it is in namespace `backoffice`, the workload in `shop`",
        "shop/front": "its selector wants `app: front`, the workload has `app: orders`",
    } == why


@pytest.mark.usefixtures("orders")
def test_a_deny_leaves_the_allows_unasked() -> None:
    """Behind the deciding rule nobody was asked, and the story does not say otherwise."""
    story = explained("--from", WEB, "--path", "/admin")

    standings = {each["policy"]: each["standing"] for each in story["policies"]}
    assert ("decided", "not_asked") == (standings["shop/no-admin"], standings["shop/readers"])
    assert "shop/no-admin" == story["decision"]["rule"]["policy"]


@pytest.mark.usefixtures("orders")
def test_text_shows_ticks_shadow_and_no_colour() -> None:
    """For people: the answer first, ticks and crosses, the shadow; piped it is plain text."""
    said = run_policy(
        "explain", "--policies", "p.yaml", "--to", "shop/app=orders", "--from", WEB,
        "--path", "/orders",
    ).stdout  # fmt: skip

    assert said.startswith("ALLOW  GET /orders to shop/app=orders\n")
    assert "✓ to[0]  methods: `GET`  the request has GET" in said
    assert "shop/trial: would_deny" in said
    assert "\x1b" not in said


@pytest.mark.usefixtures("orders")
def test_secrets_are_not_told() -> None:
    """Neither a token nor a header that carries one is shown, in either form."""
    for format_ in ("json", "text"):
        said = run_policy(
            "explain", "--policies", "p.yaml", "--to", "shop/app=orders", "--format", format_,
            "--header", "Authorization: Bearer hush-hush", "--path", "/orders?access_token=hush",
        )  # fmt: skip

        assert 0 == said.exit_code
        assert "hush" not in said.output
        assert "a value that is not shown" in said.stdout


@pytest.mark.usefixtures("orders")
def test_a_path_with_control_characters_stays_on_its_line() -> None:
    """What a client wrote cannot paint the terminal."""
    said = run_policy(
        "explain", "--policies", "p.yaml", "--to", "shop/app=orders", "--path", "/a\x1b[31m",
        "--from", "spiffe://cluster.local/ns/shop/sa/\x1b[2J", "--method", "\x9b2J\u202e",
    ).stdout  # fmt: skip

    assert not {"\x1b", "\x9b", "\u202e"} & set(said)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--from", "web"), "`web` is neither a SPIFFE ID"),
        (("--header", "hush"), "a header is not of the form"),
        (("--from", "spiffe:/web"), "`spiffe:/web` is neither a SPIFFE ID"),
        (("--ip", "1.2"), "`1.2` is no IP address"),
        (("--request", "bad.json"), "`bad.json`: not JSON at column"),
        (("--token", "@missing"), "No such file"),
    ],
)
def test_unclear_questions(arguments: tuple[str, str], message: str, orders: Path) -> None:
    """What is no request ends with exit code 2, the reason, and nothing on standard output."""
    (orders / "bad.json").write_text("{")

    result = run_policy("explain", "--policies", "p.yaml", "--to", "shop", *arguments)

    assert (2, "") == (result.exit_code, result.stdout)
    assert message in result.stderr


def test_a_namesake_of_another_kind_did_not_decide(folder: Path) -> None:
    """A PeerAuthentication that refuses is not taken for the policy of its name."""
    strict = {"kind": "PeerAuthentication", "name": "readers", "spec": {"mtls": {"mode": "STRICT"}}}
    (folder / "p.yaml").write_text(resources([*POLICIES, strict]))

    story = explained("--path", "/orders")

    assert "peer_required" == story["decision"]["reason"]
    assert (True, False) == (story["mtls"]["strict"], story["mtls"]["admitted"])
    assert {"not_asked", "shadow"} == {each["standing"] for each in story["policies"]}
