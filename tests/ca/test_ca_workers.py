"""Signing workers behind one port: what each of them signs is on one record, whatever dies."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import pytest
import yaml
from click.testing import CliRunner
from cryptography import x509
from issuing import make_csr
from jwt.algorithms import ECAlgorithm
from signing_clients import CART, ISSUER, KEY, PAY, SigningCa, token_of

from audit.verify import verify_folder
from authz.cli import main
from tests.loopback import free_port
from tests.waiting import until

WORKERS = 2


class Served:
    """A running `meshwarden ca serve --workers 2`, and its clients."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.http_port = folder, free_port()
        jwk = ECAlgorithm.to_jwk(KEY.public_key(), as_dict=True) | {"kid": "one", "alg": "ES256"}
        (folder / "jwks.json").write_text(json.dumps({"keys": [jwk]}))
        cluster = {"name": "main", "issuer": ISSUER, "audiences": ["istio-ca"]}
        settings = {
            "stateFolder": "state",
            "trustDomain": "example.org",
            "rotationWaitSeconds": 0,
            "clusters": [cluster | {"jwksFile": "jwks.json"}],
            "signing": {"istioListen": "127.0.0.1:0", "restListen": "127.0.0.1:0"},
            "httpListen": f"127.0.0.1:{self.http_port}",
        }
        (folder / "ca.yaml").write_text(yaml.safe_dump(settings))
        command = [sys.executable, "-m", "authz", "ca", "serve", "-c", str(folder / "ca.yaml")]
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen([*command, "--workers", str(WORKERS)], stderr=log)
        self.wait_for(lambda: "ca_ready" in self.log())
        words = ("--spiffe-id", "spiffe://example.org/ns/{ns}/sa/{sa}")
        self.command("entries", "add", *words, "--selector", "k8s:cluster:main")

    def log(self) -> str:
        """What the processes said."""
        return (self.folder / "log").read_text()

    def port(self, event: str) -> int:
        """The port that a line of the log names."""
        found = re.search(rf"{event}.*?port=(\d+)", self.log())
        assert found is not None, self.log()[-3000:]
        return int(found[1])

    def command(self, *words: str) -> str:
        """Run a command line on the configuration."""
        found = CliRunner().invoke(main, ["ca", *words, "-c", str(self.folder / "ca.yaml")])
        assert found.exit_code == 0, found.output
        return found.stdout

    def client(self) -> SigningCa:
        """What speaks to the endpoints, with the roots of this moment."""
        return SigningCa(
            command=self.command,
            roots=self.command("bundle", "export").encode(),
            istio_port=self.port("istio_signing_ready"),
            rest_port=self.port("rest_signing_ready"),
            folder=self.folder,
        )

    def children(self) -> list[int]:
        """The ids of the worker processes."""
        pid = self.process.pid
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return [int(n) for task in tasks for n in (task / "children").read_text().split()]

    def sign_many(self, count: int) -> list[x509.Certificate]:
        """Have certificates signed over connections of their own, eight at a time."""
        client, token = self.client(), token_of()

        def one(_number: int) -> x509.Certificate:
            return x509.load_pem_x509_certificate(client.create(token, make_csr(CART))[0].encode())

        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(one, range(count)))

    def wait_for(self, holds: Callable[[], object]) -> None:
        """Wait until something holds, as long as a busy machine may need."""
        until(holds, told=lambda: self.log()[-3000:])

    def recorded(self) -> set[int]:
        """The serials on the audit chain."""
        lines = [
            json.loads(line)
            for path in sorted((self.folder / "state/audit").glob("audit-*.jsonl"))
            for line in path.read_text().splitlines()
        ]
        issued = [line["details"] for line in lines if line.get("event") == "svid_issued"]
        return {int(each["serial"], 16) for each in issued if each["kind"] == "x509"}


def _is_running(pid: int) -> bool:
    """Whether a process runs; one that has ended may wait for its new parent."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One CA with two workers for all, drained in the end."""
    running = Served(tmp_path_factory.mktemp("workers"))
    try:
        yield running
    finally:
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(30) == 0, running.log()[-3000:]


