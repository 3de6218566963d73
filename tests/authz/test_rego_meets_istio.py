"""Rego providers beside Istio's policies: the cases of `rego_meets_istio`, and the record."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from checking import CUSTOM, FixedProvider, MemoryRecorder, ask, make_authorizer, make_message
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from google.protobuf.json_format import MessageToDict

from audit.document import document_from_record
from audit.redact import Redactor
from authz.config_file import load_settings
from authz.custom import CustomTerms, ProviderTerms
from authz.policytest.run import find_test_files, run_test_file
from authz.settings import Settings
from opa_bridge.istio_verdict import istio_verdict
from opa_bridge.provider import load_provider
from policies.decision import (
    Decision,
    Effect,
    Layer,
    ProviderError,
    ProviderTimeout,
    ProviderVerdict,
    Reason,
    RuleRef,
    UnfitRequest,
)
from policies.request import Request

REPOSITORY = Path(__file__).parents[2]
FOLDER = Path(__file__).parent / "rego_meets_istio"
EXAMPLE = REPOSITORY / "examples" / "dropin"
OPEN = CustomTerms(of={"rego": ProviderTerms(fails_open=True)})


@pytest.mark.parametrize("path", find_test_files([FOLDER, EXAMPLE]), ids=lambda path: path.name)
def test_cases(path: Path) -> None:
    """Every case of the file comes out as it says."""
    wrong = {found.case: found.mismatches for found in run_test_file(path) if found.mismatches}
    assert wrong == {}


def test_configurations_of_the_page_load() -> None:
    """What docs/rego.md shows is valid, and the first of it is the example."""
    shown = re.findall(
        r"```yaml\n(.*?)```", (REPOSITORY / "docs" / "rego.md").read_text("utf-8"), flags=re.DOTALL
    )
    found = [Settings.model_validate(yaml.safe_load(text)) for text in shown]

    assert len(found) == 2
    example = load_settings(EXAMPLE / "meshwarden.yaml")
    assert [each.made_absolute(EXAMPLE) for each in found[0].providers] == list(example.providers)
    assert (found[0].listen, found[0].policies) == (example.listen, example.policies)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ProviderError("undefined"), "provider_error"),
        (ProviderTimeout("stopped"), "provider_timeout"),
    ],
)
def test_fail_open_is_told(error: ProviderError, reason: str) -> None:
    """A request that passed without a verdict says so: record, metadata and metrics."""
    recorder = MemoryRecorder()
    authorizer = make_authorizer([CUSTOM], recorder, {"rego": FixedProvider(error)}, terms=OPEN)

    answer = ask(authorizer, make_message())

    assert answer.status.code == 0
    assert MessageToDict(answer.dynamic_metadata)["failed_open"] == ["rego"]
    [record] = recorder.records
    assert "provider `rego`" in record.decision.detail
    assert "fails open" in record.decision.detail
    [passed] = record.failed_open
    assert (passed.provider, passed.reason, passed.error) == ("rego", reason, str(error))
    told = f'meshwarden_provider_failed_open_total{{provider="rego",reason="{reason}"}} 1.0'
    assert told in authorizer.metrics.text().decode()


@pytest.mark.parametrize(
    ("error", "terms", "reason", "status"),
    [
        (ProviderError("x"), ProviderTerms(error_status=503), "provider_error", 503),
        (ProviderTimeout("x"), ProviderTerms(), "provider_timeout", 403),
        (UnfitRequest("x"), ProviderTerms(fails_open=True), "provider_error", 403),
        (ZeroDivisionError(), ProviderTerms(fails_open=True), "internal_error", 500),
    ],
)
def test_no_verdict_is_a_denial(
    error: Exception, terms: ProviderTerms, reason: str, status: int
) -> None:
    """A failure denies by its name and status; what the client or we broke never fails open."""
    recorder = MemoryRecorder()
    authorizer = make_authorizer(
        [CUSTOM], recorder, {"rego": FixedProvider(error)}, terms=CustomTerms(of={"rego": terms})
    )

    assert ask(authorizer, make_message()).status.code != 0
    [record] = recorder.records
    assert (reason, status) == (record.decision.reason, record.decision.http_status)
    assert record.failed_open == ()


def test_a_denial_behind_an_open_door_tells_of_it() -> None:
    """The record of a DENY rule's denial still says which provider was passed."""
    recorder = MemoryRecorder()
    policies = [CUSTOM, {"action": "DENY", "rules": [{}]}]
    broken = {"rego": FixedProvider(ProviderError("x"))}

    assert ask(make_authorizer(policies, recorder, broken, terms=OPEN), make_message()).status.code

    assert [each.provider for each in recorder.records[0].failed_open] == ["rego"]


def test_default_provider_that_is_not_there_denies() -> None:
    """A default that names nobody lets nobody in."""
    recorder = MemoryRecorder()

    answer = ask(make_authorizer([], recorder, terms=CustomTerms(default="x")), make_message())

    assert answer.status.code != 0
    assert recorder.records[0].decision.reason == "provider_unknown"


