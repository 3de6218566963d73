"""A whole test run: files and Rego tests, one after the other or in several processes.

INVARIANT: what comes out stands in the order of the files and of the tests in them, however
many processes ran them.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from authz.policytest.coverage.items import Tally
from authz.policytest.coverage.measure import Measuring, tally_of_rego
from authz.policytest.rego_run import SUFFIX as REGO_SUFFIX
from authz.policytest.rego_run import Unit, find_units, run_unit
from authz.policytest.report import BrokenFile, Trouble
from authz.policytest.result import CaseResult
from authz.policytest.run import (
    BrokenPoliciesError,
    Manner,
    Part,
    find_test_files,
    list_test_file,
    run_test_file,
)
from policies.diagnostic import LoadError

# BUDGET: tests below which a process of its own costs more than it spares.
_WORTH_SHARING: Final = 2_000

Found = CaseResult | BrokenFile | Tally
"""What a run yields: results, what could not be run, and at the end of a share what it came to."""


@dataclass(frozen=True, slots=True)
class Share:
    """What is run in one go: a test file, or a part of it, or the Rego tests of a folder."""

    what: Path | Unit
    manner: Manner

    @property
    def title(self) -> str:
        """The file or folder."""
        return str(self.what.folder if isinstance(self.what, Unit) else self.what)

    def run(self, *, measures: bool) -> Iterator[Found]:
        """Yield everything that comes of it."""
        try:
            if isinstance(self.what, Unit):
                yield from _run_unit(self.what, self.manner, measures=measures)
            else:
                yield from _run_file(self.what, self.manner, measures=measures)
        except BrokenPoliciesError as exc:
            yield self._broken(Trouble.POLICIES, exc)
        except LoadError as exc:
            yield self._broken(self._trouble(exc), exc)

    def _trouble(self, exc: LoadError) -> Trouble:
        if not isinstance(self.what, Unit):
            return Trouble.TEST_FILE
        places = [found.location.file for found in exc.diagnostics]
        is_of_tests = all(each.endswith(REGO_SUFFIX) for each in places)
        return Trouble.TEST_FILE if is_of_tests else Trouble.POLICIES

    def _broken(self, trouble: Trouble, exc: LoadError | BrokenPoliciesError) -> BrokenFile:
        return BrokenFile(file=Path(self.title), trouble=trouble, diagnostics=exc.diagnostics)


def find_shares(paths: Sequence[Path], manner: Manner, jobs: int = 1) -> list[Share]:
    """Return all that is to be run below the paths, cut for so many processes.

    Raises:
        LoadError: a path does not exist.
    """
    named = [path for path in paths if not path.name.endswith(REGO_SUFFIX)]
    missing = [path for path in paths if path.name.endswith(REGO_SUFFIX) and not path.is_file()]
    shares: list[Share] = []
    for file in find_test_files([*named, *missing]):
        parts = jobs if jobs > 1 and _count(file) >= _WORTH_SHARING else 1
        cuts = [Part(number=number, of=parts) for number in range(parts)]
        shares += [Share(file, replace(manner, part=cut)) for cut in cuts]
    return shares + [Share(unit, manner) for unit in find_units(paths)]


def run_shares(shares: Sequence[Share], *, measures: bool, jobs: int = 1) -> Iterator[Found]:
    """Yield everything that comes of the shares, in their order."""
    if jobs == 1 or len(shares) == 1:
        for share in shares:
            yield from share.run(measures=measures)
        return
    # WHY not forked: a fork would share the sockets of Rego's workers.
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), _ignore_interrupts)
    try:
        for future in [pool.submit(_collected, share, measures) for share in shares]:
            yield from future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _collected(share: Share, measures: bool) -> list[Found]:
    return list(share.run(measures=measures))


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _count(file: Path) -> int:
    """Return how many tests a file has; none where it cannot be used, which a run will tell."""
    try:
        return sum(1 for _ in list_test_file(file))
    except LoadError:
        return 0


def _run_file(file: Path, manner: Manner, *, measures: bool) -> Iterator[Found]:
    listener = Measuring() if measures else None
    yield from run_test_file(file, manner, listener)
    if listener is not None:
        yield from _measured(file, listener)


def _measured(file: Path, listener: Measuring) -> Iterator[Found]:
    try:
        yield listener.tally()
    except LoadError as exc:
        yield BrokenFile(file=file, trouble=Trouble.COVERAGE, diagnostics=exc.diagnostics)


def _run_unit(unit: Unit, manner: Manner, *, measures: bool) -> Iterator[Found]:
    loaded = unit.load()
    chosen = unit.chosen(loaded, manner)
    if chosen:
        yield from run_unit(loaded, chosen, measures=measures)
    if measures:
        yield tally_of_rego(loaded)
