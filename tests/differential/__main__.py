"""`python -m tests.differential --requests N`: as many requests as asked, then the counts."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from tests.differential.known import explanation
from tests.differential.model import Difference
from tests.differential.policy_maker import make_set
from tests.differential.probe_maker import make_probes
from tests.differential.shrink import shrink
from tests.differential.trial import Refusal, Trial, running_trial

_SETS_IN_A_PUSH = 30
# A connection costs as much as four requests on a kept one.
_TCP_SHARE = 4
_PROGRESS_SECONDS = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much to try: at least so many requests over at least so many sets."""

    requests: int
    sets: int
    seed: str

    @property
    def requests_of_a_set(self) -> int:
        """The requests of one HTTP set; about one set in eight is TCP and gets fewer."""
        return max(1, -(-self.requests * 11 // (self.sets * 10)))


def main() -> int:
    """Run; exit status 1 when a difference is not explained."""
    options = _options()
    plan = Plan(requests=options.requests, sets=options.sets, seed=options.seed)
    begun = time.monotonic()
    refusals: list[Refusal] = []
    with running_trial() as trial:
        found = list(_reported(run(trial, plan, refusals), trial, begun))
        for difference in _one_of_each(found)[: options.shrink]:
            print(f"\n# set {difference.policies.name}, shrunk")
            print(shrink(trial, difference), flush=True)
        print(f"\n{trial.tally}")
        print(f"seed          {plan.seed}, {time.monotonic() - begun:.0f} s")
    for refusal in refusals[: options.shrink]:
        print(f"not tried: {refusal.policies.name}, refused by {refusal.by}: {refusal.why}")
    return 1 if found else 0


def run(
    trial: Trial, plan: Plan, refusals: list[Refusal] | None = None
) -> Iterator[Difference | None]:
    """Yield every difference that nothing explains, and None after each policy set."""
    refusals = [] if refusals is None else refusals
    number = 0
    while trial.tally.requests < plan.requests or trial.tally.sets < plan.sets:
        sets = [make_set(f"{plan.seed}-{number + each}") for each in range(_SETS_IN_A_PUSH)]
        number += _SETS_IN_A_PUSH
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
    found: Iterator[Difference | None], trial: Trial, begun: float
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
                f"{tally.sets} sets, {tally.requests} requests, "
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


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.differential", description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000, help="how many, at least")
    parser.add_argument("--sets", type=int, default=300, help="over how many policy sets, at least")
    parser.add_argument("--seed", default="1", help="names all sets and requests of the run")
    parser.add_argument("--shrink", type=int, default=5, help="differences to shrink and print")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
