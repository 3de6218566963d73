"""Rego providers that outlive reloads: hurt, edited, both; never an old answer for a new text."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from authz.build import load_state
from authz.policy_reading import PolicyReading
from authz.provider_memory import ProviderMemory
from authz.provider_parts import load_providers
from authz.provider_settings import ProviderSettings
from authz.reload import StateKeeper
from authz.serving_state import ServingState
from opa_bridge.provider import RegoProvider
from policies.decision import ProviderError
from policies.mesh import Mesh
from policies.request import Request, Workload
from tests.failures.serving import Answer, House, eventually, policies, serving

CUSTOM = {"action": "CUSTOM", "provider": {"name": "rego"}, "rules": [{}]}
DENY_SECRET = {"action": "DENY", "rules": [{"to": [{"operation": {"paths": ["*/secret"]}}]}]}
# `walk` is nothing that is decided without a worker.
REGO = """package envoy.authz

default allow := false

allow if {
    some path
    walk(input.parsed_path, [path, _])
    input.parsed_path[0] == "%s"
}
"""
BROKEN = "package envoy.authz\n\nallow if { input.\n"
_paths = itertools.count()


def below(parent: int) -> set[int]:
    """Return the processes below one."""
    found: set[int] = set()
    for children in Path(f"/proc/{parent}/task").glob("*/children"):
        for number in map(int, children.read_text().split()):
            found |= {number, *below(number)}
    return found


@pytest.fixture(autouse=True)
def _own_processes() -> None:
    """Leave alone what tests before this one have not let go of yet."""
    gc.collect()
    _OTHERS.clear()
    _OTHERS.update(below(os.getpid()))


_OTHERS: set[int] = set()


def processes() -> set[int]:
    """Return the processes that this test has started."""
    return below(os.getpid()) - _OTHERS


def nurseries() -> set[int]:
    """Return the processes that workers are forked from."""
    return {each for each in processes() if below(each)}


def workers() -> set[int]:
    """Return the processes that evaluate."""
    return {worker for nursery in nurseries() for worker in below(nursery)}


HURTS: dict[str, tuple[Callable[[], set[int]], signal.Signals]] = {
    "workers killed": (workers, signal.SIGKILL),
    "nurseries killed": (nurseries, signal.SIGKILL),
    "workers stopped": (workers, signal.SIGSTOP),
    "nurseries stopped": (nurseries, signal.SIGSTOP),
    "all stopped": (processes, signal.SIGSTOP),
    "all killed": (processes, signal.SIGKILL),
}


def hurt(how: str) -> None:
    """Send the signal to whom it is for."""
    who, number = HURTS[how]
    for each in who():
        # Its worker may end with it.
        with suppress(ProcessLookupError):
            os.kill(each, number)


def ask(house: House, first: str, last: str = "") -> Answer:
    """Ask for a path that was not asked for before: nothing remembered answers."""
    return house.ask(path=f"/{first}/{next(_paths)}{last}")


@dataclass(slots=True)
class Edits:
    """Edits of a house's files, each followed until it serves."""

    house: House
    folder: Path
    allowed: str = "a"

    def serve_anew(self, **files: str) -> None:
        """Write files over those that are there, and wait until something new serves."""
        before = self.house.readyz()[1]["revision"]
        for name, text in files.items():
            (self.folder / name.replace("_", ".")).write_text(text)
        eventually(
            lambda: self.house.readyz()[1],
            lambda seen: seen["revision"] != before and not seen["refused"],
        )

    def holds(self) -> None:
        """Wait until what is allowed is allowed; what is not must not be, on the way or after."""
        other = "b" if self.allowed == "a" else "a"
        eventually(lambda: ask(self.house, self.allowed), self._is_allowed_and_not(other))
        eventually(lambda: ask(self.house, other), _is_denied)

    def _is_allowed_and_not(self, other: str) -> Callable[[Answer], bool]:
        def holds(seen: Answer) -> bool:
            assert ask(self.house, other).code != 0
            return seen.code == 0

        return holds