def test_every_certificate_is_on_the_one_record(served: Served):
    """What both workers signed is in the ledger and on the one chain, each with its own serial."""
    assert len(served.children()) == WORKERS
    serials = [each.serial_number for each in served.sign_many(40)]
    assert len(set(serials)) == 40
    assert set(serials) <= served.recorded()
    rows = json.loads(served.command("list", "--json", "--limit", "1000"))
    assert set(serials) <= {int(row["serial"], 16) for row in rows}


def test_a_worker_refuses_as_the_ca_does(served: Served):
    """A worker's refusals have their status for the caller, and their reason on the chain."""
    client = served.client()
    cases = [
        (token_of(), PAY, "PERMISSION_DENIED", "id_not_allowed"),
        (token_of(exp=1), CART, "UNAUTHENTICATED", "token_expired"),
        (None, CART, "UNAUTHENTICATED", "caller_unknown"),
    ]
    for token, asked, code, reason in cases:
        with pytest.raises(grpc.RpcError) as caught:
            client.create(token, make_csr(asked))
        assert caught.value.code().name == code
        assert client.refused()[-1] == reason


def test_a_denied_id_is_denied_by_every_worker(served: Served):
    """From the moment that `revoke` answers, no worker gives the ID out; lifted, all do again."""
    served.command("revoke", "--kind", "id", PAY)
    client = served.client()
    for _ in range(8):
        with pytest.raises(grpc.RpcError) as caught:
            client.create(token_of("pay"), make_csr(PAY))
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    served.command("revoke", "--lift", "--kind", "id", PAY)
    assert client.create(token_of("pay"), make_csr(PAY))


def test_what_workers_count_is_added_up(served: Served):
    """The metrics of the CA count what its workers issued."""

    def issued() -> float:
        text = httpx.get(f"http://127.0.0.1:{served.http_port}/metrics").text
        found = re.search(r'meshwarden_ca_issued_total\{kind="x509"\} (\S+)', text)
        return float(found[1]) if found else 0

    before = issued()
    served.sign_many(10)
    served.wait_for(lambda: issued() >= before + 10)


def test_a_rotation_reaches_every_worker(served: Served):
    """After `activate` every worker signs with the new authority, and is trusted under it."""
    served.command("rotate", "prepare")
    served.command("rotate", "activate", "--force")
    issuers = {each.issuer for each in served.sign_many(16)}
    status = json.loads(served.command("status", "--json"))
    assert len(issuers) == 1, status


@pytest.mark.failure("ca-worker-killed")
def test_a_killed_worker_loses_nothing(served: Served):
    """`kill -9` under load: what clients hold is recorded, and another worker comes."""
    [victim, other] = served.children()
    held: list[int] = []
    stop = threading.Event()
    client, token = served.client(), token_of()

    def hold() -> None:
        while not stop.is_set():
            try:
                pem = client.create(token, make_csr(CART))[0].encode()
            except grpc.RpcError:
                continue
            held.append(x509.load_pem_x509_certificate(pem).serial_number)

    with ThreadPoolExecutor(4) as pool:
        holding = [pool.submit(hold) for _ in range(4)]
        served.wait_for(lambda: len(held) > 20)
        subprocess.run(["kill", "-9", str(victim)], check=True)
        served.wait_for(
            lambda: len(served.children()) == WORKERS and victim not in served.children()
        )
        count = len(held)
        served.wait_for(lambda: len(held) > count + 20)
        stop.set()
        [each.result() for each in holding]
    assert other in served.children()
    assert len(set(held)) == len(held)
    assert set(held) <= served.recorded()
    report = verify_folder(served.folder / "state/audit")
    assert report.intact, report.problems


def test_workers_end_with_their_ca(tmp_path: Path):
    """Of a CA that is killed no worker stays, and the next one has the port and the record."""
    running = Served(tmp_path)
    children = running.children()
    [held] = running.sign_many(1)
    running.process.kill()
    running.process.wait()
    running.wait_for(lambda: not any(map(_is_running, children)))
    assert held.serial_number in running.recorded()
    assert verify_folder(tmp_path / "state/audit").intact
