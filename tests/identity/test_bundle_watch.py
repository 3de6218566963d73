"""Trust bundles from files and endpoints: had, kept fresh, and kept when there is no better."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from bundle_server import (
    EXAMPLE,
    OTHER,
    Published,
    authority,
    bundle,
    endpoint_leaf,
    names_in,
    serving,
    spiffe,
    web,
    web_leaf,
)
from certificate_making import LEAF, NOW, make

from identity.bundle_document import encode_bundle
from identity.bundle_source import (
    BundleFile,
    BundleSource,
    WithIntermediates,
)
from identity.bundle_watch import BundleStatus, BundleWatch, WatchTimes
from identity.spiffe_id import SpiffeId, TrustDomain
from identity.trust_bundle import BundleError, BundleSet, TrustBundle
from identity.x509_svid import X509Svid, verify_svid

QUICK = WatchTimes(
    default_seconds=0.02,
    shortest_seconds=0.02,
    first_retry_seconds=0.02,
    longest_seconds=0.05,
    file_seconds=0.02,
)


@dataclass
class Watching:
    """A running watch with what it told."""

    watch: BundleWatch
    told: queue.Queue[BundleStatus] = field(default_factory=queue.Queue)

    def until(self, holds: Callable[[BundleStatus], bool]) -> BundleStatus:
        """The first status told for which this holds."""
        while True:
            status = self.told.get(timeout=10)
            if holds(status):
                return status


@contextlib.contextmanager
def watching(
    *sources: BundleSource, times: WatchTimes = QUICK, **fields: Any
) -> Iterator[Watching]:
    """Watch these sources for a while."""
    told: queue.Queue[BundleStatus] = queue.Queue()
    watch = BundleWatch(sources, times=times, on_change=told.put, **fields)
    watch.start()
    try:
        yield Watching(watch, told)
    finally:
        watch.stop(wait_seconds=5)


def test_a_file_is_read_at_once_and_again(tmp_path: Path) -> None:
    """A file's bundle is there before anything serves, and an edit counts soon."""
    path = tmp_path / "roots"
    path.write_bytes(authority("root").pem)
    with watching(BundleFile(trust_domain=EXAMPLE, path=path)) as running:
        assert names_in(running.watch.current().bundle_for(EXAMPLE)) == ["root"]

        path.write_bytes(encode_bundle(bundle("root", "next", sequence=2)))
        status = running.until(lambda each: each.sequence == 2)

        assert (status.x509_authorities, status.last_error) == (2, "")
        assert names_in(running.watch.current().bundle_for(EXAMPLE)) == ["root", "next"]

        # The operator has the last word, whatever number it bears.
        path.write_bytes(encode_bundle(bundle("next", sequence=1)))
        assert running.until(lambda each: each.sequence == 1).last_error == ""


def test_the_set_is_the_same_while_nothing_changes(tmp_path: Path) -> None:
    """Verdicts may be remembered by the set itself: equal bundles make no new one."""
    path, between = tmp_path / "roots", tmp_path / "between"
    path.write_bytes(encode_bundle(bundle("root", sequence=1)))
    between.write_bytes(authority("next").pem)
    source = WithIntermediates(source=BundleFile(trust_domain=EXAMPLE, path=path), path=between)
    watch = BundleWatch([source], clock=lambda: 0.0)
    watched, first = watch._watched[EXAMPLE], watch.current()

    for text, is_same in ((authority("next").pem, True), (authority("other").pem, False)):
        between.write_bytes(text)
        watch._visit(watched)
        watch._publish()
        assert (first is watch.current()) == is_same
    assert (watched.fetches, watched.failures) == (2, 0)

    between.unlink()
    watch._visit(watched)
    assert "between` cannot be read" in watch.status()[0].last_error
    assert watch.status()[0].is_ready


