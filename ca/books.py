"""The records of one CA process, opened together: ledger, audit chain, registry, issuance, desk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from threading import Lock

import structlog
from cryptography import x509

from ca.audit_chain import AuditChain
from ca.authority import AuthorityKeeper
from ca.authority_records import record_intermediates, serials_and_keys
from ca.checkpoints import Checkpoints
from ca.clock import Clock
from ca.desk import Desk, DeskParts
from ca.errors import CaError, StoreError
from ca.grant import IssuancePolicy
from ca.issuance import Issuance, IssuanceParts
from ca.ledger import delete_ended
from ca.ledger_check import CaughtUp, catch_up
from ca.limits import CallerLimit, RefusalLines
from ca.published import publish_crls, publish_deny_list, sweep_unpublished
from ca.recorder import Recorder
from ca.refusal import Refusal
from ca.registry import Registry, RegistryState
from ca.settings import CaSettings
from ca.state import Phase
from ca.store import Store
from ca.troubles import Trouble

_log = structlog.get_logger(__name__)
# BUDGET: rows that are removed in one transaction, some ten milliseconds.
_BATCH = 1000


@dataclass(slots=True, kw_only=True)
class Books:
    """What belongs together; `publish_error` says what was not published, empty when all was.

    `crls` are the revocation lists that were published last, `listeners` are told of new ones, in
    the thread that published them. `look_back` brings a ledger up that is behind its chain.
    """

    store: Store
    recorder: Recorder
    registry: Registry
    issuance: Issuance
    desk: Desk
    publish: Callable[[], None]
    record_intermediates: Callable[[], None]
    look_back: Callable[[], CaughtUp | None]
    crls: tuple[x509.CertificateRevocationList, ...] = ()
    listeners: list[Callable[[], None]] = field(default_factory=list)
    publish_error: str = ""
    ledger_error: str = field(default="")
    checkpoints: Checkpoints | None = None
    caught_up: str = ""
    _revision: int = field(default=0, init=False)

    def refresh(self) -> None:
        """Take up what other replicas changed, publish it, and look what works again."""
        try:
            self.recorder.probe(is_suspect=bool(self.ledger_error))
            self.issuance.record_held_back()
            is_other = self.registry.refresh_if_changed() or bool(self.ledger_error)
            # Before it is published: what an older ledger forgot must not be good again anywhere.
            if self._has_caught_up() or is_other:
                self.publish()
            self.ledger_error = ""
        except CaError as exc:
            self.ledger_error = str(exc)

    def _has_caught_up(self) -> bool:
        """Bring the ledger up where it may be an older one than it was; return whether it was.

        It may be where it was away, or where its revision, which only grows, has fallen.
        """
        revision, self._revision = self._revision, self.registry.state.revision
        if self._revision >= revision and not self.ledger_error:
            return False
        lacked = self.look_back()
        if lacked is None:
            return False
        self.registry.refresh()
        self.note_caught_up(lacked)
        return True

    def forget_ended(self, kept_since: datetime | None) -> int:
        """Remove the rows of what ended before `kept_since`, a few at a time; return how many.

        Raises:
            StoreError: the ledger cannot be written.
        """
        removed, last = 0, _BATCH
        while kept_since is not None and last == _BATCH:
            # Each batch is a transaction, between which issuances have their turn.
            with self.store.write() as connection:
                last = delete_ended(connection, kept_since, _BATCH)
            removed += last
        return removed

    def note_caught_up(self, lacked: CaughtUp) -> None:
        """Say on record what the ledger lacked, and loudly where it was an older one."""
        words = str(lacked)
        if lacked.is_older_copy:
            self.caught_up = words
            _log.error("ledger_behind_its_chain", error=words)
        else:
            _log.warning("ledger_redone", why=words)
        self.desk.record_catching_up(words)

    def troubles(self) -> Iterator[Trouble]:
        """Yield what is wrong with the records."""
        fault = self.recorder.health() or self.ledger_error
        if fault:
            yield Trouble(code="records", subject="ledger", message=fault, is_failing=True)
        elif self.checkpoints is not None and self.checkpoints.fault:
            # Issuance goes on, for the audit chain holds all of it.
            yield Trouble(code="records", subject="ledger", message=self.checkpoints.fault)
        if self.caught_up:
            yield Trouble(code="ledger_restored", subject="ledger", message=self.caught_up)
        if self.publish_error:
            yield Trouble(code="publishing", subject="deny list", message=self.publish_error)


@contextmanager
def open_books(
    settings: CaSettings,
    keeper: AuthorityKeeper,
    clock: Clock,
    *,
    count_issued: Callable[[str], None] = lambda _kind: None,
    count_refused: Callable[[Refusal], None] = lambda _reason: None,
) -> Iterator[Books]:
    """Yield the records of a state folder, open until the block ends.

    Raises:
        StoreError: ledger or audit chain cannot be opened.
    """
    records, folder = settings.records, settings.state_folder
    sweep_unpublished(records.deny_list_in(folder), records.crl_in(folder))
    store = Store(records.ledger_url_in(folder), clock=clock)
    try:
        chain = AuditChain(records.audit_folder_in(folder), node=records.node_name, clock=clock)
        recorder = Recorder(store, chain)
        try:
            look_back = partial(_look_back, settings, store, clock)
            caught_up = look_back()
            registry = Registry(store)
            parts = IssuanceParts(
                authority=keeper.current,
                registry=registry,
                recorder=recorder,
                policy=policy_of(settings),
                clock=clock,
                node=records.node_name,
                limit=CallerLimit(settings.limits.requests_per_second, settings.limits.burst),
                refusal_lines=RefusalLines(settings.limits.refusals_recorded_per_minute),
                count_issued=count_issued,
                count_refused=count_refused,
            )
            books = _books(settings, parts, recorder, store, keeper, look_back)
            if caught_up is not None:
                books.note_caught_up(caught_up)
            # Before the first of them signs anything.
            books.record_intermediates()
            try:
                with Checkpoints(store) as books.checkpoints:
                    yield books
            finally:
                with suppress(StoreError):
                    books.issuance.record_held_back(is_end=True)
        finally:
            recorder.close()
    finally:
        store.close()


def _look_back(settings: CaSettings, store: Store, clock: Clock) -> CaughtUp | None:
    """Bring the ledger up from the audit chain; return what it lacked, None where nothing."""
    records = settings.records
    audit = records.audit_folder_in(settings.state_folder)
    return catch_up(audit, store, records.kept_since(clock()))


def _books(
    settings: CaSettings,
    parts: IssuanceParts,
    recorder: Recorder,
    store: Store,
    keeper: AuthorityKeeper,
    look_back: Callable[[], CaughtUp | None],
) -> Books:
    """Return the books over open records, with what they publish."""
    records, folder, registry = settings.records, settings.state_folder, parts.registry
    clock, lock = parts.clock, Lock()

    def publish() -> None:
        # One at a time: the list that is read must not be older than the one before it.
        with lock:
            publish_state(registry.state, clock())

    def publish_state(state: RegistryState, now: datetime) -> None:
        try:
            publish_deny_list(records.deny_list_in(folder), state, now=now)
            books.crls = publish_crls(
                records.crl_in(folder), keeper.list_issuers(), store, state, now=now
            )
            books.publish_error = ""
        except CaError as exc:
            # A denial counts here at once, published or not; `status` says what is missing.
            books.publish_error = str(exc)
        for listener in books.listeners:
            listener()

    desk = Desk(
        DeskParts(
            trust_domain=settings.domain,
            store=store,
            registry=registry,
            recorder=recorder,
            clock=clock,
            published=publish,
            node=parts.node,
            in_use=lambda: _in_use(keeper),
        )
    )
    books = Books(
        store=store,
        recorder=recorder,
        registry=registry,
        issuance=Issuance(parts),
        desk=desk,
        publish=publish,
        record_intermediates=lambda: record_intermediates(
            keeper, store, recorder, node=parts.node, now=clock()
        ),
        look_back=look_back,
    )
    return books


def _in_use(keeper: AuthorityKeeper) -> frozenset[str]:
    """Return the serials and keys of the authority that signs now."""
    slot = keeper.in_phase(Phase.ACTIVE)
    return frozenset() if slot is None else serials_and_keys(slot)


def policy_of(settings: CaSettings) -> IssuancePolicy:
    """Return the lifetimes of the settings."""
    longest = max(settings.records.max_svid_lifetime_seconds, settings.svid_lifetime_seconds)
    return IssuancePolicy(
        lifetime=timedelta(seconds=settings.svid_lifetime_seconds),
        max_lifetime=timedelta(seconds=longest),
    )