def _is_denied(seen: Answer) -> bool:
    assert seen.code != 0
    return seen.reason == "custom_denied"


@pytest.mark.parametrize("how", HURTS)
def test_a_hurt_provider_denies_and_heals_over_every_edit(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Policy, Rego or both edited, or Rego broken: denied meanwhile, then heard."""
    # What is stopped counts as stuck after seconds, of which this test has none.
    monkeypatch.setattr("opa_bridge.worker_pool._FORK_SECONDS", 0.5)
    files = {"policies.yaml": policies(CUSTOM), "allow.rego": REGO % "a"}
    rego = {"paths": ["allow.rego"], "timeoutSeconds": 0.3, "workers": 2}
    with serving(tmp_path, files, providers=[{"name": "rego", "rego": rego}]) as house:
        edits = Edits(house, tmp_path)
        edits.holds()

        hurt(how)
        edits.serve_anew(policies_yaml=policies(CUSTOM, DENY_SECRET))
        edits.holds()
        assert ask(house, "a", "/secret").reason == "deny_rule_matched"

        hurt(how)
        edits.allowed = "b"
        edits.serve_anew(allow_rego=REGO % "b")
        edits.holds()

        hurt(how)
        (tmp_path / "allow.rego").write_text(BROKEN)
        eventually(lambda: house.readyz()[1]["refused"], bool)
        edits.holds()

        hurt(how)
        edits.allowed = "a"
        edits.serve_anew(allow_rego=REGO % "a", policies_yaml=policies(CUSTOM))
        edits.holds()
        eventually(lambda: len(nurseries()), lambda seen: seen == 1)


def settings(folder: Path, name: str = "rego", fail_open: bool = False, **rego: Any) -> Any:
    """Return the settings of a provider over `allow.rego` and `data.yaml`."""
    files = {"paths": [folder / "allow.rego"], "data": [folder / "data.yaml"], "workers": 1}
    return ProviderSettings.model_validate(
        {"name": name, "fail_open": fail_open, "rego": {**files, **rego}}
    )


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Return a folder with Rego, data and a policy that asks."""
    (tmp_path / "allow.rego").write_text(REGO % "a")
    (tmp_path / "data.yaml").write_text("who: {1: one, true: yes, x: [1, 2.5, null]}\n")
    (tmp_path / "policies.yaml").write_text(policies(CUSTOM))
    return tmp_path


@dataclass(slots=True)
class Keeping:
    """A keeper of the files of a folder that reloads when it is told to, and no sooner."""

    folder: Path
    memory: ProviderMemory = field(default_factory=ProviderMemory)
    reading: PolicyReading = field(default_factory=PolicyReading)
    keeper: StateKeeper = field(init=False)

    def __post_init__(self) -> None:
        """Load the files."""
        self.keeper = StateKeeper(
            self.load,
            [],
            interval_seconds=60,
            on_reload=lambda loaded, problems: None,
            hand_over=self.reading.hand_over,
            let_go=self.reading.let_go,
        )
        self.reading.begin_serving()

    def load(self) -> ServingState:
        """Return the state of the files."""
        return load_state(
            [self.folder / "policies.yaml"],
            Mesh(),
            [settings(self.folder)],
            memory=self.memory,
            snapshot_of_texts=self.reading.snapshot,
        )

    def reload(self) -> bool:
        """Load the files anew; return whether they could be."""
        return not self.keeper.adopt(self.load, lambda: None)

    @property
    def provider(self) -> RegoProvider:
        """The provider that serves."""
        found = self.keeper.current().providers["rego"]
        assert isinstance(found, RegoProvider)
        return found

    def allows(self, path: str) -> bool:
        """Return the provider's verdict on a path that was not asked for before."""
        request = Request(
            method="GET",
            path=f"/{path}/{next(_paths)}",
            host="h",
            headers={":method": ("GET",)},
            workload=Workload(namespace="shop"),
        )
        return str(self.provider.evaluate(request).effect) == "allow"


def held() -> tuple[int, int, int]:
    """Return how many processes, threads and descriptors there are."""
    gc.collect()
    return len(processes()), threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))


