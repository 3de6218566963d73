"""The line between a signing worker and the process that records for it."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from datetime import timedelta

import pytest
from issuing import CART, CART_CALLER, open_ca, request_of

from audit.record import AuditEvent, EventName
from ca.authority import AuthorityKeeper, AuthorityPlan
from ca.clock import utc_now
from ca.errors import DuplicateSerialError, StateError, StoreError
from ca.issuance import Issuance
from ca.keys import FileKeyStore
from ca.ledger import LedgerRow, row_to_values
from ca.recorder import Recording, StaleRegistryError
from ca.remote_recorder import RemoteRecorder
from ca.state import StateFolder
from ca.worker_authority import AuthorityCopy, authorities_message
from ca.worker_desk import WorkerDesk
from ca.worker_link import open_link
from ca.worker_wire import encode_recording, outcome, read_error, read_recording
from identity.spiffe_id import TrustDomain

DOMAIN = TrustDomain("example.org")
EVENT = AuditEvent(event=EventName.SVID_ISSUED, at=1.5, details={"serial": "ü", "evidence": {}})


@pytest.fixture
def keeper(tmp_path):
    """The authorities of a new state."""
    plan = AuthorityPlan(
        trust_domain=DOMAIN,
        root_lifetime=timedelta(days=30),
        intermediate_lifetime=timedelta(days=10),
    )
    with StateFolder(tmp_path / "state") as state:
        yield AuthorityKeeper(state, FileKeyStore(state.keys_folder), plan, utc_now)


def _row(serial: str) -> LedgerRow:
    now = utc_now().replace(microsecond=0)
    return LedgerRow(
        serial=serial,
        spiffe_id=CART,
        authority="aa",
        spki_sha256="bb",
        der_sha256="cc",
        der=bytes(range(256)),
        method="unix",
        node="one",
        issued_at=now,
        not_before=now,
        not_after=now,
        evidence={"subject": "ü\n"},
    )


@pytest.mark.parametrize("row", [None, row_to_values(_row("1"))])
def test_a_recording_arrives_as_it_was_sent(row):
    """Event, row and revision come back from the wire as they were, bytes and all."""
    sent = json.loads(json.dumps(encode_recording(7, Recording(event=EVENT, row=row, revision=3))))
    read = read_recording(sent)
    assert sent[0] == 7
    assert (read.event, read.revision) == (EVENT, 3)
    assert read.row == row


@pytest.mark.parametrize("error", [StaleRegistryError("a"), DuplicateSerialError("b")])
def test_an_error_keeps_its_kind(error):
    """What a recording ended with is the same error on the other side; unknown ones fail closed."""
    _, said = json.loads(json.dumps(outcome(1, error)))
    assert type(read_error(said)) is type(error)
    assert str(read_error(said)) == str(error)
    _, said = outcome(1, RuntimeError("secret"))
    assert type(read_error(said)) is StoreError
    assert "secret" not in str(read_error(said))


def test_a_worker_issues_on_the_record_of_another(tmp_path, keeper):
    """Certificates are signed here and recorded there; a cut line fails all that waits."""
    authority = keeper.current()

    async def work(ca) -> None:
        ours, theirs = socket.socketpair()
        desk = WorkerDesk(ours, ca.recorder, lambda message: None)
        ca.recorder.after_group += (desk.flush,)
        attending = threading.Thread(target=desk.attend)
        attending.start()

        def settle(message) -> None:
            remote.settle(message)

        def lose() -> None:
            remote.lose()

        link = await open_link(theirs, settle, lose)
        remote = RemoteRecorder(asyncio.get_running_loop(), link.send)
        parts = ca.issuance._parts
        worker = Issuance(
            type(parts)(
                authority=lambda: authority,
                registry=ca.registry,
                recorder=remote,
                policy=parts.policy,
                clock=parts.clock,
                node="worker",
            )
        )
        asked = [worker.sign_async(request_of(CART), CART_CALLER) for _ in range(20)]
        issued = await asyncio.gather(*asked)
        assert {each.serial for each in issued} == {row.serial for row in ca.rows(limit=100)}
        # Entries changed since: it is judged anew, and recorded.
        ca.add("spiffe://example.org/other", "k8s:sa:other", entry_id="other")
        again = await worker.sign_async(request_of(CART), CART_CALLER)
        assert ca.rows(serial=again.serial)
        ours.shutdown(socket.SHUT_RDWR)
        attending.join()
        with pytest.raises(StoreError):
            await worker.sign_async(request_of(CART), CART_CALLER)
        assert remote.health()
        ours.close()

    with open_ca(tmp_path, authority, utc_now) as ca:
        ca.add()
        asyncio.run(work(ca))
        assert ca.verified().intact


def test_two_threads_send_a_workers_answers(tmp_path, authority, clock):
    """What the recorder's thread and the attending one both find to send goes out once."""
    count, found = 20_000, []
    ours, theirs = socket.socketpair()
    with open_ca(tmp_path, authority, clock) as ca, ours, theirs:
        desk = WorkerDesk(ours, ca.recorder, lambda _: None)
        errors: list[BaseException] = []

        def flush() -> None:
            try:
                while len(found) < count:
                    desk.flush()
            except BaseException as exc:
                errors.append(exc)

        def read() -> None:
            for line in theirs.makefile("rb"):
                found.extend(number for number, _ in json.loads(line)["done"])

        threads = [threading.Thread(target=each) for each in (flush, flush, read)]
        for each in threads:
            each.start()
        for number in range(count):
            desk._done.append((number, None))
        for each in threads[:2]:
            each.join()
        ours.shutdown(socket.SHUT_RDWR)
        threads[2].join()
    assert (sorted(found), errors) == (list(range(count)), [])


def test_the_newest_authorities_count(keeper):
    """Of two messages the one that was made later counts, whichever comes first."""
    copy = AuthorityCopy(DOMAIN, utc_now)
    old = json.loads(json.dumps(authorities_message(keeper)))
    keeper.prepare()
    keeper.activate()
    new = json.loads(json.dumps(authorities_message(keeper)))
    copy.take(new)
    copy.take(old)
    assert copy.current().intermediate == keeper.current().intermediate
    assert copy.sequence() == keeper.sequence
    assert copy.bundle().x509_authorities == keeper.roots


def test_a_key_of_another_is_not_signed_with(keeper):
    """A key that is not the signing authority's is an error, not a signature."""
    old = authorities_message(keeper)
    keeper.prepare()
    keeper.activate()
    with pytest.raises(StateError):
        AuthorityCopy(DOMAIN, utc_now).take({**authorities_message(keeper), "key": old["key"]})
