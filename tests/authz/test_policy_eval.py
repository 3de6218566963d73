"""`policy eval`: lines in, decisions out, the same as the server's."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from checking import MemoryRecorder, NoKeys
from commanding import ANSWER_KEYS, as_lines, line_of, resources, run_policy
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from google.protobuf.json_format import MessageToDict, ParseDict

from authz.commands.options import read_mesh
from authz.evaluate_state import load_evaluation
from authz.grpc_server import SERVICE, GrpcServer
from authz.metrics import Metrics
from authz.pipeline import Authorizer
from authz.walk import Surroundings

CASES = yaml.safe_load((Path(__file__).parent / "policy_eval.yaml").read_text())
GOOD = as_lines(line_of({}))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_case(case: dict[str, Any], folder: Path) -> None:
    """Each line of the case's requests is answered as the case says."""
    (folder / "policies.yaml").write_text(resources(case["policies"]))
    (folder / "mesh.yaml").write_text(case.get("mesh", "{}"))
    for name, module in case.get("rego", {}).items():
        (folder / name).write_text(module)
    (folder / "in.jsonl").write_bytes(as_lines(*map(line_of, case["requests"])))

    result = run_policy(
        "eval", "--policies", "policies.yaml", "--mesh", "mesh.yaml", *case.get("args", ()),
        "--requests", "in.jsonl",
    )  # fmt: skip

    assert 0 == result.exit_code, result.output
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    wanted = [short["expect"] for short in case["requests"]]
    got = [
        {key: answer[key] for key in expect} for answer, expect in zip(answers, wanted, strict=True)
    ]
    assert wanted == got
    assert all(ANSWER_KEYS == tuple(answer)[: len(ANSWER_KEYS)] for answer in answers)
    assert case.get("says", "") in result.stderr


def test_same_answers_as_the_server(folder: Path) -> None:
    """A gRPC server and `policy eval` agree on every request of every case without flags."""
    compared = 0
    for case in CASES:
        if "args" in case:
            continue
        (folder / "policies.yaml").write_text(resources(case["policies"]))
        (folder / "mesh.yaml").write_text(case.get("mesh", "{}"))
        documents = [line_of(short) for short in case["requests"]]
        for document in documents:
            # The server is told of the workload; only the command line may guess it.
            if not document["attributes"]["destination"]["principal"]:
                document["attributes"]["contextExtensions"]["meshwarden.namespace"] = "shop"
        result = run_policy(
            "eval", "--policies", "policies.yaml", "--mesh", "mesh.yaml", "--requests", "-",
            stdin=as_lines(*documents),
        )  # fmt: skip
        said = [json.loads(line) for line in result.stdout.splitlines()]

        served = ask_server(folder, documents)

        assert said_briefly(said) == served
        compared += len(served)
    assert compared > 20


