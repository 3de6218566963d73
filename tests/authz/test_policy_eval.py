"""`policy eval`: lines in, decisions out, the same as the server's."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
import yaml
from checking import MemoryRecorder, NoKeys
from commanding import resources, run_policy
from cryptography.hazmat.primitives.asymmetric import ec
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from google.protobuf.json_format import MessageToDict, ParseDict
from hypothesis import given, settings
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm

from authz.evaluate import Evaluator, MalformedLineError, read_lines
from authz.evaluate_state import load_evaluation
from authz.grpc_server import SERVICE, GrpcServer
from authz.metrics import Metrics
from authz.pipeline import Authorizer
from authz.serving_state import ServingState
from authz.walk import Surroundings
from policies.mesh import Mesh

CASES = yaml.safe_load(Path(__file__).with_suffix(".yaml").with_stem("policy_eval").read_text())
KEYS = ("decision", "status", "policy", "rule", "reason", "shadow", "audited")
ISSUER = "https://issuer.test"
NOON = 1_767_960_000  # 2026-01-09T12:00:00Z


def line_of(short: dict[str, Any]) -> dict[str, Any]:
    """Return the CheckRequest that a short form stands for, as protobuf JSON."""
    source: dict[str, Any] = {"address": {"socketAddress": {"address": "10.0.0.1"}}}
    destination: dict[str, Any] = {
        "address": {"socketAddress": {"address": "10.0.0.2", "portValue": short.get("port", 8080)}},
        "principal": short.get("to", ""),
        "labels": short.get("labels", {}),
    }
    source["principal"] = short.get("peer", "")
    attributes: dict[str, Any] = {
        "source": source,
        "destination": destination,
        "contextExtensions": short.get("extensions", {}),
        "metadataContext": {"filterMetadata": short.get("metadata", {})},
    }
    if "sni" in short:
        attributes["tlsSession"] = {"sni": short["sni"]}
    if not short.get("tcp"):
        http = {"method": "GET", "path": "/", "host": "shop.test", **short.get("http", {})}
        headers = [
            {"key": name, "rawValue": base64.b64encode(value.encode()).decode()}
            for name, value in short.get("headers", [])
        ]
        attributes["request"] = {"http": {**http, "headerMap": {"headers": headers}}}
    return {"attributes": attributes}


def as_lines(*documents: dict[str, Any]) -> bytes:
    """Return documents as JSON lines."""
    return b"".join(json.dumps(each).encode() + b"\n" for each in documents)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own to stand in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


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
    assert all(KEYS == tuple(answer)[: len(KEYS)] for answer in answers)
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
    from authz.commands.options import read_mesh

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


# -- tokens -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def key() -> ec.EllipticCurvePrivateKey:
    """The issuer's key."""
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture(scope="module")
def jwks(key: ec.EllipticCurvePrivateKey) -> str:
    """The issuer's key set."""
    public = ECAlgorithm.to_jwk(key.public_key(), as_dict=True) | {"kid": "k", "alg": "ES256"}
    return json.dumps({"keys": [public]})