def test_fifty_reloads_leave_nothing_behind(files: Path) -> None:
    """Edits of policy, Rego and data, refused ones and killed processes: all of them are let go."""
    keeping = Keeping(files)
    assert keeping.reload()
    before = held()
    for turn in range(50):
        (files / "policies.yaml").write_text(f"# {turn}\n{policies(CUSTOM)}")
        if turn % 10 == 1:
            (files / "allow.rego").write_text(REGO % "ab"[turn // 10 % 2])
        if turn % 10 == 4:
            (files / "data.yaml").write_text(f"turn: {turn}\n")
        if turn % 10 == 7:
            hurt("nurseries killed")
        is_broken = turn % 10 == 9
        good = (files / "allow.rego").read_text()
        if is_broken:
            (files / "allow.rego").write_text(BROKEN)
        assert keeping.reload() is not is_broken
        (files / "allow.rego").write_text(good)
        allowed = "ab"[(turn - 1) // 10 % 2] if turn else "a"
        verdicts = verdict(keeping, "a"), verdict(keeping, "b")
        assert verdicts == (allowed == "a", allowed == "b")
    eventually(held, lambda seen: seen == before)


def verdict(keeping: Keeping, path: str) -> bool:
    """Return the first verdict on a path; a failure, of a process that is dying, is none."""
    found: list[bool] = []

    def is_given() -> bool:
        with suppress(ProviderError):
            found.append(keeping.allows(path))
        return bool(found)

    eventually(is_given, bool)
    return found[0]


def same_time(path: Path, text: str) -> None:
    """Write a file and give it the time of modification that it had."""
    info = path.stat()
    path.write_text(text)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def linked(path: Path, text: str) -> None:
    """Replace a file by a link to another one."""
    other = path.with_name(f"other-{path.name}")
    other.write_text(text)
    path.unlink()
    path.symlink_to(other)


def renamed_over(path: Path, text: str) -> None:
    """Replace a file as editors do."""
    other = path.with_suffix(".new")
    other.write_text(text)
    other.rename(path)


DATA = "who: {1: one, true: yes, x: [1, 2.5, null]}\n"


@pytest.mark.parametrize(
    ("write", "name", "text", "is_same"),
    [
        (Path.write_text, "allow.rego", REGO % "a", True),
        (Path.write_text, "data.yaml", DATA, True),
        (Path.write_text, "data.yaml", DATA.replace("2.5", "2"), False),
        (Path.write_text, "data.yaml", DATA.replace("1: one", "'1': one"), False),
        (same_time, "allow.rego", REGO % "b", False),
        (same_time, "data.yaml", DATA.replace("one", "two"), False),
        (linked, "allow.rego", REGO % "a", True),
        (linked, "allow.rego", REGO % "b", False),
        (linked, "data.yaml", DATA.replace("one", "two"), False),
        (renamed_over, "data.yaml", DATA, True),
        (renamed_over, "allow.rego", REGO % "b", False),
    ],
)
def test_what_a_file_says_counts_and_not_how_it_came(
    files: Path, write: Callable[[Path, str], None], name: str, text: str, is_same: bool
) -> None:
    """Time, links and the way of writing are looked through; every other content is heard."""
    keeping = Keeping(files)
    before = keeping.provider
    write(files / name, text)
    assert keeping.reload()
    assert (keeping.provider is before) is is_same
    assert (keeping.provider.revision == before.revision) is is_same
    assert keeping.allows("b" if text == REGO % "b" else "a")


@pytest.mark.parametrize(
    "changed",
    [
        {"timeout_seconds": 0.3},
        {"max_body_bytes": 1},
        {"dry_run": True},
        {"workers": 2},
        {"skip_request_body_parse": True},
        {"compatibility": {"encoded_slash": True}},
        {"fail_open": True},
        {"name": "other"},
        {"data": []},
    ],
    ids=str,
)
def test_other_settings_are_another_provider(files: Path, changed: dict[str, Any]) -> None:
    """No provider is found for settings that are not the ones it was made with."""
    memory = ProviderMemory()
    first, _ = load_providers([settings(files)], memory=memory)
    again, _ = load_providers([settings(files)], memory=memory)
    other, problems = load_providers([settings(files, **changed)], memory=memory)
    assert problems == []
    assert first["rego"] is again["rego"]
    assert first["rego"] is not next(iter(other.values()))


def test_two_files_that_swap_their_texts_are_told_of_anew(tmp_path: Path) -> None:
    """Findings name files: the texts are the same, and where they stand is not."""
    texts = [REGO % "a", 'package other\n\nreasons := {"x": "one"}\n']
    memory = ProviderMemory()
    found = []
    for order in (texts, texts[::-1]):
        for name, text in zip(("1.rego", "2.rego"), order, strict=True):
            (tmp_path / name).write_text(text)
        rego = {"paths": [tmp_path], "workers": 1}
        made = ProviderSettings.model_validate({"name": "rego", "rego": rego})
        found.append(load_providers([made], memory=memory)[0]["rego"])
    assert found[0].revision == found[1].revision
    assert found[0] is not found[1]


def test_a_folder_of_rego_is_read_through_links_and_whole(files: Path) -> None:
    """A linked folder counts, as it does for policies; one that leads back, or a pipe, does not."""
    folder = files / "rego"
    (files / "more").mkdir()
    folder.mkdir()
    (folder / "allow.rego").write_text("package envoy.authz\n\nallow := data.more.says\n")
    (folder / "more").symlink_to(files / "more")
    more = files / "more" / "more.rego"
    more.write_text("package more\n\nsays := true\n")
    chosen = settings(files, paths=[folder], data=[])
    providers, problems = load_providers([chosen])
    assert problems == []
    assert "says" in (folder / "more" / "more.rego").read_text()
    providers["rego"].engine.close()

    (files / "more" / "back").symlink_to(folder)
    assert "again" in str(load_providers([chosen])[1][0])

    os.mkfifo(files / "pipe.rego")
    piped = settings(files, paths=[files / "pipe.rego"], data=[])
    assert "not a regular file" in str(load_providers([piped])[1][0])


def test_a_candidate_with_the_same_rego_is_hurt_and_edited_alike(tmp_path: Path) -> None:
    """The enforced set and the candidate each heal, and each hear the new text."""
    files = {
        "policies.yaml": policies(CUSTOM),
        "candidate/policies.yaml": policies(CUSTOM),
        "allow.rego": REGO % "a",
        "own.rego": REGO % "a",
    }
    shared = {"paths": ["allow.rego"], "timeoutSeconds": 0.3, "workers": 1}
    candidate: dict[str, Any] = {"paths": ["candidate"], "budgetSeconds": 5}
    sections = {
        "providers": [{"name": "rego", "rego": shared}],
        "dryrun": {"candidate": candidate},
    }

    def outcomes(house: House, first: str) -> tuple[int, set[str]]:
        answer = ask(house, first)
        shadows = [each.get("shadow") or [] for each in house.records()]
        return answer.code, {each["outcome"] for each in shadows[-1]} if shadows else set()

    with serving(tmp_path, files, **sections) as house:
        for first in "aba":
            (tmp_path / "allow.rego").write_text(REGO % first)
            hurt("all killed")
            eventually(partial(outcomes, house, first), lambda seen: seen == (0, {"same"}))
            other = "b" if first == "a" else "a"
            eventually(partial(outcomes, house, other), lambda seen: seen == (7, {"same"}))
