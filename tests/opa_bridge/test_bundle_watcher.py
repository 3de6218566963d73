"""A bundle kept fresh: what is new and whole is activated, everything else changes nothing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from bundling import FILES, Signer, packed, revised
from policy_bundle_server import BundleServer, bundle_server

from opa_bridge.bundle_contents import Bundle
from opa_bridge.bundle_service import MEDIA_TYPE, BundleService
from opa_bridge.bundle_signature import Signing
from opa_bridge.bundle_store import BundleStore, StoredBundle
from opa_bridge.bundle_watch import BundleWatcher, Polling, ServedBundle
from opa_bridge.errors import PolicyBundleError

FAST = Polling(min_delay_seconds=0.01, max_delay_seconds=0.02)
LONG = Polling(min_delay_seconds=0.01, max_delay_seconds=0.02, long_polling_seconds=30)


class Activations:
    """Who activates: takes every bundle, or says why not."""

    def __init__(self, *problems: str) -> None:
        """Begin with what is answered."""
        self.problems: Sequence[str] = problems
        self.asked: list[str] = []
        self._changed = threading.Condition()

    def __call__(self, bundle: Bundle) -> Sequence[str]:
        """Note the revision and answer."""
        with self._changed:
            self.asked.append(bundle.revision)
            self._changed.notify_all()
            return self.problems

    def wait_for(self, *revisions: str) -> None:
        """Wait until these were asked for, in this order."""
        with self._changed:
            found = self._changed.wait_for(lambda: self.asked[: len(revisions)] == [*revisions], 10)
            assert found, self.asked


def plan(service: BundleServer, **more: Any) -> ServedBundle:
    """The bundle of a test's service."""
    address = BundleService(url=service.url, timeout_seconds=2)
    return ServedBundle(**{"name": "b", "service": address, "polling": FAST, **more})


@contextmanager
def watching(watcher: BundleWatcher, activate: Activations) -> Iterator[BundleWatcher]:
    """A watch that is stopped in the end."""
    watcher.start(activate)
    try:
        yield watcher
    finally:
        watcher.stop()


def until(watcher: BundleWatcher, service: BundleServer, says: str) -> str:
    """Wait until the status tells of an error; requests are what makes it change."""
    for _ in range(200):
        if says in watcher.status().last_error:
            return watcher.status().last_error
        service.wait_for_requests(len(service.seen) + 1)
    raise AssertionError(watcher.status())


def test_a_new_revision_is_activated_once() -> None:
    """Polling finds a new revision; what is the same, in whatever spelling, is not news."""
    activate = Activations()
    with bundle_server(packed(revised("r1"))) as service:
        watcher = BundleWatcher(plan(service))
        assert "r1" == watcher.load().revision
        watcher.confirm()
        with watching(watcher, activate):
            service.wait_for_requests(4)
            assert [] == activate.asked
            service.serve(packed(revised("r2")))
            activate.wait_for("r2")
            service.serve(mode="always")
            service.wait_for_requests(len(service.seen) + 4)
            service.serve(packed(revised("r1")), mode="ok")
            activate.wait_for("r2", "r1")

        status = watcher.status()
        assert ("r1", "service", "") == (status.revision, status.origin, status.last_error)
        assert ["r2", "r1"] == activate.asked


def test_a_long_poll_brings_news_at_once() -> None:
    """The service holds the request; no second one is needed to learn of a new revision."""
    activate = Activations()
    with bundle_server(packed(revised("r1")), content_type=MEDIA_TYPE) as service:
        watcher = BundleWatcher(plan(service, polling=LONG))
        watcher.load()
        watcher.confirm()
        with watching(watcher, activate):
            service.wait_for_requests(2)
            held = len(service.seen)
            service.serve(packed(revised("r2")))
            activate.wait_for("r2")
            service.wait_for_requests(held + 1)

        assert "modes=snapshot;wait=30" == service.seen[1].headers["prefer"]


def test_a_service_that_does_not_wait_is_polled_at_the_usual_pace() -> None:
    """Long polls that end at once with nothing new are not asked again in a circle."""
    slow = Polling(min_delay_seconds=3600, max_delay_seconds=3600, long_polling_seconds=30)
    with bundle_server(packed(FILES), content_type=MEDIA_TYPE, mode="always") as service:
        watcher = BundleWatcher(plan(service, polling=slow))
        watcher.load()
        watcher.confirm()
        with watching(watcher, Activations()):
            service.wait_for_requests(2)
            assert not service.rest(0.3)

        assert 2 == len(service.seen)