def token_lines(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return one token, valid around noon, before, within and after its time, and none at all."""
    claims = {"iss": ISSUER, "sub": "alice", "nbf": NOON - 600, "exp": NOON + 600}
    token = jwt.encode(claims, key, "ES256", headers={"kid": "k"})
    document = line_of({"http": {"headers": {"authorization": f"Bearer {token}"}}})
    del document["attributes"]["request"]["http"]["headerMap"]
    times = ("2026-01-09T11:00:00Z", "2026-01-09T13:00:00.5+01:00", "2026-01-09T13:00:00Z")
    return as_lines(*({"at": at, **document} for at in times), line_of({}))


def token_policies(rule: dict[str, Any]) -> str:
    """Return a RequestAuthentication with the rule, and an ALLOW for its subjects."""
    subjects = {"from": [{"source": {"requestPrincipals": [f"{ISSUER}/*"]}}]}
    return resources(
        [
            {"kind": "RequestAuthentication", "name": "idp",
             "spec": {"jwtRules": [{"issuer": ISSUER, **rule}]}},
            {"name": "people", "spec": {"rules": [subjects]}},
        ]
    )  # fmt: skip


TOKEN_ANSWERS = [
    (401, "token_invalid"),
    (200, "allow_rule_matched"),
    (401, "token_invalid"),
    (403, "no_allow_rule_matched"),
]


def test_a_token_is_judged_by_the_lines_clock(
    folder: Path, key: ec.EllipticCurvePrivateKey, jwks: str
) -> None:
    """Inline keys need no network, and `at` decides whether a token is early, good or late."""
    (folder / "p.yaml").write_text(token_policies({"jwks": jwks}))

    result = run_policy("eval", "--policies", "p.yaml", "--requests", "-", stdin=token_lines(key))

    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert TOKEN_ANSWERS == [(answer["status"], answer["reason"]) for answer in answers]
    assert ["shop/idp", "shop/people"] == [answer["policy"] for answer in answers[:2]]


@pytest.fixture
def issuer(jwks: str) -> Iterator[str]:
    """The URL of a key set that a real server publishes."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(jwks.encode())

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/keys"
    server.shutdown()
    thread.join()
    server.server_close()


def test_keys_come_over_http(folder: Path, key: ec.EllipticCurvePrivateKey, issuer: str) -> None:
    """A `jwksUri` is fetched before the first line is answered, on loopback too."""
    (folder / "p.yaml").write_text(token_policies({"jwksUri": issuer}))

    result = run_policy("eval", "--policies", "p.yaml", "--requests", "-", stdin=token_lines(key))

    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert TOKEN_ANSWERS == [(answer["status"], answer["reason"]) for answer in answers]


def test_keys_that_are_not_to_be_had_are_told(
    folder: Path, key: ec.EllipticCurvePrivateKey
) -> None:
    """Without keys every token is refused, and standard error says why."""
    (folder / "p.yaml").write_text(token_policies({"jwksUri": "http://127.0.0.1:1/keys"}))

    result = run_policy("eval", "--policies", "p.yaml", "--requests", "-", stdin=token_lines(key))

    statuses = [json.loads(line)["status"] for line in result.stdout.splitlines()]
    assert [401, 401, 401, 403] == statuses
    assert "no keys from http://127.0.0.1:1/keys" in result.stderr


# -- hostile lines ------------------------------------------------------------------------------

GOOD = as_lines(line_of({}))
MALFORMED = {
    "no JSON": (b"nope", "not JSON"),
    "half a line": (b'{"attributes": {', "not JSON"),
    "a list": (b"[]", "not a JSON object"),
    "a number": (b"5", "not a JSON object"),
    "invalid UTF-8": (b'{"attributes": "\xff"}', "not UTF-8"),
    "deep lists": (b"[" * 100_000, "nested too deep"),
    "deep objects": (b'{"a":' * 100_000, "nested too deep"),
    "deep metadata": (
        as_lines({"attributes": {"metadataContext": {"filterMetadata": {"a": {}}}}})
        .replace(b"{}", b'{"a":' * 150 + b"1" + b"}" * 150)
        .strip(),
        "not a CheckRequest",
    ),
    "twice the same key": (b'{"attributes": {}, "attributes": {}}', "stands twice"),
    "no number": (b'{"attributes": NaN}', "is no number"),
    "a number of 5,000 digits": (
        b'{"attributes": {"request": {"http": {"size": ' + b"9" * 5000 + b"}}}}", "not JSON"
    ),
    "an unknown field": (b'{"attributes": {"sauce": {}}}', '"sauce"'),
    "an unknown field beside": (b'{"attributes": {}, "nope": 1}', '"nope"'),
    "attributes that are a number": (b'{"attributes": 3}', "`attributes`"),
    "a header that is a number": (
        b'{"attributes": {"request": {"http": {"headers": {"a": 1}}}}}',
        "`attributes.request.http.headers`",
    ),
    "half a surrogate pair": (
        b'{"attributes": {"request": {"http": {"method": "\\ud800"}}}}',
        "`attributes.request.http.method`",
    ),
    "bytes that are not base64": (
        b'{"attributes": {"request": {"http": {"rawBody": "!!"}}}}', "`rawBody` is not base64"
    ),
    "a port beyond all ports": (
        b'{"attributes": {"source": {"address": {"socketAddress": {"portValue": 4294967296}}}}}',
        "out of range",
    ),
    "a clock that is a number": (b'{"at": 5}', "`at` is not an RFC 3339 time"),
    "a clock without a zone": (b'{"at": "2026-01-09T12:00:00"}', "`at` is not an RFC 3339 time"),
    "a clock of another calendar": (b'{"at": "2026-02-30T12:00:00Z"}', "`at` is no time"),
    "a request that asks nothing": (b'{"attributes": {}}', ""),
    "nothing at all": (b"{}", ""),
}  # fmt: skip


@pytest.mark.parametrize(("line", "why"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_line_is_a_denial_in_its_place(line: bytes, why: str, folder: Path) -> None:
    """What is no request is denied on its own line, told with its number, and the rest goes on."""
    (folder / "p.yaml").write_text(resources([{"name": "open", "spec": {"rules": [{}]}}]))
    stdin = GOOD + line + b"\n\n" + GOOD

    result = run_policy("eval", "--policies", "p.yaml", "--requests", "-", stdin=stdin)

    answers = [json.loads(text) for text in result.stdout.splitlines()]
    assert ["allow", "deny", "allow"] == [answer["decision"] for answer in answers]
    assert (400, "request_malformed", None) == tuple(
        answers[1][key] for key in ("status", "reason", "policy")
    )
    assert KEYS == tuple(answers[1])[: len(KEYS)]
    assert "Traceback" not in result.output
    if why:
        assert why in answers[1]["detail"]
        assert f"<stdin>:2: error: {answers[1]['detail']}" in result.stderr
    assert (1 if why else 0) == result.exit_code


def test_a_line_that_is_too_long_is_passed_over(tmp_path: Path) -> None:
    """Of a line beyond the limit only its number is kept; the next one counts."""
    path = tmp_path / "lines"
    path.write_bytes(b"\xef\xbb\xbf{}\n" + b"x" * 1000 + b"\nshort\n\n" + b"y" * 30)

    with path.open("rb") as stream:
        assert [(1, b"{}\n"), (2, None), (3, b"short\n"), (5, None)] == list(read_lines(stream, 10))


def open_state() -> ServingState:
    """Return a state that allows everything there is to ask."""
    folder = Path(__file__).resolve().parents[2] / "examples" / "policies"
    return load_evaluation([folder], Mesh(), {})


STATE = open_state()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(
            ("attributes", "at", "source", "request", "http", "headers", "principal", "time",
             "headerMap", "rawValue", "key", "metadataContext", "filterMetadata", "path")
        )
        | st.text(max_size=4),
        inner,
        max_size=4,
    ),
    max_leaves=20,
)  # fmt: skip


@given(st.binary(max_size=100) | JSON.map(lambda value: json.dumps(value).encode()))
@settings(max_examples=300, deadline=None)
def test_any_line(line: bytes) -> None:
    """Whatever a line holds, it is answered or refused with a reason on one line."""
    evaluator = Evaluator(STATE, Surroundings(keys=NoKeys()), "shop")

    try:
        answer = evaluator.answer(line)
    except MalformedLineError as exc:
        assert str(exc)
        assert "\n" not in str(exc)
    else:
        assert answer["decision"] in ("allow", "deny")
        assert "internal_error" != answer["reason"]
        json.dumps(answer, allow_nan=False)


# -- the command line ---------------------------------------------------------------------------


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


def test_answers_come_at_once_and_a_closed_pipe_is_no_fault(repository: Path) -> None:
    """A line is answered before the next is written; a reader that leaves ends it quietly."""
    command = [sys.executable, "-m", "authz.cli", "policy", "eval", "-q", "--policies",
               "examples/policies", "--workload", "shop/app=orders", "--requests", "-"]  # fmt: skip
    with subprocess.Popen(
        command, cwd=repository, env=os.environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(GOOD)
        process.stdin.flush()
        first = json.loads(process.stdout.readline())
        process.stdout.close()
        try:
            process.stdin.write(GOOD * 2)
            process.stdin.close()
        except BrokenPipeError:
            pass
        assert process.stderr is not None
        said = process.stderr.read()

    assert "deny" == first["decision"]
    assert b"Traceback" not in said


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
