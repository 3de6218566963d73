"""`policy replay` over real logs: planted differences, formats, exit codes, Rego, the unknown."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from checking import FixedProvider, MemoryRecorder
from click.testing import Result
from commanding import resources, run_policy
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from replaying import NOW, InlineKeys, write_log

from audit.record import AuditRecord
from authz.custom import CustomTerms
from authz.evaluate_state import ANY_PROVIDER, RegoSource, load_evaluation
from authz.metrics import Metrics
from authz.pipeline import Authorizer
from authz.serving_state import ServingState
from authz.walk import Surroundings
from policies.decision import Effect, ProviderVerdict
from policies.mesh import Mesh
from policies.request import Workload

WEB, CRON, ADMIN, GUEST = (
    f"spiffe://cluster.local/ns/{name}" for name in ("shop/sa/web", "jobs/sa/cron",
                                                     "shop/sa/admin", "out/sa/guest")
)  # fmt: skip
SHOP = Workload(namespace="shop", service_account="orders", labels={"app": "orders"})
ORDERS, REPORTS = {"paths": ["/orders/*"]}, {"paths": ["/reports/*"]}


def allow(name: str, account: str, **operation: list[str]) -> dict[str, Any]:
    """Return an ALLOW policy for one caller."""
    source = {"principals": [f"cluster.local/ns/{account}"]}
    rules = [{"from": [{"source": source}], "to": [{"operation": operation}]}]
    return {"name": name, "spec": {"rules": rules}}


NO_EXPORT = {"name": "no-export", "spec": {"action": "DENY", "rules": [
    {"to": [{"operation": {"paths": ["/orders/*/export"]}}]}]}}  # fmt: skip
CUSTOM = {"name": "ask", "spec": {"action": "CUSTOM", "provider": {"name": "opa"}, "rules": [
    {"to": [{"operation": {"paths": ["/rego*"]}}]}]}}  # fmt: skip
OLD = [
    allow("web", "shop/sa/web", methods=["GET", "POST"], **ORDERS),
    allow("cron", "jobs/sa/cron", methods=["POST"], **REPORTS),
    allow("rego", "shop/sa/web", paths=["/rego*"]),
    NO_EXPORT,
]
BETA = {"name": "beta", "spec": {"action": "DENY", "rules": [
    {"to": [{"operation": {"paths": ["/orders/*"]}}],
     "when": [{"key": "request.headers[x-beta]", "values": ["on"]}]}]}}  # fmt: skip
# cron loses its reports, admin may delete orders, and a header is looked at that nobody did.
NEW = [
    OLD[0],
    OLD[2],
    NO_EXPORT,
    allow("admin", "shop/sa/admin", methods=["DELETE"], **ORDERS),
    BETA,
]


def check(peer: str, method: str, path: str, **headers: str) -> CheckRequest:
    """Return a check as Envoy sends it."""
    message = CheckRequest()
    message.attributes.source.principal = peer
    http = message.attributes.request.http
    http.method, http.path, http.host = method, path, "orders.shop"
    for name, value in headers.items():
        http.header_map.headers.add(key=name.replace("_", "-"), raw_value=value.encode())
    return message


def records(
    policies: Path, messages: Iterable[CheckRequest], rego: Path | None = None
) -> list[AuditRecord]:
    """Return the records of real decisions."""
    sources = {} if rego is None else {ANY_PROVIDER: RegoSource(paths=[rego])}
    return records_of(load_evaluation([policies], Mesh(), sources), messages)


def records_of(state: ServingState, messages: Iterable[CheckRequest]) -> list[AuditRecord]:
    """Return the records of real decisions of a state."""
    recorder = MemoryRecorder()
    authorizer = Authorizer(
        state=lambda: state,
        around=Surroundings(keys=InlineKeys(), wall_clock=lambda: NOW, static_workload=SHOP),
        recorder=recorder,
        metrics=Metrics(),
    )
    for message in messages:
        authorizer.check(message.SerializeToString())
    return recorder.records


@pytest.fixture
def replay(tmp_path: Path) -> Callable[..., Result]:
    """A run of the command: records made under OLD, replayed under the policies given."""

    def run(
        messages: Iterable[CheckRequest], new: list[dict[str, Any]], *options: object,
        old: list[dict[str, Any]] = OLD, rego: Path | None = None,
    ) -> Result:  # fmt: skip
        (tmp_path / "old.yaml").write_text(resources(old))
        (tmp_path / "new.yaml").write_text(resources(new))
        log = write_log(tmp_path / "log", records(tmp_path / "old.yaml", messages, rego))
        return run_policy(
            "replay", "--audit", log, "--policies", tmp_path / "new.yaml", "-q", *options
        )

    return run


def an_hour(kinds: list[tuple[int, list[AuditRecord]]]) -> Iterator[AuditRecord]:
    """Yield so many records of each kind, over one hour, each with an id and a path of its own."""
    total = sum(count for count, _ in kinds)
    number = 0
    for count, templates in kinds:
        for turn in range(count):
            template = templates[turn % len(templates)]
            path = template.request.path.replace("4711", str(1000 + number))
            yield replace(
                template,
                decision_id=f"{number:032x}",
                decided_at=NOW + 3600 * number / total,
                request=replace(template.request, path=path),
            )
            number += 1


def test_an_hour_of_traffic(tmp_path: Path) -> None:
    """100,000 records: exactly the planted differences, under a progress bar."""
    (tmp_path / "old.yaml").write_text(resources(OLD))
    (tmp_path / "new.yaml").write_text(resources(NEW))

    def kind(*messages: CheckRequest) -> list[AuditRecord]:
        return records(tmp_path / "old.yaml", messages)

    log = write_log(tmp_path / "log", an_hour([
        (60_000, kind(check(WEB, "GET", "/orders/4711"), check(WEB, "POST", "/orders/4711/items"),
                      check(WEB, "GET", "/orders/4711?token=abc", user_agent="t"))),
        (30_000, kind(check(GUEST, "GET", "/orders/4711"), check("", "GET", "/"),
                      check(WEB, "GET", "/orders/4711/export"))),
        (8_980, kind(check(GUEST, "POST", "/reports/daily"), check(ADMIN, "GET", "/orders/4711"))),
        (700, kind(check(CRON, "POST", "/reports/4711"))),
        (290, kind(check(ADMIN, "DELETE", "/orders/4711"))),
        (30, kind(check(WEB, "GET", "/orders/4711", x_beta="on"))),
    ]))  # fmt: skip
    result = run_policy(
        "replay", "--audit", log, "--policies", tmp_path / "new.yaml", "--format", "json",
        "--fail-on", "any",
    )  # fmt: skip
    assert 1 == result.exit_code
    found = json.loads(result.stdout)
    changes = [
        (each["change"], each["count"], each["source"], each["method"], each["path"], each["rule"],
         each["was"], each["destination"])
        for each in found["changes"]
    ]  # fmt: skip
    assert [
        ("new_deny", 700, "jobs/cron", "POST", "/reports/{*}", "no_allow_rule_matched",
         "shop/cron#0", "shop/orders"),
        ("new_allow", 290, "shop/admin", "DELETE", "/orders/{*}", "shop/admin#0",
         "no_allow_rule_matched", "shop/orders"),
    ] == changes  # fmt: skip
    assert (100_000, 98_980, 30, 0) == (
        found["requests"], found["same"], found["unknown"], found["unbelieved_lines"]
    )  # fmt: skip
    assert {"the record does not hold `request.headers[x-beta]`": 30} == found["not_replayed"]
    cron = found["changes"][0]
    assert cron["first_seen"] < cron["last_seen"]
    assert cron["sample"]["decision_id"] == f"{98_980:032x}"
    assert re.search(r"(100,\d{3}) of \1 lines", result.stderr)


MIXED = [check(CRON, "POST", "/reports/1"), check(ADMIN, "DELETE", "/orders/1"),
         check(WEB, "GET", "/orders/1")]  # fmt: skip


@pytest.mark.parametrize(
    ("new", "fail_on", "code"),
    [
        (NEW, "new-deny", 1), (NEW, "new-allow", 1), (NEW, "any", 1), (OLD, "any", 0),
        ([*OLD, NEW[3]], "new-deny", 0), ([*OLD, NEW[3]], "new-allow", 1),
        ([OLD[0]], "new-allow", 0), ([OLD[0]], "new-deny", 1),
    ],
)  # fmt: skip
def test_fail_on(
    replay: Callable[..., Result], new: list[dict[str, Any]], fail_on: str, code: int
) -> None:
    """The exit code tells of the kinds of change that were asked for, and of no other."""
    assert code == replay(MIXED, new, "--fail-on", fail_on).exit_code


def test_formats(replay: Callable[..., Result], tmp_path: Path) -> None:
    """The table and the Markdown say the same; what a client wrote breaks neither."""
    hostile = check(CRON, "POST", "/reports/\x1b[2J|`x`\n# h")
    table = replay([*MIXED, hostile], NEW)
    assert 0 == table.exit_code
    assert "1 answered as before" in table.stdout
    assert "2 newly denied (2 groups)" in table.stdout
    assert "jobs/cron" in table.stdout
    assert "\x1b" not in table.stdout
    new = tmp_path / "new.yaml"
    markdown = run_policy("replay", "--audit", tmp_path / "log", "--policies", new, "-q",
                          "--format", "markdown").stdout  # fmt: skip
    assert markdown.startswith("### Policy replay: 3 answers would change\n")
    rows = [line for line in markdown.splitlines() if line.startswith("| `")]
    assert 3 == len(rows)
    assert {11} == {row.replace("\\|", "").count("|") for row in rows}
    assert "\n# h" not in markdown


REGO = """\
package envoy.authz
import rego.v1
default allow := false
allow if input.attributes.request.http.%s
"""


@pytest.mark.parametrize(
    ("old", "new", "counts"),
    [
        ('method == "GET"', 'method == "GET"', (2, 0, 0, 0)),
        ('method == "GET"', 'method == "POST"', (0, 1, 1, 0)),
        ('method == "GET"', 'headers["x-plain"] == "1"', (1, 0, 0, 1)),
        ('method == "GET"', 'body == "b"', (0, 0, 0, 2)),
        ('body == ""', 'body == ""', (2, 0, 0, 0)),
    ],
)
def test_new_rego(
    replay: Callable[..., Result], tmp_path: Path, old: str, new: str,
    counts: tuple[int, int, int, int],
) -> None:  # fmt: skip
    """The same Rego stands by its answers; another is asked, as far as the record holds it."""
    for name, text in (("old", old), ("new", new)):
        (tmp_path / f"{name}.rego").write_text(REGO % text)
    traffic = [check(WEB, "GET", "/rego", x_plain="1"), check(WEB, "POST", "/rego")]
    if "headers" in new:
        # The second has no such header: that much is known.
        counts = (1, 0, 0, 1)
    result = replay(
        traffic, [*OLD, CUSTOM], "--rego", tmp_path / "new.rego", "--format", "json",
        old=[*OLD, CUSTOM], rego=tmp_path / "old.rego",
    )  # fmt: skip
    found = json.loads(result.stdout)
    assert counts == tuple(found[key] for key in ("same", "new_deny", "new_allow", "unknown"))


def test_new_rego_answers_for_a_default_provider(tmp_path: Path) -> None:
    """A provider that is asked by default, and that no policy names, is replayed with the Rego."""
    (tmp_path / "new.yaml").write_text(resources(OLD))
    (tmp_path / "new.rego").write_text(REGO % 'method == "GET"')
    answer = FixedProvider(ProviderVerdict(effect=Effect.ALLOW))
    state = load_evaluation([tmp_path / "new.yaml"], Mesh(), {})
    state = replace(state, providers={"opa": answer}, terms=CustomTerms(default="opa"))
    traffic = [check(WEB, "GET", "/orders/1"), check(WEB, "POST", "/orders/1")]
    log = write_log(tmp_path / "log", records_of(state, traffic))
    arguments = ["--audit", log, "--policies", tmp_path / "new.yaml", "-q", "--format", "json"]
    stands = json.loads(run_policy("replay", *arguments).stdout)
    anew = json.loads(run_policy("replay", *arguments, "--rego", tmp_path / "new.rego").stdout)
    assert ((2, 0), (1, 1)) == tuple((each["same"], each["new_deny"]) for each in (stands, anew))


def test_rego_that_is_not_given_stands_by_its_answers(
    replay: Callable[..., Result], tmp_path: Path
) -> None:
    """Without `--rego` the recorded verdicts of a provider count, and the rules are tried anew."""
    (tmp_path / "old.rego").write_text(REGO % 'method == "GET"')
    traffic = [check(WEB, "GET", "/rego"), check(WEB, "POST", "/rego"), check(WEB, "PUT", "/rego")]
    result = replay(
        traffic, [OLD[0], CUSTOM], "--format", "json",
        old=[*OLD, CUSTOM], rego=tmp_path / "old.rego",
    )  # fmt: skip
    found = json.loads(result.stdout)
    assert (2, 1, 0, 0) == tuple(found[key] for key in ("same", "new_deny", "new_allow", "unknown"))


def test_damage_and_absence_are_told(replay: Callable[..., Result], tmp_path: Path) -> None:
    """A line that does not hold its hash is left out and counted; no log is exit code 2."""
    replay(MIXED, OLD)
    segment = tmp_path / "log" / "audit-00000001.jsonl"
    segment.write_text(segment.read_text().replace('"allow"', '"deny"', 1))
    new = tmp_path / "new.yaml"
    result = run_policy("replay", "--audit", tmp_path / "log", "--policies", new, "-q")
    assert "1 line left out: damaged" in result.stdout
    absent = run_policy("replay", "--audit", tmp_path / "none", "--policies", new, "-q")
    assert 2 == absent.exit_code
