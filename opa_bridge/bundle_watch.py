"""One bundle from a service, kept fresh by one thread.

Theory of operation. The thread asks the service, and hands what is new and whole to whoever
activates it; only what was activated counts as current, is named by its ETag and is kept on
disk. Rules this file keeps:
- a bundle that cannot be fetched, read, verified or activated changes nothing but the status;
- a service that answers a long poll at once, with nothing new, is polled at the usual pace;
- at the start the service is asked first, and the kept copy only where that fails.

Spec: OPA, "Bundles", sections "Bundle Service API" and "Bundle Persistence".
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from opa_bridge.bundle_archive import ArchiveLimits, read_archive
from opa_bridge.bundle_contents import Bundle, read_bundle
from opa_bridge.bundle_service import BundleAnswer, BundleClient, BundleService
from opa_bridge.bundle_signature import Signing
from opa_bridge.bundle_store import BundleStore, StoredBundle
from opa_bridge.errors import PolicyBundleError

# OPA's own first wait after a failure; each further one is twice as long.
_FIRST_RETRY_SECONDS: Final = 0.1
_MOST_DOUBLINGS: Final = 20
# A long poll that ends sooner than this share of its wait, with nothing new, was none.
_WAITED: Final = 0.5

Activate = Callable[[Bundle], Sequence[str]]
"""Makes a bundle the one that serves; returns why not, nothing when it does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Polling:
    """How often a service is asked, in seconds; long polls wait at the service instead."""

    min_delay_seconds: float = 60.0
    max_delay_seconds: float = 120.0
    long_polling_seconds: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyBundleStatus:
    """How one bundle stands. Times are Unix times, None until it happened first.

    `origin` is `service`, `kept copy` or `disk`: where the serving bundle came from.
    `last_error` is empty after a success; `size` is that of the files in bytes.
    """

    name: str
    source: str
    revision: str = ""
    digest: str = ""
    size: int = 0
    is_signed: bool = False
    origin: str = ""
    etag: str = ""
    last_request_at: float | None = None
    last_success_at: float | None = None
    last_activation_at: float | None = None
    requests: int = 0
    failures: int = 0
    last_error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedBundle:
    """A bundle of a service, as it is configured. `signing` reads the keys anew."""

    name: str
    service: BundleService
    polling: Polling = Polling()
    signing: Callable[[], Signing] | None = None
    limits: ArchiveLimits = ArchiveLimits()