def test_a_broken_file_leaves_the_last_good_bundle(tmp_path: Path) -> None:
    """A half-written or vanished file changes nothing but the status."""
    path = tmp_path / "roots"
    path.write_bytes(authority("root").pem)
    with watching(BundleFile(trust_domain=EXAMPLE, path=path)) as running:
        path.write_bytes(b"{")
        assert "not a JSON object" in running.until(lambda each: bool(each.last_error)).last_error
        path.unlink()
        gone = running.until(lambda each: "cannot be read" in each.last_error)

        assert gone.is_ready
        assert names_in(running.watch.current().bundle_for(EXAMPLE)) == ["root"]


def test_a_file_that_is_not_there_refuses_to_start(tmp_path: Path) -> None:
    """What the operator names must be there: no watch begins without it."""
    with pytest.raises(BundleError, match="cannot be read"):
        BundleWatch([BundleFile(trust_domain=EXAMPLE, path=tmp_path / "none")])


def test_two_sources_for_one_trust_domain_are_refused(tmp_path: Path) -> None:
    """Bundles are never merged, so a trust domain has one source."""
    with pytest.raises(BundleError, match="two sources"):
        BundleWatch([web(1), spiffe(1)])


def test_https_web(tmp_path: Path) -> None:
    """A public authority vouches for the host; the bundle is that of the configured name."""
    published = Published(encode_bundle(bundle("root", sequence=7, refresh_hint_seconds=0)))
    with serving(tmp_path, [web_leaf()], published) as port, watching(web(port)) as running:
        status = running.until(lambda each: each.is_ready)

        assert (status.sequence, status.refresh_seconds) == (7, QUICK.shortest_seconds)
        assert names_in(running.watch.current().bundle_for(EXAMPLE)) == ["root"]
        assert running.watch.current().bundle_for(OTHER) is None


def test_https_web_with_a_stranger_behind_the_name(tmp_path: Path) -> None:
    """A server that no public authority vouches for is asked for nothing."""
    published = Published(encode_bundle(bundle("root")))
    with (
        serving(
            tmp_path, [endpoint_leaf(dns=("bundles.example",), subject="x")], published
        ) as port,
        watching(web(port)) as running,
    ):
        status = running.until(lambda each: bool(each.last_error))

        assert not status.is_ready
        assert published.asked == 0
        assert len(running.watch.current()) == 0


def test_https_spiffe_in_a_watch(tmp_path: Path) -> None:
    """An endpoint's bundle takes the place of the given one as soon as it is fetched."""
    published = Published(encode_bundle(bundle("next", sequence=1)))
    with (
        serving(tmp_path / "a", [endpoint_leaf()], published) as port,
        watching(spiffe(port)) as running,
    ):
        running.until(lambda each: each.sequence == 1)

        assert names_in(running.watch.current().bundle_for(EXAMPLE)) == ["next"]
        leaf = make(LEAF, authority("next"))
        assert isinstance(verify_svid([leaf.der], running.watch.current(), NOW), X509Svid)


def test_https_spiffe_served_by_another_trust_domain(tmp_path: Path) -> None:
    """An endpoint of another trust domain is verified by that one's own bundle."""
    path = tmp_path / "other.pem"
    path.write_bytes(authority("other").pem)
    server_id = "spiffe://other.org/federation"
    published = Published(encode_bundle(bundle("root")))
    with serving(tmp_path / "s", [endpoint_leaf(server_id, by="other")], published) as port:
        source = spiffe(port, given=None, endpoint_id=SpiffeId.parse(server_id))
        with watching(BundleFile(trust_domain=OTHER, path=path), source) as running:
            running.until(lambda each: each.trust_domain == EXAMPLE and each.is_ready)

            assert names_in(running.watch.current().bundle_for(EXAMPLE)) == ["root"]
            assert names_in(running.watch.current().bundle_for(OTHER)) == ["other"]


