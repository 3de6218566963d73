"""Edits on disk: the good ones serve, the bad ones are told and change nothing."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from audit.errors import AuditUnavailable
from authz.build import load_state
from authz.reload import Loaded, StateKeeper, fingerprint
from authz.serving_state import ServingState
from policies.diagnostic import Diagnostic, LoadError, Location
from policies.mesh import Mesh
from tests.waiting import until

GOOD = (
    "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n"
    "metadata: {name: p, namespace: shop}\nspec: {rules: [{}]}\n"
)


def edit(folder: Path, text: str) -> None:
    """Write p.yaml in one step: on a slow machine a half-written file is loaded as well."""
    aside = folder.with_suffix(".new")
    aside.write_text(text)
    aside.replace(folder / "p.yaml")


class Watch:
    """A keeper over a folder, with an event for each load."""

    def __init__(self, folder: Path) -> None:
        self.loads: list[tuple[Loaded | None, Sequence[Diagnostic]]] = []
        self.loaded = threading.Event()
        self.keeper = StateKeeper(
            lambda: load_state([folder], Mesh(), ()),
            [folder],
            interval_seconds=0.02,
            on_reload=self._note,
        )

    def _note(self, loaded: Loaded | None, problems: Sequence[Diagnostic]) -> None:
        self.loads.append((loaded, problems))
        self.loaded.set()

    def next_load(self) -> tuple[Loaded | None, Sequence[Diagnostic]]:
        """Wait for the next load and return it."""
        assert self.loaded.wait(10), "no reload came"
        self.loaded.clear()
        return self.loads[-1]


def told_of(watch: Watch) -> Loaded:
    """Return what is to be told of the state that serves."""
    state = watch.keeper.current()
    return Loaded(revision=state.revision, policies=len(state.snapshot.policies))


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    """Return a running watch over a folder with one good policy."""
    edit(tmp_path, GOOD)
    found = Watch(tmp_path)
    found.keeper.start()
    yield found
    found.keeper.stop()


def test_good_edit(watch: Watch, tmp_path: Path) -> None:
    """A good edit is served as a new state; the old one is untouched."""
    before = watch.keeper.current()
    edit(tmp_path, GOOD.replace("rules: [{}]", "rules: []"))

    loaded, problems = watch.next_load()

    assert () == problems
    assert told_of(watch) == loaded
    assert before.revision != watch.keeper.current().revision


def test_broken_edit_and_mending(watch: Watch, tmp_path: Path) -> None:
    """A broken edit keeps the last good state and says why; mending it clears the report."""
    before = watch.keeper.current()
    edit(tmp_path, GOOD.replace("rules", "ruels"))
    loaded, problems = watch.next_load()

    assert loaded is None
    assert watch.keeper.current() is before
    assert ["did you mean `rules`?"] == [found.help for found in problems]
    assert f"{tmp_path / 'p.yaml'}:4:8" == str(watch.keeper.status().problems[0].location)

    edit(tmp_path, GOOD + "# mended\n")
    loaded, problems = watch.next_load()

    assert told_of(watch) == loaded
    assert () == watch.keeper.status().problems


def test_emptied_file_is_refused(watch: Watch, tmp_path: Path) -> None:
    """A file cut to nothing does not take its policies along."""
    before = watch.keeper.current()
    edit(tmp_path, "")

    loaded, problems = watch.next_load()

    assert loaded is None
    assert "the file is empty" == problems[0].message
    assert watch.keeper.current() is before


def test_symlink_swap(tmp_path: Path) -> None:
    """The way Kubernetes swaps a mounted folder is seen as an edit."""
    for name, text in (("one", GOOD), ("two", GOOD.replace("shop", "jobs"))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "p.yaml").write_text(text)
    link = tmp_path / "current"
    link.symlink_to(tmp_path / "one")
    before = fingerprint([link])
    (tmp_path / "new").symlink_to(tmp_path / "two")
    (tmp_path / "new").rename(link)

    assert before != fingerprint([link])


def test_an_edit_that_keeps_size_and_time(tmp_path: Path) -> None:
    """What a copy in place with the old modification time wrote is seen as an edit."""
    path = tmp_path / "p.yaml"
    path.write_text(GOOD)
    before, info = fingerprint([tmp_path]), path.stat()
    path.write_text(GOOD.replace("shop", "pohs"))
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))

    assert info.st_size == path.stat().st_size
    assert before != fingerprint([tmp_path])


def test_a_listener_that_fails_hears_it_again(tmp_path: Path) -> None:
    """A reload that cannot be put on record yet is told later; the watching goes on."""
    edit(tmp_path, GOOD)
    told: list[str] = []
    refusals = iter([AuditUnavailable("the queue is full")] * 3)
    asked, both = threading.Event(), threading.Event()

    def note(loaded: Loaded | None, problems: Sequence[Diagnostic]) -> None:
        asked.set()
        for refusal in refusals:
            raise refusal
        told.append("refused" if loaded is None else "loaded")
        if len(told) == 2:
            both.set()

    keeper = StateKeeper(
        lambda: load_state([tmp_path], Mesh(), ()),
        [tmp_path],
        interval_seconds=0.02,
        on_reload=note,
    )
    keeper.start()
    edit(tmp_path, GOOD.replace("[{}]", "[]"))
    assert asked.wait(10)
    edit(tmp_path, "- broken")

    assert both.wait(10)
    assert ["loaded", "refused"] == told
    keeper.stop()


def test_an_outage_of_the_listener_is_told_once_and_stops_no_edit(tmp_path: Path) -> None:
    """While the record takes nothing, later edits serve all the same, without a trace a look."""
    edit(tmp_path, GOOD)
    is_away, heard = threading.Event(), list[Loaded | None]()
    is_away.set()

    def note(loaded: Loaded | None, _problems: Sequence[Diagnostic]) -> None:
        if is_away.is_set():
            raise AuditUnavailable("the disk is full")
        heard.append(loaded)

    keeper = StateKeeper(
        lambda: load_state([tmp_path], Mesh(), ()),
        [tmp_path],
        interval_seconds=0.01,
        on_reload=note,
    )
    with capture_logs() as logs:
        keeper.start()
        try:
            for rules in ("[]", "[{to: [{operation: {ports: ['1']}}]}]", "[{}]"):
                before = keeper.status().revision
                edit(tmp_path, GOOD.replace("rules: [{}]", f"rules: {rules}"))
                until(lambda before=before: keeper.status().revision != before)
            is_away.clear()
            until(lambda: len(heard) == 3)
        finally:
            keeper.stop()

    assert 1 == [each["event"] for each in logs].count("watch_failed")


def test_first_load_must_succeed(tmp_path: Path) -> None:
    """There is no last good state at the start: nothing begins to serve."""
    edit(tmp_path, "a: [")

    with pytest.raises(LoadError):
        Watch(tmp_path)


def test_defect_while_loading_is_survived(tmp_path: Path) -> None:
    """A defect in a load is reported as one; the watching goes on."""
    edit(tmp_path, GOOD)
    watch = Watch(tmp_path)
    good = watch.keeper._build
    watch.keeper._build = lambda: 1 / 0  # type: ignore[assignment,return-value]
    watch.keeper.start()
    try:
        edit(tmp_path, GOOD + "# 1\n")
        _, problems = watch.next_load()
        assert "internal" == problems[0].code
        watch.keeper._build = good
        edit(tmp_path, GOOD + "# 22\n")
        loaded, _ = watch.next_load()
        assert told_of(watch) == loaded
    finally:
        watch.keeper.stop()


def test_an_edit_outlives_what_kept_it_from_loading(tmp_path: Path) -> None:
    """What a lack of descriptors refused is loaded once there are some, without another edit."""
    edit(tmp_path, GOOD)
    watch = Watch(tmp_path)
    watch.keeper._retry_seconds = 0.02
    good, fails = watch.keeper._build, iter([LoadError, MemoryError, MemoryError])
    lacking = Diagnostic(code="file", message="Too many open files", location=Location("p.yaml"))

    def build() -> ServingState:
        kind = next(fails, None)
        if kind is LoadError:
            raise LoadError([lacking])
        if kind is not None:
            raise kind
        return good()

    watch.keeper._build = build
    watch.keeper.start()
    try:
        edit(tmp_path, GOOD + "---\n" + GOOD.replace("name: p,", "name: q,"))
        until(lambda: len(watch.keeper.current().snapshot.policies) == 2)
        until(lambda: len(watch.loads) == 3)
    finally:
        watch.keeper.stop()
    told = [[each.code for each in problems] for _, problems in watch.loads]
    assert told == [["file"], ["internal"], []]
    assert watch.keeper.status().problems == ()
    assert next(fails, None) is None


def test_what_stays_wrong_is_told_once(tmp_path: Path) -> None:
    """A set that is refused is looked at again, ever more seldom, and told of again by an edit."""
    edit(tmp_path, GOOD)
    watch = Watch(tmp_path)
    watch.keeper._retry_seconds = 0.02
    good, builds = watch.keeper._build, list[float]()

    def build() -> ServingState:
        builds.append(time.monotonic())
        return good()

    watch.keeper._build = build
    watch.keeper.start()
    try:
        with capture_logs() as logs:
            edit(tmp_path, "a: [")
            until(lambda: len(builds) >= 4)
            assert len(watch.loads) == 1
            edit(tmp_path, "a: [ ")
            until(lambda: len(watch.loads) == 2)
    finally:
        watch.keeper.stop()
    waits = [after - before for before, after in pairwise(builds[:4])]
    assert waits[1] > 0.02
    assert waits[2] > 0.04
    assert [each["event"] for each in logs].count("policy_refused") == 2


def test_a_warning_that_stands_is_told_once(watch: Watch, tmp_path: Path) -> None:
    """Of a reload's warnings those are told that were not there before."""
    odd = GOOD.replace("{rules: [{}]}", "{selector: {}, rules: [{}]}")
    with capture_logs() as told:
        edit(tmp_path, odd)
        watch.next_load()
        edit(tmp_path, odd + "# edited\n")
        watch.next_load()

    assert 1 == sum(each["event"] == "policy_warning" for each in told)