def test_default_provider_alone_needs_no_workload() -> None:
    """Where a default provider is all there is, nobody has to say which workload is meant."""
    terms = CustomTerms(default="rego")
    providers = {"rego": FixedProvider(ProviderVerdict(effect=Effect.ALLOW))}

    alone = make_authorizer([], providers=providers, terms=terms, static_workload=None)
    beside = make_authorizer([{"rules": [{}]}], None, providers, terms=terms, static_workload=None)

    assert ask(alone, make_message()).status.code == 0
    assert ask(beside, make_message()).status.code != 0


def test_connections_go_to_the_default_provider(tmp_path: Path) -> None:
    """A connection, which has no HTTP part, is put to the default provider as well."""
    module = """package p
default r := false
r if input.attributes.request.http
r if input.attributes.destination.address.socketAddress.portValue == 5432
"""
    (tmp_path / "p.rego").write_text(module)
    providers = {"rego": load_provider("rego", [tmp_path], "p/r")}
    authorizer = make_authorizer([], providers=providers, terms=CustomTerms(default="rego"))
    message = CheckRequest()
    message.attributes.source.address.socket_address.address = "10.0.0.1"
    target = message.attributes.destination.address.socket_address
    target.address, target.port_value = "10.0.0.2", 5432

    assert ask(authorizer, message).status.code == 0
    target.port_value = 5433
    assert ask(authorizer, message).status.code != 0


class Timed:
    """A provider that keeps how much time it was told to have."""

    def __init__(self) -> None:
        self.told: list[float | None] = []

    def evaluate(self, request: Request, seconds: float | None, *_: object) -> ProviderVerdict:
        """Keep it; allow."""
        self.told.append(seconds)
        return ProviderVerdict(effect=Effect.ALLOW)


def test_time_of_the_caller_reaches_every_provider() -> None:
    """Each provider is told what is left of the deadline, less what the answer needs."""
    first, second = Timed(), Timed()
    other = {**CUSTOM, "provider": {"name": "sego"}}
    authorizer = make_authorizer([CUSTOM, other], providers={"rego": first, "sego": second})
    message = make_message().SerializeToString()

    authorizer.check(message, seconds=10.0)
    authorizer.check(message)

    assert first.told[0] is not None
    assert second.told[0] is not None
    assert 9 > first.told[0] > second.told[0] > 0
    assert first.told[1] is None


SAID = Decision(
    effect=Effect.DENY,
    reason=Reason.DENY_RULE_MATCHED,
    layer=Layer.DENY,
    rule=RuleRef(namespace="a", policy="b", rule=2),
)


@pytest.mark.parametrize(
    ("rule", "asked"),
    [
        ('r := x if x := input.meshwarden.istio.would == "allow"', 1),
        ('r := x if x := input.meshwarden["istio"].would == "allow"', 1),
        ("r := x if x := count(input.meshwarden) == 0", 1),
        ("f(x) := x\nr := false if f(input)", 1),
        ('r := x if x := input.meshwarden.claims.sub == "a"', 0),
        ("", 0),
    ],
)
def test_istio_is_asked_when_rego_looks(rule: str, asked: int, tmp_path: Path) -> None:
    """The verdict of DENY and ALLOW is worked out only for a policy that may look at it."""
    (tmp_path / "p.rego").write_text(f"package p\ndefault r := false\n{rule}\n")
    calls: list[int] = []

    def istio() -> Decision:
        calls.append(1)
        return SAID

    provider = load_provider("p", [tmp_path], "p/r")
    provider.evaluate(Request(method="GET", path="/", host="h"), None, istio)

    assert len(calls) == asked


def test_what_rego_hears_of_istio() -> None:
    """Verdict, layer, reason and the deciding rule; no rule, no policy."""
    assert istio_verdict(SAID) == {
        "would": "deny",
        "layer": "DENY",
        "reason": "deny_rule_matched",
        "policy": "a/b",
        "rule": 2,
    }
    assert set(istio_verdict(replace(SAID, rule=None))) == {"would", "layer", "reason"}


def test_input_too_large_for_numbers_never_fails_open(tmp_path: Path) -> None:
    """A body with a number that the engine cannot carry is no failure of the provider."""
    module = "package p\ndefault r := true\nr := x if x := input.parsed_body.n > 1\n"
    (tmp_path / "p.rego").write_text(module)
    recorder = MemoryRecorder()
    provider = load_provider("rego", [tmp_path], "p/r")
    authorizer = make_authorizer([CUSTOM], recorder, {"rego": provider}, terms=OPEN)
    message = make_message(content_type="application/json")
    message.attributes.request.http.body = f'{{"n": {2**70}}}'

    assert ask(authorizer, message).status.code != 0
    assert "more than 64 bits" in recorder.records[0].decision.detail


def test_written_record_names_who_failed_open() -> None:
    """The line of the audit log has provider, reason and error, the error masked."""
    recorder = MemoryRecorder()
    token = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.c2lnbmF0dXJl"
    failing = {"rego": FixedProvider(ProviderError(f"broke at {token}"))}
    ask(make_authorizer([CUSTOM], recorder, failing, terms=OPEN), make_message())

    line = document_from_record(recorder.records[0], node="n", redactor=Redactor())

    [passed] = line["failed_open"]
    assert (passed["provider"], passed["reason"]) == ("rego", "provider_error")
    assert token not in json.dumps(line)
    assert "/failed_open/0/error" in line["masked"]
