"""What a stream holds while clocks jump and the ledger fails, and its own certificate's renewal."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from datetime import timedelta

import grpc
import h2.config
import h2.connection
import h2.settings
import pytest
from delivering import delivering_ca
from issuing import CART, CART_CALLER, open_ca
from spiffe._proto import workload_pb2
from spiffe._proto.workload_pb2_grpc import SpiffeWorkloadAPIStub
from structlog.testing import capture_logs

from ca.errors import CaError, StoreError
from ca.held_svids import HeldSvids, HoldingParts
from ca.own_identity import OwnIdentity, OwnIdentityParts
from identity.spiffe_id import SpiffeId
from tests.waiting import until

HOUR = timedelta(hours=1)


@pytest.fixture
def ca(tmp_path, authority, clock):
    """An issuing CA with one entry, for certificates of an hour."""
    with open_ca(tmp_path, authority, clock) as opened:
        opened.add()
        yield opened


@pytest.fixture
def ledger():
    """Whether the ledger answers, and how often a renewal was late."""
    return {"answers": True, "late": 0}


@pytest.fixture
def held(ca, authority, clock, ledger):
    """A stream's certificates, issued while the ledger answers."""

    def issue(spiffe_id, caller):
        if not ledger["answers"]:
            raise StoreError("the ledger is away")
        return ca.issuance.issue(spiffe_id, caller)

    def note_late() -> None:
        ledger["late"] += 1

    parts = HoldingParts(
        issue=issue,
        chain=lambda: authority.chain,
        clock=clock,
        random=lambda: 0.5,
        note_late=note_late,
    )
    return HeldSvids(parts)


@pytest.fixture
def update(ca, held, authority):
    """Bring what is held up to date; returns the serial numbers."""

    def _update():
        asyncio.run(held.update(CART_CALLER, ca.registry.state, authority.roots))
        return [each.svid.leaf.serial_number for each in held.svids]

    return _update


def test_renewed_half_way(held, update, clock):
    """Nothing is due until half the life is over; then there is a successor."""
    first = update()
    assert held.seconds_left() == pytest.approx(1800, abs=2)
    clock.now += HOUR / 4
    assert update() == first
    clock.now += HOUR / 4
    assert held.seconds_left() <= 0
    assert update() != first


def test_a_failing_ledger(held, update, clock, ledger):
    """While nothing can be recorded the old one serves to its end, and tries grow rarer."""
    first = update()
    ledger["answers"] = False
    clock.now += HOUR / 2
    pauses = []
    for _ in range(8):
        assert update() == first
        pauses.append(held.seconds_left())
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    assert ledger["late"] == 8
    clock.now += HOUR
    with pytest.raises(StoreError):
        update()
    assert held.svids == ()
    ledger["answers"] = True
    assert update() not in ([], first)


def test_a_clock_set_forward(held, update, clock):
    """A certificate that a jump of the clock has ended is gone at once, and a new one is due."""
    first = update()
    clock.now += timedelta(days=2)
    assert held.svids == ()
    assert held.seconds_left() <= 0
    assert update() not in ([], first)


def test_a_clock_set_back(held, update, clock):
    """Before the authority's own beginning nothing is held, and nothing can be."""
    update()
    clock.now -= timedelta(days=2)
    assert held.svids == ()
    assert held.seconds_left() <= 0
    with pytest.raises(CaError):
        update()


def test_a_retry_is_not_stretched_by_a_clock_set_back(held, update, clock, ledger):
    """A pause counts by a clock that may be set back: then it is over."""
    update()
    ledger["answers"] = False
    clock.now += HOUR / 2
    update()
    clock.now -= timedelta(minutes=20)
    assert held.seconds_left() <= 0


def test_a_stuck_reader_is_ended(tmp_path):
    """A stream whose other side does not read is cut after a while; others do not notice."""
    mine = f"unix:uid:{os.getuid()}"
    with delivering_ca(tmp_path, write_seconds=0.5) as ca, capture_logs() as logs:
        ca.add(CART, mine)
        with socket.socket(socket.AF_UNIX) as stuck:
            stuck.connect(str(ca.socket))
            stuck.sendall(_request_without_window())
            with grpc.insecure_channel(ca.endpoint) as channel:
                calls = SpiffeWorkloadAPIStub(channel).FetchX509SVID(
                    workload_pb2.X509SVIDRequest(), metadata=(("workload.spiffe.io", "true"),)
                )
                assert next(calls).svids[0].spiffe_id == CART
                until(lambda: any(e["event"] == "workload_reader_stuck" for e in logs))
                ca.keeper.prepare()
                assert next(calls).svids[0].spiffe_id == CART
                assert len(ca.streams) == 1


def test_own_identity_is_renewed(ca, clock, authority):
    """The endpoints' certificate is renewed half-way; a failure leaves the one before."""
    state = {"fails": False, "count": 0, "failed": 0}

    def issue():
        if state["fails"]:
            state["failed"] += 1
            raise StoreError("the ledger is away")
        state["count"] += 1
        return ca.issuance.issue(SpiffeId.parse(CART), CART_CALLER)

    parts = OwnIdentityParts(
        issue=issue,
        chain=lambda: authority.chain,
        roots=lambda: authority.roots,
        clock=clock,
        random=lambda: 0.5,
    )
    identity = OwnIdentity(parts)
    first = identity.context()
    assert identity.context() is first
    assert first.verify_mode is ssl.CERT_OPTIONAL
    clock.now += HOUR / 2
    second = identity.context()
    assert (second is first, state["count"]) == (False, 2)
    state["fails"] = True
    clock.now += HOUR / 2
    with capture_logs() as logs:
        assert all(identity.context() is second for _ in range(20))
    assert (state["failed"], [each["event"] for each in logs]) == (1, ["own_renewal_failed"])
    [trouble] = identity.troubles()
    assert (trouble.code, trouble.is_failing) == ("own_certificate", False)
    clock.now += HOUR
    assert [each.is_failing for each in identity.troubles()] == [True]
    state["fails"] = False
    assert identity.context() is not second
    assert not [*identity.troubles()]


def _request_without_window() -> bytes:
    """A call of FetchX509SVID by a client that lets the server send no data at all."""
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    connection.local_settings = h2.settings.Settings(
        client=True, initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0}
    )
    connection.initiate_connection()
    connection.send_headers(
        1,
        [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/SpiffeWorkloadAPI/FetchX509SVID"),
            (":authority", "localhost"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("workload.spiffe.io", "true"),
        ],
    )
    connection.send_data(1, b"\0\0\0\0\0", end_stream=True)
    return connection.data_to_send()
