"""Callers that ask too much, and callers that ask twice since their answer was lost."""

from __future__ import annotations

import json
import os
import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from issuing import CART, CART_CALLER, make_csr, open_ca, request_of
from signing_clients import PAY, signing_ca, token_of
from spiffe._proto import workload_pb2
from spiffe._proto.workload_pb2_grpc import SpiffeWorkloadAPIStub

from ca import limits
from ca.caller import Caller, Method
from ca.errors import IssueRefusedError, StoreError
from ca.issuance import Issuance
from ca.issued import IssuedSvid
from ca.limits import CallerLimit, RefusalLines
from ca.refusal import Refusal
from ca.repeats import Repeats
from identity.spiffe_id import SpiffeId

HEADER = (("workload.spiffe.io", "true"),)


class Seconds:
    """A monotonic clock that the test moves."""

    def __init__(self) -> None:
        """Start somewhere."""
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the moment."""
        return self.now


@pytest.fixture
def seconds():
    """A clock that stands still."""
    return Seconds()


def _caller(method=Method.UNIX, **evidence):
    return Caller(method=method, evidence=evidence)


class TestCallerLimit:
    """The bucket of tokens."""

    def test_a_burst_and_then_the_rate(self, seconds):
        """A caller has its burst at once and its rate for ever, whatever others do."""
        limit, one, other = CallerLimit(2, 5, seconds), _caller(uid="1"), _caller(uid="2")
        assert [limit.admits(one) for _ in range(7)] == [True] * 5 + [False] * 2
        assert limit.admits(other)
        seconds.now += 1
        assert [limit.admits(one) for _ in range(3)] == [True, True, False]
        seconds.now += 1000
        assert [limit.admits(one) for _ in range(6)] == [True] * 5 + [False]

    def test_who_is_told_apart(self, seconds):
        """Proven names tell callers apart, what changes with each request does not."""
        limit = CallerLimit(1, 1, seconds)
        pods = [_caller(Method.K8S_SERVICE_ACCOUNT, subject="a", pod_uid=uid) for uid in "xy"]
        assert [limit.admits(pod) for pod in pods] == [True, True]
        assert limit.admits(_caller(uid="1", pid="7", path="/a"))
        assert not limit.admits(_caller(uid="1", pid="8", path="/b"))
        assert limit.admits(_caller(Method.X509_SVID, spiffe_id=CART, serial="1"))
        assert not limit.admits(_caller(Method.X509_SVID, spiffe_id=CART, serial="2"))

    def test_the_operator_and_no_limit(self, seconds):
        """Whom the configuration vouches for is not counted, and a rate of 0 counts nobody."""
        limit = CallerLimit(1, 1, seconds)
        for method in (Method.OPERATOR, Method.SOCKET):
            assert all(limit.admits(_caller(method)) for _ in range(5))
        unlimited = CallerLimit(0, 1, seconds)
        assert all(unlimited.admits(_caller(uid="1")) for _ in range(5))

    def test_memory_is_bounded(self, seconds, monkeypatch):
        """Of more callers than can be told apart, who was silent longest is forgotten."""
        monkeypatch.setattr(limits, "_MAX_CALLERS", 3)
        limit = CallerLimit(0.001, 1, seconds)
        for uid in "1234":
            assert limit.admits(_caller(uid=uid))
        assert len(limit._buckets) == 3
        assert not limit.admits(_caller(uid="4"))


@given(
    asked=st.lists(
        st.tuples(st.sampled_from("abcdef"), st.sampled_from([Refusal.LIFETIME, Refusal.DENIED]))
    ),
    ends=st.lists(st.integers(0, 50)),
)
def test_no_refusal_is_lost(asked, ends):
    """Lines and counts together are all that was refused, each under its reason."""
    seconds = Seconds()
    lines, total = RefusalLines(2, seconds), {Refusal.LIFETIME: 0, Refusal.DENIED: 0}
    for at, (uid, reason) in enumerate(asked):
        total[reason] += lines.admits(_caller(uid=uid), reason)
        if at in ends:
            seconds.now += 60
            for held in lines.take_due():
                total[held.reason] += held.count
    for held in lines.take_due(is_end=True):
        total[held.reason] += held.count
    assert total == {reason: [r for _, r in asked].count(reason) for reason in total}
    assert lines.take_due(is_end=True) == ()


def test_refused_callers_are_bounded(seconds, monkeypatch):
    """Where more callers are refused at a time than are counted apart, the rest are one."""
    monkeypatch.setattr(limits, "_MAX_REFUSED", 2)
    lines = RefusalLines(1, seconds)
    assert [lines.admits(_caller(address=str(n)), Refusal.DENIED) for n in range(6)] == [
        True,
        True,
        True,
        False,
        False,
        False,
    ]
    [held] = lines.take_due(is_end=True)
    assert (held.count, held.caller.evidence) == (3, {"callers": "many"})


def _limited(ca, **changes) -> Issuance:
    """The issuance of a CA with limits."""
    return Issuance(replace(ca.issuance._parts, **changes))


def test_a_hostile_caller_fills_no_disk(authority, clock, tmp_path, seconds):
    """Five thousand refusals of one caller are 61 lines that add up, and the chain is whole."""
    with open_ca(tmp_path, authority, clock) as ca:
        ca.add()
        refused: list[Refusal] = []
        issuance = _limited(
            ca,
            limit=CallerLimit(1, 10, seconds),
            refusal_lines=RefusalLines(60, seconds),
            count_refused=refused.append,
        )
        request, issued = request_of(CART), []
        for _ in range(5010):
            try:
                issued.append(issuance.sign(request, CART_CALLER))
            except IssueRefusedError as exc:
                assert exc.reason is Refusal.RATE_LIMITED
        other = replace(CART_CALLER, evidence={"subject": "system:serviceaccount:shop:other"})
        issued.append(issuance.sign(request_of(CART), other))
        seconds.now += 60
        issuance.record_held_back()
        issuance.record_held_back()
        ca.recorder.close()
        lines = ca.events("svid_refused")
        assert {line["reason"] for line in lines} == {"rate_limited"}
        assert len(lines) == 61
        assert sum(int(str(line.get("count", 1))) for line in lines) == 5000 == len(refused)
        assert lines[-1]["evidence"] == dict(CART_CALLER.evidence)
        assert (len(issued), len(ca.rows())) == (11, 11)
        assert ca.verified().intact


@pytest.fixture(scope="module")
def impatient(tmp_path_factory):
    """A CA that is short of patience."""
    limit = {"requestsPerSecond": 0.001, "burst": 2, "refusalsRecordedPerMinute": 3}
    with signing_ca(
        tmp_path_factory.mktemp("limits"), limits=limit, workloadApi={"socket": "api.sock"}
    ) as running:
        yield running


@pytest.fixture(scope="module")
def ca(tmp_path_factory):
    """A CA that signs over the network."""
    with signing_ca(tmp_path_factory.mktemp("repeats")) as running:
        yield running


class TestOverTheNetwork:
    """What clients are told, over real sockets."""

    def test_statuses(self, impatient):
        """REST answers 429, Istio's service RESOURCE_EXHAUSTED: to be tried again, later."""
        token = token_of("eager")
        for _ in range(2):
            assert impatient.post(token, {"csr": make_csr().decode()}).status_code == 200
        answer = impatient.post(token, {"csr": make_csr().decode()})
        assert (answer.status_code, answer.json()["error"]) == (429, "rate_limited")
        assert answer.headers["retry-after"] == "1"
        with pytest.raises(grpc.RpcError) as caught:
            impatient.create(token, make_csr())
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert impatient.post(token_of("patient"), {"csr": make_csr().decode()}).status_code == 200
        assert impatient.refused() == ["rate_limited"] * 2

    def test_the_workload_api(self, impatient):
        """A process that asks again and again is told UNAVAILABLE, which clients wait after."""
        impatient.command(
            "entries", "add", "--spiffe-id", PAY, "--selector", f"unix:uid:{os.getuid()}"
        )
        request = workload_pb2.JWTSVIDRequest(audience=["x"])
        with grpc.insecure_channel(f"unix:{impatient.folder}/api.sock") as channel:
            stub = SpiffeWorkloadAPIStub(channel)
            for _ in range(2):
                assert stub.FetchJWTSVID(request, metadata=HEADER).svids
            with pytest.raises(grpc.RpcError) as caught:
                stub.FetchJWTSVID(request, metadata=HEADER)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            stream = stub.FetchX509SVID(workload_pb2.X509SVIDRequest(), metadata=HEADER)
            with pytest.raises(grpc.RpcError) as caught:
                next(stream)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


