"""Whoever is asked, there is one answer: the server, `eval`, `explain`, `replay`, the shadows.

MESHWARDEN_RANDOM_WORLDS is how many worlds there are, MESHWARDEN_RANDOM_FIRST the first.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from typing import Any

import asking_every_way as ways
import pytest
import random_worlds
from asking_every_way import Room, Set, deciding

from authz.explain.document import to_document
from authz.explain.story import tell
from authz.serving_state import ServingState
from authz.walk import Outcome
from dryrun.candidate import CANDIDATE
from dryrun.replay import Change
from dryrun.shadow import TOGETHER

_WORLDS = int(os.environ.get("MESHWARDEN_RANDOM_WORLDS", "5"))
_FIRST = int(os.environ.get("MESHWARDEN_RANDOM_FIRST", "0"))
_ASKED = 12
_UNTOLD_TIME = 2**55
# Worlds whose changes matter to many requests.
_TELLING = (503, 529, 539)


@pytest.fixture(scope="module", autouse=True)
def _modules(tmp_path_factory: pytest.TempPathFactory) -> None:
    ways.modules_in(tmp_path_factory.mktemp("rego"))


@pytest.mark.parametrize("seed", range(_FIRST, _FIRST + _WORLDS))
def test_one_answer(seed: int) -> None:
    """In a random world, every way to ask comes to what is served."""
    ask_in_world(seed)


def test_replays_mostly_know() -> None:
    """Most records are decided again for sure: what is not known would prove nothing."""
    found = sum((ask_in_world(seed) for seed in _TELLING), Counter[Change]())
    assert found[Change.UNKNOWN] < found.total() / 2
    assert found[Change.NEW_ALLOW] + found[Change.NEW_DENY] > 0


def ask_in_world(seed: int) -> Counter[Change]:
    """Ask in a world, and return what replays under another set came to."""
    replays: Counter[Change] = Counter()
    chance = random.Random(seed)
    found, room = ways.first_set(chance), Room(chance)
    state = found.state()
    other = ways.changed(chance, found)
    other_state = other.state()
    for number in range(_ASKED):
        asked = random_worlds.asked(chance)
        for _ in range(chance.randrange(5)):
            random_worlds.change(chance, asked)
        sent = (("x-a", "x"), ("x-a", "y"), ("x-out", "x"), ("x-t", "{t}"), ("cookie", "t={t}"))
        asked["headers"] = [*asked["headers"], *chance.sample(sent, chance.randrange(3))]
        if asked.get("time") in (_UNTOLD_TIME, -5):
            asked["time"] = 1
        message = random_worlds.message_of(asked, number, chance.choice(("0", "bad-1", "x")))
        told = (seed, asked)
        answer, record = room.serve(state, message)
        check_eval(room, state, message, record, told)
        again = room.replay(found, record)
        assert again.change in (Change.SAME, Change.UNKNOWN), (told, again.why)
        replays[check_replayed(room, other, other_state, message, record, told)] += 1
        check_shadows(room, found, state, message, record, told)
        check_candidate(room, state, other_state, message, told)
    return replays


def check_eval(
    room: Room, state: ServingState, message: bytes, record: dict[str, Any], told: object
) -> None:
    """`policy eval` and `policy explain` say of a message what is on record."""
    line, outcome = room.evaluate(state, message)
    names = ("decision", "status", "policy", "rule", "reason", "layer", "detail")
    said = tuple(line[name] for name in names)
    assert said == (*deciding(record)[:6], line["detail"]), told
    assert line.get("near_miss", "") == outcome.decision.near_miss, told
    shadows = {each["policy"]: each["effect"] for each in record["shadow"]}
    shadows.pop(TOGETHER, None)
    assert {each["policy"]: each["would"] for each in line["shadow"]} == shadows, told
    assert [f"{each['policy']}#{each['rule']}" for each in line["audited"]] == record["audited_by"]
    check_story(state, outcome, record, told)


def check_story(
    state: ServingState, outcome: Outcome, record: dict[str, Any], told: object
) -> None:
    """The story has the answer of the record, its decider, and ticks that come to it."""
    story = to_document(tell(outcome, state), state.snapshot.mesh)
    decision, decided = story["decision"], record["decision"]
    names = {"effect": "effect", "status": "http_status", "reason": "reason", "layer": "layer"}
    assert {name: decision[name] for name in names} == {
        name: decided[other] for name, other in names.items()
    }, told
    assert (decision["rule"] or {}).get("policy") == decided["policy"], told
    standings = {each["policy"]: each["standing"] for each in story["policies"]}
    deciders = [name for name, standing in standings.items() if standing == "decided"]
    by_policy = decided["layer"] in ("CUSTOM", "DENY", "ALLOW") and decided["policy"]
    assert deciders == ([decided["policy"]] if by_policy else []), told
    matching = {
        action: [
            each["policy"]
            for each in story["policies"]
            if each["action"] == action
            and each["standing"] != "shadow"
            and any(rule["matches"] for rule in each["rules"])
        ]
        for action in ("CUSTOM", "DENY", "ALLOW")
    }
    if decision["effect"] == "allow":
        assert not matching["DENY"], told
    if decided["reason"] == "no_allow_rule_matched":
        assert not matching["DENY"], told
        assert not matching["ALLOW"], told
    if decided["reason"] in ("deny_rule_matched", "allow_rule_matched"):
        assert decided["policy"] == matching[decided["layer"]][0], told
    if by_policy and decided["layer"] == "CUSTOM":
        assert decided["policy"] in matching["CUSTOM"], told
    if decided["layer"] == "CUSTOM" and decided["effect"] == "deny":
        reached = [each for each in story["policies"] if each["action"] == "CUSTOM"]
        after = [each["policy"] for each in reached]
        if decided["policy"] in after:
            behind = reached[after.index(decided["policy"]) + 1 :]
            assert {each["standing"] for each in behind} <= {"not_asked"}, told


def check_replayed(
    room: Room,
    other: Set,
    other_state: ServingState,
    message: bytes,
    record: dict[str, Any],
    told: object,
) -> Change:
    """A record replayed under another set is what that set answers, or is not known."""
    _, wanted = room.serve(other_state, message)
    replayed = room.replay(other, record)
    if replayed.change is Change.UNKNOWN:
        return replayed.change
    was, new = record["decision"]["effect"], wanted["decision"]["effect"]
    change = Change.SAME if was == new else Change.NEW_DENY if new == "deny" else Change.NEW_ALLOW
    assert replayed.change is change, (told, record["decision"], wanted["decision"])
    if change is not Change.SAME and not replayed.is_rule_open:
        decided = wanted["decision"]
        rule = f"{decided['policy']}#{decided['rule']}" if decided["rule"] is not None else ""
        assert replayed.new_rule == (rule or decided["policy"] or decided["reason"]), told
    return change


def check_shadows(
    room: Room,
    found: Set,
    state: ServingState,
    message: bytes,
    record: dict[str, Any],
    told: object,
) -> None:
    """What a dry-run policy would have answered is what it answers once it is enforced."""
    if "istio" in found.modules.values():
        # What Istio's policies say is part of what that Rego is asked.
        return
    names = [each["policy"] for each in record["shadow"]]
    for verdict in record["shadow"]:
        own = names if verdict["policy"] == TOGETHER else [verdict["policy"]]
        _, wanted = room.serve(ways.promoted(found, own).state(), message)
        assert verdict["effect"] == wanted["decision"]["effect"], (told, verdict)
        if would := verdict.get("would"):
            decided = wanted["decision"]
            keys = ("effect", "policy", "rule", "reason", "layer")
            assert [would[key] for key in keys] == [decided[key] for key in keys], told
            # Which rule came closest is not searched for as far, but that there are any is told.
            is_bare = "have no rules" in would["near_miss"]
            assert is_bare == ("have no rules" in decided["near_miss"]), told


def check_candidate(
    room: Room, state: ServingState, other: ServingState, message: bytes, told: object
) -> None:
    """What a candidate set says beside is what it answers where it is served."""
    _, record = room.serve(state, message, other)
    _, wanted = room.serve(other, message)
    [verdict] = [each for each in record["shadow"] if each["policy"] == CANDIDATE] or [None]
    if verdict is None:
        assert "replay" not in record, told
        return
    assert verdict["effect"] == wanted["decision"]["effect"], (told, verdict)