def test_what_fails_on_the_way_to_serve_is_told(tmp_path: Path) -> None:
    """A set that cannot be made ready is reported as one that cannot be loaded; the next serves."""
    edit(tmp_path, GOOD)
    watch = Watch(tmp_path)
    good, before = watch.keeper._hand_over, watch.keeper.current()
    watch.keeper._hand_over = lambda *_: 1 / 0  # type: ignore[assignment,return-value]
    watch.keeper.start()
    try:
        edit(tmp_path, GOOD + "# 1\n")
        loaded, problems = watch.next_load()
        assert (loaded, [each.code for each in problems]) == (None, ["internal"])
        assert problems == watch.keeper.status().problems
        assert watch.keeper.current() is before
        watch.keeper._hand_over = good
        edit(tmp_path, GOOD + "# 22\n")
        loaded, _ = watch.next_load()
        assert told_of(watch) == loaded
    finally:
        watch.keeper.stop()


def test_what_is_not_made_ready_is_not_kept(tmp_path: Path) -> None:
    """A bundle whose state does not come to serve is not the one that the next load builds on."""
    edit(tmp_path, GOOD)
    keeper, kept = Watch(tmp_path).keeper, list[str]()
    keeper._hand_over = lambda *_: 1 / 0  # type: ignore[assignment,return-value]

    with pytest.raises(ZeroDivisionError):
        keeper.adopt(keeper._build, lambda: kept.append("kept"))

    assert [] == kept