class BundleWatcher:
    """Keeps one served bundle fresh. `current`, `status` and `stop` are for any thread."""

    def __init__(
        self,
        plan: ServedBundle,
        store: BundleStore | None = None,
        *,
        clock: Callable[[], float] = time.time,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """Fetch nothing yet.

        Raises:
            PolicyBundleError: nothing is fetched from such an address.
        """
        self._plan = plan
        self._store = store
        self._clock = clock
        self._draw = draw
        self._client = BundleClient(plan.service)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._current: Bundle | None = None
        self._unconfirmed: tuple[Bundle, BundleAnswer] | None = None
        self._can_long_poll = plan.polling.long_polling_seconds is not None
        self._failures_in_a_row = 0
        self._status = PolicyBundleStatus(name=plan.name, source=plan.service.url)

    def load(self) -> Bundle:
        """Return the service's bundle, or the kept copy where the service has none to take.

        It counts once it was confirmed.

        Raises:
            PolicyBundleError: there is neither; the message is that about the service.
        """
        try:
            answer = self._ask(wait=False)
            bundle = self._read(answer.raw or b"")
        except PolicyBundleError as exc:
            self._note_failure(exc)
            return self._load_copy(exc)
        self._unconfirmed = bundle, answer
        return bundle

    def confirm(self) -> None:
        """Take what was loaded for the current bundle: it serves."""
        if self._unconfirmed is not None:
            self._take(*self._unconfirmed)
            self._unconfirmed = None

    def fall_back(self, why: str) -> Bundle | None:
        """Return the kept copy in place of a loaded bundle that does not serve, if there is one."""
        if self._unconfirmed is None:
            return None
        self._unconfirmed = None
        refused = PolicyBundleError("bundle.activation", f"it was not activated: {why}")
        self._note_failure(refused)
        try:
            return self._load_copy(refused)
        except PolicyBundleError:
            return None

    def start(self, activate: Activate) -> None:
        """Begin to watch; every new bundle is handed to `activate` in the watching thread."""
        self._thread = threading.Thread(
            target=self._keep_fresh, args=(activate,), name=f"bundle {self._plan.name}", daemon=True
        )
        self._thread.start()

    def stop(self, *, wait_seconds: float = 2.0) -> None:
        """End the watching and the request under way."""
        self._stop.set()
        self._client.stop()
        if self._thread is not None:
            self._thread.join(wait_seconds)

    @property
    def current(self) -> Bundle | None:
        """The bundle that was activated last."""
        return self._current

    def status(self) -> PolicyBundleStatus:
        """Return how the bundle stands."""
        return self._status

    def _keep_fresh(self, activate: Activate) -> None:
        # What serves since the start is seconds old, or a kept copy that may be anything.
        delay = 0.0 if self._failures_in_a_row or self._can_long_poll else self._pause()
        while not self._stop.wait(delay):
            delay = self._visit(activate)

    def _visit(self, activate: Activate) -> float:
        """Ask once; return how long to wait before the next time."""
        began = time.monotonic()
        wait = self._plan.polling.long_polling_seconds if self._can_long_poll else None
        try:
            answer = self._ask(wait=True)
            is_new = self._process(answer, activate)
        except PolicyBundleError as exc:
            # A request that we ended ourselves is no failure.
            if not self._stop.is_set():
                self._note_failure(exc)
            return self._backoff()
        # WHY every exception: were this thread to die, the bundle would never change again.
        except Exception as exc:
            self._note_failure(PolicyBundleError("bundle.internal", type(exc).__name__))
            return self._backoff()
        self._failures_in_a_row = 0
        if not answer.is_long_poll or wait is None:
            return self._pause()
        # INVARIANT: a service that does not wait cannot make us ask in a circle.
        has_waited = time.monotonic() - began >= wait * _WAITED
        return 0.0 if is_new or has_waited else self._pause()

    def _process(self, answer: BundleAnswer, activate: Activate) -> bool:
        """Take a new bundle; return whether it was one."""
        self._can_long_poll = (
            self._plan.polling.long_polling_seconds is not None and answer.is_long_poll
        )
        if answer.raw is None:
            self._note_success()
            return False
        bundle = self._read(answer.raw)
        is_new = self._current is None or bundle.digest != self._current.digest
        if is_new:
            problems = activate(bundle)
            if problems:
                why = f"it was not activated: {problems[0]}"
                raise PolicyBundleError("bundle.activation", why)
        self._take(bundle, answer)
        return is_new

    def _ask(self, *, wait: bool) -> BundleAnswer:
        now = self._clock()
        status = self._status
        self._status = replace(status, last_request_at=now, requests=status.requests + 1)
        seconds = self._plan.polling.long_polling_seconds
        answer = self._client.fetch(status.etag, seconds if wait and self._can_long_poll else None)
        if answer.raw is None and not status.etag:
            raise PolicyBundleError("bundle.fetch", "the service answered 304 to no ETag")
        return answer

    def _read(self, raw: bytes) -> Bundle:
        plan = self._plan
        signing = None if plan.signing is None else plan.signing()
        return read_bundle(plan.name, read_archive(raw, plan.limits), signing)

    def _take(self, bundle: Bundle, answer: BundleAnswer) -> None:
        """Take what serves now for the current bundle, and keep a copy."""
        now = self._clock()
        is_new = self._current is None or bundle.digest != self._current.digest
        self._current = bundle
        self._status = _described(
            replace(
                self._status,
                origin="service",
                etag=answer.etag,
                last_activation_at=now if is_new else self._status.last_activation_at,
            ),
            bundle,
        )
        self._note_success()
        if self._store is not None and answer.raw is not None:
            copy = StoredBundle(
                raw=answer.raw, url=self._plan.service.url, etag=answer.etag, fetched_at=now
            )
            try:
                self._store.save(self._plan.name, copy)
            except PolicyBundleError as exc:
                # It serves all the same; only a start without the service would be older.
                self._status = replace(self._status, last_error=str(exc))

    def _load_copy(self, reason: PolicyBundleError) -> Bundle:
        """Return the kept copy, verified as if it had just come."""
        plan = self._plan
        if self._store is None:
            raise reason
        try:
            copy = self._store.load(plan.name, plan.service.url, plan.limits.packed_bytes)
            if copy is None:
                raise reason
            bundle = self._read(copy.raw)
        except PolicyBundleError as exc:
            if exc is reason:
                raise
            why = f"{reason}; and no kept copy serves: {exc}"
            raise PolicyBundleError(reason.code, why, reason.help) from exc
        self._current = bundle
        self._status = _described(
            replace(
                self._status,
                origin="kept copy",
                etag=copy.etag,
                last_success_at=copy.fetched_at,
                last_activation_at=self._clock(),
            ),
            bundle,
        )
        return bundle

    def _note_success(self) -> None:
        self._status = replace(self._status, last_success_at=self._clock(), last_error="")

    def _note_failure(self, exc: PolicyBundleError) -> None:
        status = self._status
        self._failures_in_a_row += 1
        advice = f" ({exc.help})" if exc.help else ""
        self._status = replace(
            status, failures=status.failures + 1, last_error=f"{exc.code}: {exc}{advice}"
        )

    def _pause(self) -> float:
        polling = self._plan.polling
        return self._draw(polling.min_delay_seconds, polling.max_delay_seconds)

    def _backoff(self) -> float:
        """Return a wait that doubles with every failure, up to the longest pause."""
        doubled = _FIRST_RETRY_SECONDS * 2.0 ** min(self._failures_in_a_row, _MOST_DOUBLINGS)
        longest = min(doubled, self._plan.polling.max_delay_seconds)
        return self._draw(longest / 2, longest)


def _described(status: PolicyBundleStatus, bundle: Bundle) -> PolicyBundleStatus:
    return replace(
        status,
        revision=bundle.revision,
        digest=bundle.digest,
        size=bundle.size,
        is_signed=bundle.is_signed,
    )
