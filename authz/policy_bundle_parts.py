"""From `bundles:` to what providers are built of: read, watched, activated, told of.

Theory of operation. Bundles on disk are read for every load, as all files are. A bundle of a
service is fetched by its own thread; a new one is built into a whole serving state beside the
one that serves, and only where that succeeds does it become the current one, in one step
under the keeper's lock. So an edit of a file never picks up a bundle that was refused.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Protocol

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from authz.policy_bundle_settings import PolicyBundleSettings
from authz.serving_state import ServingState
from opa_bridge.bundle_contents import Bundle, read_bundle
from opa_bridge.bundle_files import read_bundle_files
from opa_bridge.bundle_store import BundleStore
from opa_bridge.bundle_watch import BundleWatcher, PolicyBundleStatus
from opa_bridge.errors import PolicyBundleError
from policies.diagnostic import Diagnostic, LoadError, Location

_log = structlog.get_logger(__name__)


class TakeBundle(Protocol):
    """Returns the bundle that counts now under a name.

    Raises LoadError: it cannot be had, or is refused.
    """

    def __call__(self, name: str) -> Bundle: ...  # noqa: D102 - said above


class Adopt(Protocol):
    """Builds a state with these bundles and serves it; returns why not, nothing when it does.

    `keep` is called in the same step in which the state begins to serve.
    """

    def __call__(  # noqa: D102 - said above
        self, take: TakeBundle, keep: Callable[[], None]
    ) -> Sequence[Diagnostic]: ...


def no_bundles(name: str) -> Bundle:
    """Return nothing: there are no bundles where this is passed.

    Raises:
        LoadError: always.
    """
    problem = Diagnostic(
        code="bundle.unknown",
        message=f"no bundle `{name}` can be had here",
        location=Location(""),
        help="name `paths` instead",
    )
    raise LoadError([problem])


class PolicyBundles:
    """Every configured bundle. Thread-safe once started."""

    def __init__(
        self, settings: Iterable[PolicyBundleSettings], *, keeps_copies: bool = True
    ) -> None:
        """Fetch and read nothing yet.

        Raises:
            LoadError: a folder for copies cannot be made, or an address is none.
        """
        self._settings = {each.name: each for each in settings}
        self._watchers: dict[str, BundleWatcher] = {}
        self._served: dict[str, Bundle] = {}
        self._disk: dict[str, PolicyBundleStatus] = {}
        # What was read for a load that may still fail.
        self._pending: dict[str, PolicyBundleStatus] = {}
        self._lock = threading.Lock()
        for name, each in self._settings.items():
            if each.service is None:
                self._disk[name] = PolicyBundleStatus(name=name, source=str(each.path))
                continue
            try:
                has_store = keeps_copies and each.persist is not None
                store = BundleStore(each.persist) if has_store and each.persist else None
                self._watchers[name] = BundleWatcher(each.to_served(), store)
            except PolicyBundleError as exc:
                raise LoadError([_finding(name, exc)]) from exc

    def begin(self, build: Callable[[TakeBundle], ServingState]) -> Callable[[], ServingState]:
        """Return how a state is built of the bundles that count when it is called.

        The first call fetches; where what came does not serve, the kept copies are tried.
        """
        is_begun = False

        def load() -> ServingState:
            nonlocal is_begun
            state = build(self.take) if is_begun else self._first(build)
            is_begun = True
            self.settle()
            return state

        return load

    def _first(self, build: Callable[[TakeBundle], ServingState]) -> ServingState:
        """Return the first state; what it is built of counts from now on.

        Raises:
            LoadError: a bundle is not to be had, or no state can be built.
        """
        self._fetch()
        try:
            state = build(self.take)
        except LoadError as exc:
            if not self._fall_back(exc):
                raise
            state = build(self.take)
        for name, watcher in self._watchers.items():
            watcher.confirm()
            status = watcher.status()
            if status.last_error:
                _log.warning("bundle_failed", bundle=name, error=status.last_error)
            _log.info("bundle", bundle=name, revision=status.revision, origin=status.origin)
        return state

    def _fetch(self) -> None:
        problems: list[Diagnostic] = []
        for name, watcher in self._watchers.items():
            try:
                self._served[name] = watcher.load()
            except PolicyBundleError as exc:
                problems.append(_finding(name, exc))
        if problems:
            raise LoadError(problems)

    def _fall_back(self, refusal: LoadError) -> bool:
        """Put kept copies in the place of what did not serve; return whether there was one."""
        why = str(refusal.diagnostics[0]) if refusal.diagnostics else ""
        copies = {name: watcher.fall_back(why) for name, watcher in self._watchers.items()}
        found = {name: copy for name, copy in copies.items() if copy is not None}
        self._served.update(found)
        return bool(found)

    def start(self, adopt: Adopt) -> None:
        """Begin to watch the services."""
        for watcher in self._watchers.values():
            watcher.start(lambda bundle: self._activate(bundle, adopt))

    def stop(self) -> None:
        """End the watching."""
        for watcher in self._watchers.values():
            watcher.stop()

    def take(self, name: str) -> Bundle:
        """Return the bundle that counts now; one on disk is read.

        Raises:
            LoadError: it cannot be had, or is refused.
        """
        found = self._served.get(name)
        return self._read(name) if found is None else found

    def settle(self) -> None:
        """Note that a state with what was read from disk serves."""
        with self._lock:
            for name, status in self._pending.items():
                is_new = status.digest != self._disk[name].digest
                since = time.time() if is_new else status.last_activation_at
                self._disk[name] = replace(status, last_activation_at=since)
            self._pending.clear()

    def status(self) -> tuple[PolicyBundleStatus, ...]:
        """Return how each bundle stands."""
        watched = {name: watcher.status() for name, watcher in self._watchers.items()}
        return tuple((watched | self._disk)[name] for name in self._settings)

    def _activate(self, bundle: Bundle, adopt: Adopt) -> Sequence[str]:
        """Let a new bundle serve; return why it does not."""

        def take(name: str) -> Bundle:
            return bundle if name == bundle.name else self.take(name)

        def keep() -> None:
            self._served[bundle.name] = bundle
            self.settle()

        problems = adopt(take, keep)
        if problems:
            told = [str(problem) for problem in problems]
            _log.error("bundle_refused", bundle=bundle.name, problems=told)
            return told
        _log.info("bundle", bundle=bundle.name, revision=bundle.revision, origin="service")
        return ()

    def _read(self, name: str) -> Bundle:
        settings = self._settings.get(name)
        if settings is None or settings.path is None:
            return no_bundles(name)
        now = time.time()
        before = self._disk[name]
        try:
            files = read_bundle_files(settings.path, settings.limits)
            bundle = read_bundle(name, files, settings.read_signing())
        except PolicyBundleError as exc:
            failed = replace(
                before,
                last_request_at=now,
                requests=before.requests + 1,
                failures=before.failures + 1,
                last_error=f"{exc.code}: {exc}",
            )
            with self._lock:
                self._disk[name] = failed
                self._pending.pop(name, None)
            raise LoadError([_finding(name, exc, str(settings.path))]) from exc
        with self._lock:
            self._pending[name] = replace(
                before,
                revision=bundle.revision,
                digest=bundle.digest,
                size=bundle.size,
                is_signed=bundle.is_signed,
                origin="disk",
                last_request_at=now,
                last_success_at=now,
                requests=before.requests + 1,
                last_error="",
            )
        return bundle


def load_once(
    settings: Iterable[PolicyBundleSettings], build: Callable[[TakeBundle], ServingState]
) -> ServingState:
    """Return one state of bundles that are had for it alone; nothing is kept or watched.

    Raises:
        LoadError: a bundle is not to be had, or no state can be built.
    """
    bundles = PolicyBundles(settings, keeps_copies=False)
    try:
        return bundles.begin(build)()
    finally:
        bundles.stop()


def shown_policy_bundle(status: PolicyBundleStatus) -> Mapping[str, Any]:
    """Return how one bundle stands, as `/readyz` tells it."""
    return {
        "name": status.name,
        "source": status.source,
        "revision": status.revision,
        "origin": status.origin,
        "signed": status.is_signed,
        "bytes": status.size,
        "last_request": _moment(status.last_request_at),
        "last_success": _moment(status.last_success_at),
        "last_activation": _moment(status.last_activation_at),
        "error": status.last_error,
    }


def watch_policy_bundles(registry: CollectorRegistry, bundles: PolicyBundles) -> None:
    """Export how the bundles stand."""
    registry.register(_Collector(bundles))


class _Collector:
    """The metrics of bundles, read at each scrape."""

    def __init__(self, bundles: PolicyBundles) -> None:
        self._bundles = bundles

    def collect(self) -> Iterable[Metric]:
        """Yield every metric with a sample for each bundle."""
        found = self._bundles.status()
        info = GaugeMetricFamily(
            "meshwarden_bundle_info", "1; the revision that serves.", labels=("bundle", "revision")
        )
        for status in found:
            info.add_metric((status.name, status.revision), 1.0)
        yield info
        for name, words, read in _GAUGES:
            gauge = GaugeMetricFamily(name, words, labels=("bundle",))
            for status in found:
                gauge.add_metric((status.name,), read(status))
            yield gauge
        for name, words, read in _COUNTERS:
            counter = CounterMetricFamily(name, words, labels=("bundle",))
            for status in found:
                counter.add_metric((status.name,), read(status))
            yield counter


_Rows = tuple[tuple[str, str, Callable[[PolicyBundleStatus], float]], ...]
_GAUGES: _Rows = (
    (
        "meshwarden_bundle_failing",
        "1 while the last request for it failed or it was refused; the last good one serves.",
        lambda status: float(bool(status.last_error)),
    ),
    ("meshwarden_bundle_bytes", "Bytes of its files.", lambda status: status.size),
    (
        "meshwarden_bundle_last_request_timestamp_seconds",
        "When it was asked for last.",
        lambda status: status.last_request_at or 0.0,
    ),
    (
        "meshwarden_bundle_last_success_timestamp_seconds",
        "When it was last known to be the newest.",
        lambda status: status.last_success_at or 0.0,
    ),
    (
        "meshwarden_bundle_last_activation_timestamp_seconds",
        "When the one that serves began to.",
        lambda status: status.last_activation_at or 0.0,
    ),
)
_COUNTERS: _Rows = (
    ("meshwarden_bundle_requests", "How often it was asked for.", lambda status: status.requests),
    (
        "meshwarden_bundle_failures",
        "How often it could not be had or was refused.",
        lambda status: status.failures,
    ),
)


def _finding(name: str, exc: PolicyBundleError, place: str = "") -> Diagnostic:
    return Diagnostic(
        code=exc.code,
        message=f"bundle `{name}`: {exc}",
        location=Location(place or f"bundle {name}"),
        help=exc.help,
    )


def _moment(at: float | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat()