FAILURES: dict[str, tuple[dict[str, Any], str]] = {
    "it is down": ({"status": 500}, "bundle.fetch: .*status 500"),
    "it says nothing": ({"mode": "drop"}, "bundle.fetch"),
    "half of it": ({"mode": "cut", "raw": packed(revised("r2"))}, "bundle.fetch"),
    "truncated gzip": ({"raw": packed(revised("r2"))[:-9]}, "bundle.archive: .*cut off"),
    "a page of HTML": ({"raw": b"<html>down for maintenance</html>"}, "bundle.archive"),
    "no bundle": ({"raw": packed({"README": b""})}, "bundle.empty"),
    "a delta": ({"raw": packed({"patch.json": b"{}"})}, "bundle.unsupported"),
}


@pytest.mark.parametrize(("changes", "why"), FAILURES.values(), ids=FAILURES)
def test_a_failing_service_changes_nothing_but_the_status(
    changes: dict[str, Any], why: str
) -> None:
    """The last good bundle serves on, the error is told, and the next good one ends it."""

    activate = Activations()
    with bundle_server(packed(revised("r1"))) as service:
        watcher = BundleWatcher(plan(service))
        watcher.load()
        watcher.confirm()
        with watching(watcher, activate):
            service.serve(**changes)
            told = until(watcher, service, "bundle.")
            assert re.search(why, told)
            assert watcher.current is not None
            assert "r1" == watcher.current.revision == watcher.status().revision
            service.serve(packed(revised("r3")), status=200, mode="ok")
            activate.wait_for("r3")

        assert "" == watcher.status().last_error
        assert ["r3"] == activate.asked


def test_only_signed_revisions_are_activated(tmp_path: Path) -> None:
    """A wrong signature is refused; when the key is changed on disk the next request knows."""
    ours, theirs = Signer(), Signer()
    keys = [ours]
    activate = Activations()
    with bundle_server(packed(ours.signed(revised("r1")))) as service:
        watcher = BundleWatcher(
            plan(service, signing=lambda: Signing(keys=tuple(each.key for each in keys)))
        )
        assert watcher.load().is_signed
        watcher.confirm()
        with watching(watcher, activate):
            service.serve(packed(revised("r2")))
            until(watcher, service, "has no `.signatures.json`")
            service.serve(packed(theirs.signed(revised("r2"))))
            until(watcher, service, "no configured key verifies")
            keys[:] = [theirs]
            activate.wait_for("r2")

        assert watcher.status().is_signed


def test_what_does_not_serve_is_tried_again_and_never_current() -> None:
    """A bundle that is not activated keeps its reason, and the one before its ETag."""
    activate = Activations("the policy does not compile")
    with bundle_server(packed(revised("r1"))) as service:
        watcher = BundleWatcher(plan(service))
        watcher.load()
        watcher.confirm()
        first = service.etag
        with watching(watcher, activate):
            service.serve(packed(revised("r2")))
            activate.wait_for("r2", "r2")
            told = watcher.status().last_error
            assert "bundle.activation: it was not activated: the policy does not compile" == told
            assert "r1" == watcher.status().revision
            assert first == service.seen[-1].headers["if-none-match"]
            activate.problems = ()
            service.wait_for_requests(len(service.seen) + 3)

        assert "r2" == watcher.status().revision


def test_a_start_without_the_service_takes_the_kept_copy(tmp_path: Path) -> None:
    """What was activated last is kept, verified again, and named by its ETag."""
    signer = Signer()
    signing = Signing(keys=(signer.key,))
    store = BundleStore(tmp_path / "kept")
    with bundle_server(packed(signer.signed(revised("r1")))) as service:
        first = BundleWatcher(plan(service, signing=lambda: signing), store)
        first.load()
        with pytest.raises(FileNotFoundError):
            (tmp_path / "kept" / "b.bundle").stat()
        first.confirm()

        service.serve(status=503)
        second = BundleWatcher(plan(service, signing=lambda: signing), store)
        assert "r1" == second.load().revision
        status = second.status()
        assert ("kept copy", "r1") == (status.origin, status.revision)
        assert "status 503" in status.last_error
        service.serve(status=200)
        with watching(second, Activations()):
            service.wait_for_requests(len(service.seen) + 2)
        assert service.etag == service.seen[-1].headers["if-none-match"]
        assert "" == second.status().last_error

        service.serve(status=503)
        distrusting = BundleWatcher(
            plan(service, signing=lambda: Signing(keys=(Signer().key,))), store
        )
        with pytest.raises(PolicyBundleError, match="status 503.*no kept copy.*no configured key"):
            distrusting.load()
        with pytest.raises(PolicyBundleError, match="status 503"):
            BundleWatcher(plan(service)).load()


