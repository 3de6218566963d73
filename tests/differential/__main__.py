"""`python -m tests.differential --requests N`: as many requests as asked, then the counts."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat

from tests.differential.run import Plan, Report, run_alone
from tests.differential.tally import Tally


def main() -> int:
    """Run; exit status 1 when a difference is not explained, or a set was not tried."""
    options = _options()
    plan = Plan(requests=options.requests, sets=options.sets, seed=options.seed)
    begun = time.monotonic()
    reports = _reports(plan, options.workers, options.shrink)
    tally = Tally()
    for report in reports:
        tally.add(report.tally)
        for text in report.shrunk:
            print(f"\n{text}")
    print(f"\n{tally}")
    print(f"seed          {plan.seed}, {options.workers} workers, {time.monotonic() - begun:.0f} s")
    refusals = [text for report in reports for text in report.refusals]
    for text in refusals[: options.shrink]:
        print(f"not tried: {text}")
    return 1 if tally.differences or refusals else 0


def _reports(plan: Plan, workers: int, shrink_most: int) -> list[Report]:
    """Run the plan in as many processes, each with an Envoy and an authorizer of its own."""
    plans = [plan.share(number, workers) for number in range(workers)]
    # WHY spawned: a process that is forked takes gRPC's threads along in a broken state.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        return list(pool.map(run_alone, plans, repeat(shrink_most)))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.differential", description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000, help="how many, at least")
    parser.add_argument("--sets", type=int, default=300, help="over how many policy sets, at least")
    parser.add_argument("--seed", default="1", help="names all sets and requests of the run")
    parser.add_argument("--workers", type=int, default=2, help="processes that share the work")
    parser.add_argument("--shrink", type=int, default=5, help="differences to shrink and print")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