@pytest.mark.parametrize("seconds", [1e11, float("inf")])
def test_what_is_never_looked_at_again_is_still_watched(tmp_path: Path, seconds: float) -> None:
    """A pause beyond any number of seconds ends no watching."""
    path = tmp_path / "roots"
    path.write_bytes(authority("root").pem)
    times = WatchTimes(
        default_seconds=seconds, longest_seconds=seconds, file_seconds=seconds, max_age_seconds=1e12
    )
    published = Published(encode_bundle(bundle("other", domain=OTHER, sequence=1)))
    with serving(tmp_path / "s", [web_leaf()], published) as port:
        sources = (BundleFile(trust_domain=EXAMPLE, path=path), web(port, trust_domain=OTHER))
        with watching(*sources, times=times) as running:
            running.until(lambda each: each.sequence == 1)
            thread = running.watch._thread
            assert thread is not None
            thread.join(0.2)
            assert thread.is_alive()


@pytest.mark.parametrize("hint", ["1" + "0" * 400, "1" + "0" * 4000, str(2**63), "0"])
def test_no_hint_ends_the_watching(tmp_path: Path, hint: str) -> None:
    """A refresh hint beyond any number of seconds is bounded, and the next bundle is had."""
    first = b'{"keys": [], "spiffe_sequence": 1, "spiffe_refresh_hint": %s}' % hint.encode()
    published = Published(first)
    with serving(tmp_path, [web_leaf()], published) as port, watching(web(port)) as running:
        running.until(lambda each: each.sequence == 1)
        published.body = encode_bundle(bundle("root", sequence=2))

        assert running.until(lambda each: each.sequence == 2).last_error == ""


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"body": b"<html>maintenance</html>"}, "not a JSON object"),
        ({"body": b'{"keys": 1}'}, "no list `keys`"),
        ({"body": b'{"keys": [], "keys": []}'}, "each name once"),
        ({"body": b" " * (1 << 20) + b"{}"}, "longer than"),
        ({"status": 500}, "status 500"),
        ({"headers": {"Content-Encoding": "gzip"}}, "packed"),
    ],
)
def test_a_lying_endpoint_changes_nothing(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    """Whatever an endpoint says that is no bundle, the last good one stays."""
    published = Published(encode_bundle(bundle("root", sequence=3)))
    with serving(tmp_path, [endpoint_leaf()], published) as port, watching(spiffe(port)) as running:
        running.until(lambda each: each.sequence == 3)
        for name, value in change.items():
            setattr(published, name, value)
        status = running.until(lambda each: bool(each.last_error))

        assert why in status.last_error
        assert (status.is_ready, status.sequence) == (True, 3)
        assert names_in(running.watch.current().bundle_for(EXAMPLE)) == ["root"]


def test_a_sequence_that_goes_back_is_not_taken(tmp_path: Path) -> None:
    """An old bundle, replayed, brings no revoked authority back."""
    published = Published(encode_bundle(bundle("next", sequence=9)))
    with serving(tmp_path, [endpoint_leaf()], published) as port:
        given = bundle("root", "next", sequence=8)
        with watching(spiffe(port, given=given)) as running:
            running.until(lambda each: each.sequence == 9)
            # Its own authority is gone from the bundle, so that only the old sequence could help.
            published.body = encode_bundle(bundle("root", sequence=8))
            status = running.until(lambda each: bool(each.last_error))

            assert "could not be reached" in status.last_error
            assert names_in(running.watch.current().bundle_for(EXAMPLE)) == ["next"]


def test_a_replayed_bundle_over_a_good_connection(tmp_path: Path) -> None:
    """Not even the right server can take the sequence back."""
    published = Published(encode_bundle(bundle("root", "next", sequence=9)))
    with serving(tmp_path, [endpoint_leaf()], published) as port, watching(spiffe(port)) as running:
        running.until(lambda each: each.sequence == 9)
        published.body = encode_bundle(bundle("root", sequence=8))
        status = running.until(lambda each: bool(each.last_error))

        assert "went back from 9 to 8" in status.last_error


def test_an_empty_bundle_untrusts_everybody(tmp_path: Path) -> None:
    """No keys is an answer: from then on nobody of the trust domain is trusted."""
    published = Published(encode_bundle(bundle("root", sequence=1)))
    leaf = make(LEAF, authority("root"))
    with serving(tmp_path, [web_leaf()], published) as port, watching(web(port)) as running:
        running.until(lambda each: each.sequence == 1)
        assert isinstance(verify_svid([leaf.der], running.watch.current(), NOW), X509Svid)
        published.body = b'{"keys": [], "spiffe_sequence": 2}'
        running.until(lambda each: each.sequence == 2)

        assert not isinstance(verify_svid([leaf.der], running.watch.current(), NOW), X509Svid)


@dataclass
class Told:
    """A source that does as it is told, for a clock that moves as it is told."""

    answers: list[TrustBundle | Exception]
    trust_domain: TrustDomain = EXAMPLE
    name: str = "told"
    is_remote: bool = True
    given: TrustBundle | None = None

    def load(self, held: BundleSet) -> TrustBundle:
        """The next answer; the last one for ever."""
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def _visits(source: Told, count: int, draws: Callable[[float, float], float]) -> list[float]:
    """The waits that the watch chooses after each of so many visits, on a clock that stands."""
    watch = BundleWatch([source], clock=lambda: 0.0, draw=draws)
    watched = watch._watched[EXAMPLE]
    waits = []
    for _ in range(count):
        watch._visit(watched)
        waits.append(watched.due)
    return waits


def test_waits() -> None:
    """A good copy waits for its hint within bounds, a failure twice as long as the one before."""
    failure = BundleError("no")
    good = [bundle("root", refresh_hint_seconds=hint) for hint in (None, 60, 1, 10**9)]

    waits = _visits(Told([*good, failure]), 4, lambda low, high: 1.0)
    assert waits == [300, 60, 30, 24 * 3600]
    waits = _visits(Told([failure]), 8, lambda low, high: 1.0)
    assert waits == [5, 10, 20, 40, 80, 160, 300, 300]
    waits = _visits(Told([failure, good[0], failure]), 3, lambda low, high: 1.0)
    assert waits == [5, 300, 5]
    assert _visits(Told([failure]), 1, lambda low, high: low) == [4.5]
    assert _visits(Told([failure]), 1, lambda low, high: high) == [5.5]


def test_a_copy_that_grew_too_old_is_not_believed() -> None:
    """An endpoint that is silent for too long untrusts its trust domain; a later word heals it."""
    now = [0.0]
    source = Told([bundle("root"), BundleError("silent")])
    watch = BundleWatch([source], clock=lambda: now[0], times=WatchTimes(max_age_seconds=1000))
    watched = watch._watched[EXAMPLE]
    for moment, is_there in ((0.0, True), (1000.0, True), (1001.0, False)):
        now[0] = moment
        watch._visit(watched)
        watch._publish()
        assert (watch.current().bundle_for(EXAMPLE) is not None) == is_there
    # The old copy still serves to verify the endpoint.
    assert names_in(watch._held().bundle_for(EXAMPLE)) == ["root"]

    source.answers = [bundle("next")]
    watch._visit(watched)
    watch._publish()
    assert names_in(watch.current().bundle_for(EXAMPLE)) == ["next"]


def test_a_defect_does_not_end_the_watching() -> None:
    """Whatever a source or a listener raises, the thread goes on."""

    def fail(status: BundleStatus) -> None:
        raise RuntimeError

    source = Told([ZeroDivisionError(), bundle("root"), bundle("next")])
    watch = BundleWatch([source], times=QUICK, on_change=fail)
    watch.start()
    try:
        thread = watch._thread
        assert thread is not None
        while names_in_or_none(watch) != ["next"]:
            thread.join(0.01)
            assert thread.is_alive()
    finally:
        watch.stop(wait_seconds=5)
    assert not thread.is_alive()


def names_in_or_none(watch: BundleWatch) -> list[str] | None:
    """The authorities that are believed now."""
    found = watch.current().bundle_for(EXAMPLE)
    return None if found is None else names_in(found)


def test_status_before_anything_was_fetched() -> None:
    """A source that was never had says so."""
    status = BundleWatch([web(1)]).status()[0]

    assert (status.is_ready, status.fetched_at, status.fetches) == (False, None, 0)
    assert not isinstance(status.fetched_at, datetime)