def test_a_first_bundle_that_does_not_serve_gives_way_to_the_kept_copy(tmp_path: Path) -> None:
    """A restart during a bad release serves the release before."""
    store = BundleStore(tmp_path)
    with bundle_server(packed(revised("r1"))) as service:
        first = BundleWatcher(plan(service), store)
        first.load()
        first.confirm()
        service.serve(packed(revised("bad")))
        second = BundleWatcher(plan(service), store)
        assert "bad" == second.load().revision
        found = second.fall_back("it does not compile")

        assert found is not None
        assert ("r1", "kept copy") == (second.status().revision, second.status().origin)
        assert "not activated: it does not compile" in second.status().last_error
        assert BundleWatcher(plan(service)).fall_back("nothing was loaded") is None


COPY = StoredBundle(raw=b"archive", url="https://host/b", etag='"1"', fetched_at=1.5)


def test_a_copy_comes_back_as_it_was_kept(tmp_path: Path) -> None:
    """The copy, its ETag and its time; nothing where there is none, or it is of another URL."""
    store = BundleStore(tmp_path / "a" / "b")
    assert store.load("b", COPY.url, 100) is None
    store.save("b", COPY)

    assert COPY == store.load("b", COPY.url, 100)
    assert store.load("b", "https://other/b", 100) is None
    assert ["b.bundle"] == [path.name for path in (tmp_path / "a" / "b").iterdir()]
    assert 0o600 == (tmp_path / "a" / "b" / "b.bundle").stat().st_mode & 0o777


def damage(path: Path, how: str) -> None:
    """Do something to a kept copy."""
    raw = path.read_bytes()
    match how:
        case "cut":
            path.write_bytes(raw[:-1])
        case "longer":
            path.write_bytes(raw + b"x" * 200)
        case "no head":
            path.write_bytes(b"\xff")
        case "another version":
            path.write_bytes(raw.replace(b'"format": 1', b'"format": 2'))
        case "open to others":
            path.chmod(0o666)
        case "a link":
            target = path.rename(path.with_suffix(".target"))
            path.symlink_to(target)
        case "a folder":
            path.unlink()
            path.mkdir()


@pytest.mark.parametrize(
    "how", ["cut", "longer", "no head", "another version", "open to others", "a link", "a folder"]
)
def test_a_copy_that_cannot_be_trusted_is_refused(tmp_path: Path, how: str) -> None:
    """Damage, another's hand or another place: the copy is told to be no copy."""
    store = BundleStore(tmp_path)
    store.save("b", COPY)
    damage(tmp_path / "b.bundle", how)

    with pytest.raises(PolicyBundleError, match="the kept copy") as refusal:
        store.load("b", COPY.url, 100)
    assert "bundle.store" == refusal.value.code


_WRITER = """
import sys
from pathlib import Path
from opa_bridge.bundle_store import BundleStore, StoredBundle
store = BundleStore(Path(sys.argv[1]))
for number in range(10**9):
    copy = StoredBundle(raw=b"%d " % number * 50000, url="u", etag=str(number), fetched_at=0.5)
    store.save("b", copy)
    print(number, flush=True)
"""


def test_a_kill_leaves_a_whole_copy(tmp_path: Path, repository: Path) -> None:
    """Killed in the middle of keeping copies, there is a whole one, and the last or the next."""
    for _ in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(tmp_path)], cwd=repository, stdout=subprocess.PIPE
        )
        assert writer.stdout is not None
        last = [int(writer.stdout.readline()) for _ in range(5)][-1]
        os.kill(writer.pid, signal.SIGKILL)
        rest = writer.stdout.read().split()
        writer.wait()
        writer.stdout.close()
        last = int(rest[-1]) if rest else last
        copy = BundleStore(tmp_path).load("b", "u", 10**7)

        assert copy is not None
        assert int(copy.etag) in (last, last + 1)
        assert b"%d " % int(copy.etag) * 50000 == copy.raw