def test_what_is_dropped_bit_by_bit_delays_no_word(tmp_path: Path) -> None:
    """While the old set is let go of, the status names the new one already."""
    edit(tmp_path, GOOD)
    watch, named = Watch(tmp_path), list[str]()
    watch.keeper._let_go = lambda parts: named.append(watch.keeper.status().revision)
    edit(tmp_path, GOOD.replace("[{}]", "[]"))
    watch.keeper._tried = fingerprint([tmp_path])

    assert () == watch.keeper.adopt(watch.keeper._build, lambda: None)

    assert [watch.keeper.current().revision] == named


def test_the_last_reload_is_told_at_the_end(tmp_path: Path) -> None:
    """What was adopted since the last look is told before the watching is over."""
    edit(tmp_path, GOOD)
    watch = Watch(tmp_path)
    assert () == watch.keeper.adopt(watch.keeper._build, lambda: None)
    assert [] == watch.loads

    watch.keeper.stop()

    assert [(told_of(watch), ())] == watch.loads


def test_a_listener_that_fails_at_the_end_holds_nothing_up(tmp_path: Path) -> None:
    """A record that takes nothing any more does not keep the rest from being closed."""
    edit(tmp_path, GOOD)
    keeper = Watch(tmp_path).keeper
    keeper._on_reload = lambda *_: 1 / 0  # type: ignore[assignment,return-value]
    assert () == keeper.adopt(keeper._build, lambda: None)

    with capture_logs() as logs:
        keeper.stop()

    assert ["watch_failed"] == [each["event"] for each in logs]
