"""A run: policy sets and requests of a seed, tried until there were enough of both."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.differential.known import explanation
from tests.differential.model import Difference
from tests.differential.policy_maker import make_set
from tests.differential.probe_maker import make_probes
from tests.differential.shrink import shrink
from tests.differential.tally import Tally
from tests.differential.trial import Refusal, Trial, running_trial

_SETS_IN_A_PUSH = 30
# A connection costs as much as four requests on a kept one.
_TCP_SHARE = 4
_PROGRESS_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much to try: at least so many requests over at least so many sets.

    Of `workers` that share a seed, `worker` (from 0) takes every such set.
    """

    requests: int
    sets: int
    seed: str
    worker: int = 0
    workers: int = 1

    @property
    def requests_of_a_set(self) -> int:
        """The requests of one HTTP set; about one set in eight is TCP and gets fewer."""
        return max(1, -(-self.requests * 11 // (self.sets * 10)))

    def share(self, worker: int, workers: int) -> Plan:
        """Return the part of one worker."""
        return Plan(
            requests=-(-self.requests // workers),
            sets=-(-self.sets // workers),
            seed=self.seed,
            worker=worker,
            workers=workers,
        )

    def next_push(self, tally: Tally) -> int:
        """Return how many sets to put up next, after those that are counted."""
        by_requests = -(-(self.requests - tally.requests) // self.requests_of_a_set)
        return max(1, min(_SETS_IN_A_PUSH, max(by_requests, self.sets - tally.sets)))


@dataclass(slots=True)
class Report:
    """What a run found, as texts; it goes from a worker's process to the one that asked."""

    tally: Tally = field(default_factory=Tally)
    shrunk: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)


def run_alone(plan: Plan, shrink_most: int) -> Report:
    """Start both sides, run a plan and shrink what it found."""
    begun = time.monotonic()
    refusals: list[Refusal] = []
    report = Report()
    with running_trial() as trial:
        found = list(_reported(run(trial, plan, refusals), trial, plan, begun))
        report.tally = trial.tally
        for each in _one_of_each(found)[:shrink_most]:
            report.shrunk.append(f"# set {each.policies.name}, shrunk\n{shrink(trial, each)}")
    report.refusals = [f"{each.policies.name}, by {each.by}: {each.why}" for each in refusals]
    return report


def run(
    trial: Trial, plan: Plan, refusals: list[Refusal] | None = None
) -> Iterator[Difference | None]:
    """Yield every difference that nothing explains, and None after each policy set."""
    refusals = [] if refusals is None else refusals
    number = plan.worker
    while trial.tally.requests < plan.requests or trial.tally.sets < plan.sets:
        size = plan.next_push(trial.tally)
        sets = [make_set(f"{plan.seed}-{number + each * plan.workers}") for each in range(size)]
        number += size * plan.workers
        before = len(refusals)
        for standing in trial.stand(sets, refusals):
            count = plan.requests_of_a_set // (_TCP_SHARE if standing.policies.is_tcp else 1)
            probes = make_probes(standing.policies, max(1, count), f"{standing.policies.name}-p")
            for difference in trial.run(standing, probes):
                name = explanation(difference)
                if name:
                    trial.tally.explained[name] += 1
                    continue
                trial.tally.differences += 1
                yield difference
            yield None
        trial.tally.refused.update(f"by {each.by}" for each in refusals[before:])


def _reported(
    found: Iterator[Difference | None], trial: Trial, plan: Plan, begun: float
) -> Iterator[Difference]:
    """Yield the differences, and tell on standard error how far the run is."""
    told = begun
    for difference in found:
        if difference is not None:
            yield difference
        now = time.monotonic()
        if now - told >= _PROGRESS_SECONDS:
            told = now
            tally = trial.tally
            print(
                f"{plan.worker + 1} of {plan.workers}: {tally.sets} sets, "
                f"{tally.requests} of {plan.requests} requests, "
                f"{tally.explained.total()} explained, {tally.differences} differences, "
                f"{now - begun:.0f} s",
                file=sys.stderr,
                flush=True,
            )


def _one_of_each(found: list[Difference]) -> list[Difference]:
    """Return one difference for each policy set and pair of statuses."""
    first: dict[tuple[str, int, int], Difference] = {}
    for each in found:
        first.setdefault((each.policies.name, each.envoy.status, each.ours.status), each)
    return list(first.values())