def ask_server(folder: Path, documents: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Return what a real server answers to the documents over gRPC."""
    mesh = read_mesh(folder / "mesh.yaml")
    state = load_evaluation([folder / "policies.yaml"], mesh, {})
    recorder = MemoryRecorder()
    authorizer = Authorizer(
        state=lambda: state,
        around=Surroundings(keys=NoKeys()),
        recorder=recorder,
        metrics=Metrics(),
    )
    server = GrpcServer("127.0.0.1:0", 1, authorizer.check)
    try:
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            check = channel.unary_unary(f"/{SERVICE}/Check")
            answers = [
                CheckResponse.FromString(
                    check(ParseDict(document, CheckRequest()).SerializeToString())
                )
                for document in documents
            ]
    finally:
        server.stop(0)
    found = []
    for answer, record in zip(answers, recorder.records, strict=True):
        metadata = MessageToDict(answer.dynamic_metadata)
        found.append(
            (
                "allow" if answer.status.code == 0 else "deny",
                metadata["effect"],
                metadata["reason"],
                metadata.get("policy", ""),
                sorted(metadata.get("shadow", {})),
                answer.denied_response.status.code or record.decision.http_status,
            )
        )
    return found


def said_briefly(answers: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Return the answers in the shape of `ask_server`."""
    return [
        (
            answer["decision"],
            answer["decision"],
            answer["reason"],
            (answer["policy"] or "") + (f"#{answer['rule']}" if answer["rule"] is not None else ""),
            sorted(each["policy"] for each in answer["shadow"]),
            answer["status"],
        )
        for answer in answers
    ]


def test_several_paths_after_one_option(folder: Path) -> None:
    """`--policies A B` and `--policies A --policies B` are the same."""
    (folder / "a.yaml").write_text(resources([{"name": "open", "spec": {"rules": [{}]}}]))
    deny = {"name": "shut", "spec": {"action": "DENY", "rules": [{}]}}
    (folder / "b").mkdir()
    (folder / "b" / "b.yaml").write_text(resources([deny]))

    row = run_policy("eval", "--policies", "a.yaml", "b", "--requests", "-", stdin=GOOD)
    apart = run_policy(
        "eval", "--policies", "a.yaml", "--requests", "-", "--policies=b", stdin=GOOD
    )

    assert row.stdout == apart.stdout
    assert "shop/shut" == json.loads(row.stdout)["policy"]


@pytest.mark.usefixtures("nameless")
def test_a_configuration_gives_everything(folder: Path, repository: Path) -> None:
    """With `-c` the policies, the Rego, the mesh, the workload and the peers are the server's."""
    rego = {"paths": [str(repository / "examples/rego")], "entrypoint": "envoy/authz/result"}
    mapping = {"trustDomains": ["other.test"], "path": "/team/{namespace}/app/{serviceAccount}"}
    config = {
        "mesh": {"trustDomain": "demo.meshwarden.test"},
        "policies": {"paths": [str(repository / "examples/policies")]},
        "workload": {"namespace": "shop", "labels": {"app": "orders"}},
        "providers": [{"name": "orders-rego", "rego": rego}],
        "identity": {"mappings": [mapping]},
    }
    (folder / "meshwarden.yaml").write_text(json.dumps(config))
    refund = {"http": {"method": "POST", "path": "/orders/refund?amount=5"}}
    export = {"http": {"path": "/export/x"}, "peer": "spiffe://other.test/team/jobs/app/x"}

    result = run_policy(
        "eval", "-c", "meshwarden.yaml", "--requests", "-",
        stdin=as_lines(line_of(refund), line_of(export)),
    )  # fmt: skip
    elsewhere = run_policy(
        "eval", "-c", "meshwarden.yaml", "--workload", "store", "--requests", "-",
        stdin=as_lines(line_of(export)),
    )  # fmt: skip

    assert 0 == result.exit_code, result.output
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert ["shop/refunds", "shop/batch-jobs"] == [each["policy"] for each in answers]
    assert ["deny", "allow"] == [each["decision"] for each in answers]
    assert "no_allow_policy" == json.loads(elsewhere.stdout)["reason"]


def test_nobody_named_is_said(folder: Path) -> None:
    """When the only namespace stands in for a name that is missing, standard error says so."""
    (folder / "p.yaml").write_text(resources([{"name": "open", "spec": {"rules": [{}]}}]))

    told = run_policy("eval", "--policies", "p.yaml", "--requests", "-", stdin=GOOD)
    quiet = run_policy("eval", "-q", "--policies", "p.yaml", "--requests", "-", stdin=GOOD)

    assert "note: 1 request without a workload" in told.stderr
    assert "" == quiet.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--policies", "none.yaml", "--requests", "-"), "none.yaml: error: cannot be read"),
        (("--policies", "bad.yaml", "--requests", "-"), "bad.yaml:1:1"),
        (("--policies", "p.yaml", "--requests", "none"), "No such file"),
        (("--policies", "p.yaml", "--requests", "."), "Is a directory"),
        (("--policies", "p.yaml", "--mesh", "none", "--requests", "-"), "does not exist"),
        (("--policies", "p.yaml", "--mesh", "bad.yaml", "--requests", "-"), "bad.yaml:"),
        (("--policies", "p.yaml", "--rego", "none.rego", "--requests", "-"), "none.rego: error"),
        (("--policies", "p.yaml", "--rego", "a=", "--requests", "-"), "names no path"),
        (("--policies", "p.yaml", "--workload", "/a=b", "--requests", "-"), "namespace is missing"),
        (("--policies", "p.yaml", "--workload", "a/b", "--requests", "-"), "`key=value`"),
        (("--policies", "p.yaml", "--service", "a", "--requests", "-"), "is not of the form"),
        (("--requests", "-"), "--policies"),
        (("--policies", "p.yaml"), "--requests"),
    ],
)
def test_what_cannot_be_used(arguments: tuple[str, ...], message: str, folder: Path) -> None:
    """A wrong command line or file ends with exit code 2, a reason, and no answer."""
    (folder / "p.yaml").write_text(resources([{"name": "open", "spec": {"rules": [{}]}}]))
    (folder / "bad.yaml").write_text("- 1\n")

    result = run_policy("eval", *arguments, stdin=GOOD)

    assert (2, "") == (result.exit_code, result.stdout)
    assert message in result.stderr


def test_answers_come_at_once_and_a_closed_pipe_is_no_fault(folder: Path, repository: Path) -> None:
    """A line is answered before the next is written; a reader that leaves ends it quietly."""
    policies = folder / "p.yaml"
    policies.write_text(resources([{"name": "shut", "spec": {}}]))
    command = [
        sys.executable, "-m", "authz.cli", "policy", "eval", "-q", "--policies", str(policies),
        "--requests", "-",
    ]  # fmt: skip
    with subprocess.Popen(
        command, cwd=repository, env=os.environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(GOOD)
        process.stdin.flush()
        first = json.loads(process.stdout.readline())
        process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(GOOD * 2)
            process.stdin.close()
        said = process.stderr.read()

    assert "deny" == first["decision"]
    assert b"" == said


@pytest.mark.usefixtures("nameless")
def test_the_example_works(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of `--help` and README.md gives an answer to each of its requests."""
    monkeypatch.chdir(repository)
    result = run_policy(
        "eval", "--policies", "examples/policies", "--rego", "examples/rego",
        "--requests", "examples/requests.jsonl",
    )  # fmt: skip

    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert 0 == result.exit_code
    assert ["allow", "deny", "allow", "allow", "deny", "deny", "allow"] == [
        answer["decision"] for answer in answers
    ]
    assert "custom_denied" == answers[4]["reason"]
    assert [{"policy": "shop/retire-legacy", "rule": 0, "would": "deny"}] == answers[3]["shadow"]