class TestRepeats:
    """The same request twice."""

    def test_an_answer_that_was_lost(self, ca):
        """Who hangs up before the answer gets that certificate when it asks again."""
        token = ca.command("token", "--spiffe-id", "spiffe://example.org/node/lost").split()[0]
        body = b'{"csr": "%s"}' % make_csr().replace(b"\n", b"\\n")
        head = (
            f"POST /v1/sign HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        context = ssl.create_default_context(cadata=ca.roots.decode())
        with (
            socket.create_connection(("localhost", ca.rest_port)) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            connection.sendall(head.encode() + body)
            assert connection.recv(1)
        answer = ca.post(token, body)
        assert answer.status_code == 200, answer.text
        listed = ca.command("list", "--json", "--spiffe-id", "spiffe://example.org/node/lost")
        assert [row["serial"] for row in json.loads(listed)] == [answer.json()["serial"]]

    def test_many_at_once(self, ca):
        """The same request many times at once, over either transport, is one certificate each."""
        token, csr = token_of(), make_csr()
        with ThreadPoolExecutor(8) as pool:
            posted = list(pool.map(lambda _: ca.post(token, {"csr": csr.decode()}), range(8)))
            created = list(pool.map(lambda _: ca.create(token, csr)[0], range(8)))
        assert len({each.json()["serial"] for each in posted}) == 1
        assert len(set(created)) == 1

    def test_what_is_not_the_same(self, ca):
        """Another token, another wish, or entries that have changed: another certificate."""
        token, csr = token_of(), make_csr().decode()
        bodies = [{"csr": csr}, {"csr": csr, "lifetime_seconds": 600}]
        serials = [ca.post(token, body).json()["serial"] for body in bodies]
        serials.append(ca.post(token_of(jti="2"), bodies[0]).json()["serial"])
        ca.command("entries", "add", "--spiffe-id", PAY, "--selector", "unix:uid:77")
        serials.append(ca.post(token, bodies[0]).json()["serial"])
        assert len(set(serials)) == 4

    def test_failures_are_not_kept(self, ca):
        """A request that was refused is judged anew."""
        token, csr = token_of("late"), {"csr": make_csr("spiffe://example.org/late").decode()}
        assert ca.post(token, csr).status_code == 403
        words = ("--spiffe-id", "spiffe://example.org/late", "--selector", "k8s:sa:late")
        ca.command("entries", "add", *words)
        assert ca.post(token, csr).status_code == 200


class TestKeeping:
    """What is kept, and for how long."""

    def _answer(self) -> IssuedSvid:
        return IssuedSvid(spiffe_id=SpiffeId.parse(CART), chain=(), roots=())

    def test_for_a_while_and_under_one_state(self, seconds):
        """An answer is good for its time, and as long as nothing has changed."""
        state = [1]
        repeats = Repeats(10, lambda: state[0], monotonic=seconds)
        answer, is_mine = repeats.claim(b"a")
        assert is_mine
        answer.set_result(self._answer())
        assert repeats.claim(b"a") == (answer, False)
        assert repeats.claim(b"b")[1]
        state[0] = 2
        changed, is_mine = repeats.claim(b"a")
        assert is_mine
        # The first is late to fail: it does not take the second's place away.
        repeats.forget(b"a", repeats.claim(b"c")[0], StoreError("x"))
        assert repeats.claim(b"a") == (changed, False)
        seconds.now += 10
        assert repeats.claim(b"a")[1]

    def test_errors_reach_everyone_who_waits(self, seconds):
        """Who waits for the same request learns of its failure, the next one tries anew."""
        repeats = Repeats(10, lambda: 1, monotonic=seconds)
        answer, _ = repeats.claim(b"a")
        waiting, is_mine = repeats.claim(b"a")
        assert not is_mine
        told = threading.Event()
        waiting.add_done_callback(lambda _: told.set())
        assert not waiting.cancel()
        repeats.forget(b"a", answer, StoreError("the disk is full"))
        assert told.wait(5)
        with pytest.raises(StoreError, match="disk is full"):
            waiting.result()
        assert repeats.claim(b"a")[1]

    def test_never_and_not_too_many(self, seconds, monkeypatch):
        """A window of 0 keeps nothing, and no more is kept than memory was meant for."""
        never = Repeats(0, lambda: 1, monotonic=seconds)
        assert [never.claim(b"a")[1] for _ in range(2)] == [True, True]
        monkeypatch.setattr("ca.repeats._MAX_KEPT", 2)
        repeats = Repeats(10, lambda: 1, monotonic=seconds)
        for digest in (b"a", b"b", b"c"):
            repeats.claim(digest)
        assert len(repeats._kept) == 2
        assert repeats.claim(b"a")[1]
