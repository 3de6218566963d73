"""What has happened when a part of an act fails: it counts, is told, and ends nothing else."""

from __future__ import annotations

from contextlib import closing
from datetime import timedelta

import pytest
from issuing import CART, CART_CALLER, open_ca, request_of, settings_in

from ca.books import open_books
from ca.desk import Desk, DeskParts
from ca.errors import StoreError
from ca.federation_cache import BundleCache
from ca.revocations import DeniedKind
from ca.store import Store
from identity.spiffe_id import TrustDomain


def test_what_a_killed_ca_left_half_written_goes(keeper_of, tmp_path, clock):
    """The next start removes it, wherever it lies, and nothing that is another's."""
    settings = settings_in(tmp_path, "s")
    published = tmp_path / "s/published"
    names = ("deny-list.json", "crl.pem")
    with keeper_of(tmp_path / "s") as keeper, open_books(settings, keeper, clock) as books:
        books.publish()
        files = sorted(published.iterdir())
        for name in (*names, "other"):
            (published / f".tmp-4242-{name}").write_bytes(b"half")
    with keeper_of(tmp_path / "s") as keeper, open_books(settings, keeper, clock):
        assert sorted(published.iterdir()) == [published / ".tmp-4242-other", *files]
    federated = tmp_path / "s/federated"
    federated.mkdir(mode=0o700)
    (federated / ".tmp-4242-bundle-example.com.json").write_bytes(b"half")
    BundleCache(tmp_path / "s", timedelta(days=1), clock)
    assert list(federated.iterdir()) == []


def test_a_full_database_is_called_full(tmp_path):
    """What ended a transaction is told, not that it cannot be ended once more."""
    with closing(Store(f"sqlite:///{tmp_path}/ledger.db")) as store:
        with store.write_redoable() as driver:
            [pages] = driver.execute("PRAGMA page_count").fetchone()
            driver.execute(f"PRAGMA max_page_count={pages}")
        with pytest.raises(StoreError, match="is full"), store.write_redoable() as driver:
            for number in range(100):
                driver.execute("INSERT INTO counter VALUES (?, 0)", (f"{number}" * 500,))


def test_a_revocation_whose_line_cannot_be_written_is_published(authority, clock, tmp_path):
    """Authorizers learn of a denial that counts, whatever becomes of its line."""
    published = []
    with open_ca(tmp_path, authority, clock) as ca:
        desk = Desk(
            DeskParts(
                trust_domain=TrustDomain("example.org"),
                store=ca.store,
                registry=ca.registry,
                recorder=ca.recorder,
                clock=clock,
                published=lambda: published.append(set(ca.registry.state.denied)),
                node="one",
            )
        )
        ca.audit.rename(tmp_path / "away")
        denied = (DeniedKind.SPIFFE_ID, CART)
        with pytest.raises(StoreError, match="audit log"):
            desk.revoke(*denied)
        with pytest.raises(StoreError, match="audit log"):
            desk.lift(*denied)
        assert published == [{denied}, set()]
        (tmp_path / "away").rename(ca.audit)


def test_a_listener_that_fails_does_not_end_the_records(authority, clock, tmp_path):
    """Who is told of a group may fail; the next group is written all the same."""
    with open_ca(tmp_path, authority, clock) as ca:
        ca.add()
        ca.recorder.after_group = (lambda: 1 / 0,)
        for _ in range(2):
            ca.issuance.sign(request_of(CART), CART_CALLER)
        assert len(ca.rows()) == 2
