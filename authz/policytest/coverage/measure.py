"""Listens to a test run, and tells at its end what the tests came to."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from authz.policytest.coverage.items import Item, Kind, Tally
from authz.policytest.coverage.rules import items_of, reached_by
from authz.policytest.rego_run import SUFFIX as TEST_SUFFIX
from authz.policytest.run import Listener, shown_path
from authz.serving_state import ServingState
from authz.walk import Outcome
from opa_bridge.engine import Engine, EngineStats
from opa_bridge.polyfills import supply_polyfills
from opa_bridge.probe import Probe
from opa_bridge.provider import Evaluated
from opa_bridge.rego_marks import LineCounts, mark_modules
from opa_bridge.rego_module import Module, scan_module
from opa_bridge.rego_tests import RegoTests, ways_printed
from policies.diagnostic import Location


@dataclass(slots=True)
class _Asked:
    """An engine that keeps the inputs it was asked about, each once, as JSON."""

    engine: Engine
    what: Evaluated
    inputs: dict[str, None] = field(default_factory=dict)

    def evaluate(self, document: Mapping[str, Any], seconds: float | None = None) -> Any:
        """Return what the engine returns."""
        self.inputs.setdefault(json.dumps(document, default=dict, sort_keys=True))
        return self.engine.evaluate(document, seconds)

    def stats(self) -> EngineStats:
        """Return what the engine counted."""
        return self.engine.stats()


class Measuring(Listener):
    """Listens to the cases of test files; `tally` is what they came to.

    WHY Rego at the end: the engine that serves tells nothing of its way, so what it was
    asked is asked again of modules that do.
    """

    def __init__(self) -> None:
        """Begin with nothing heard."""
        self._tally = Tally()
        self._asked: list[_Asked] = []

    def watch_engine(self, engine: Engine, what: Evaluated) -> Engine:
        """Return the engine with an ear on what it is asked."""
        asked = _Asked(engine, what)
        self._asked.append(asked)
        return asked

    def loaded(self, state: ServingState) -> None:
        """Note what there is to come to."""
        for item in items_of(state.snapshot):
            self._tally.add(item, 0)

    def decided(self, outcome: Outcome) -> None:
        """Note what a case came to."""
        for item in reached_by(outcome):
            self._tally.add(item, 1)

    def tally(self) -> Tally:
        """Return what the cases came to, the lines of Rego included.

        Raises:
            LoadError: modules that the engine took do not compile with marks in them.
        """
        for asked in self._asked:
            self._tally.merge(_lines(asked))
        self._asked.clear()
        return self._tally


def tally_of_rego(tests: RegoTests) -> Tally:
    """Return what Rego tests came to in the modules under test."""
    counts = LineCounts()
    counts.add(tests.marked.marks, tests.hits)
    return _tally(counts)


def _lines(asked: _Asked) -> Tally:
    modules = asked.what.modules
    marked = mark_modules(modules, [file for file, _ in modules])
    scanned = (scan_module(file, source) for file, source in marked.modules)
    probe = Probe(
        modules=tuple(supply_polyfills(each for each in scanned if isinstance(each, Module))),
        data=asked.what.data,
        entrypoints=(asked.what.entrypoint,),
    )
    hits: Counter[int] = Counter()
    for answer in probe.ask([(0, json.loads(text)) for text in asked.inputs]):
        hits.update(number for number, ways in ways_printed(answer.printed).items() if ways)
    counts = LineCounts()
    counts.add(marked.marks, hits)
    return _tally(counts)


def _tally(counts: LineCounts) -> Tally:
    return Tally(
        (Item(Kind.LINE, Location(_named(file), line)), count)
        for file, lines in counts.by_file().items()
        if not file.endswith(TEST_SUFFIX)
        for line, count in lines.items()
    )


def _named(file: str) -> str:
    """Return a module's file as people know it; what comes from a bundle keeps its name."""
    path = Path(file)
    return str(shown_path(path)) if path.is_absolute() else file
