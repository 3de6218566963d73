"""The modules of a policy as one: which rule or which data a path of `data` is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from opa_bridge.direct.syntax import Clause, Default, Outside, Shape, Source
from opa_bridge.direct.values import UNDEFINED

Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """All clauses of a name in a package, each with its module."""

    package: Path
    name: str
    shape: Shape
    clauses: tuple[tuple[Source, Clause], ...]
    default: Default | None

    @property
    def title(self) -> str:
        """The rule as an entrypoint is written."""
        return "/".join([*self.package, self.name])


@dataclass(frozen=True, slots=True)
class Document:
    """A value of the data, which no rule is part of."""

    value: Any


class Program:
    """Modules and data, asked by path."""

    def __init__(self, sources: Iterable[Source], data: Mapping[str, Any]) -> None:
        """Take modules and admitted data."""
        self._packages: dict[Path, list[Source]] = {}
        for source in sources:
            self._packages.setdefault(source.package, []).append(source)
        self._data = data

    def defines(self, package: Path, name: str) -> bool:
        """Return whether a package may have a rule of a name."""
        return any(
            name in source.outside or any(clause.name == name for clause in source.clauses)
            for source in self._packages.get(package, ())
        )

    def find(self, path: Path) -> tuple[Rule | Document, Path]:
        """Return what a path behind `data` leads to, and the steps that are left.

        Raises:
            Outside: it leads to a document that rules are part of.
        """
        for end in range(len(path)):
            if self.defines(path[:end], path[end]):
                return self.rule(path[:end], path[end]), path[end + 1 :]
        self.check_no_rules(path)
        value: Any = self._data
        for count, step in enumerate(path):
            if not isinstance(value, dict):
                return Document(value), path[count:]
            value = value.get(step, UNDEFINED)
        return Document(value), ()

    def check_no_rules(self, path: Path) -> None:
        """Raise Outside when a rule may lie at or below a path."""
        if any(package[: len(path)] == path for package in self._packages):
            raise Outside(f"`data.{'.'.join(path)}` holds rules".replace("data.`", "data`"))

    def rule(self, package: Path, name: str) -> Rule:
        """Return a rule with all its clauses.

        Raises:
            Outside: something of it, or of what stands around it, is outside the fragment.
        """
        clauses: list[tuple[Source, Clause]] = []
        defaults: list[Default] = []
        for source in self._packages.get(package, ()):
            if name in source.outside:
                found = source.outside[name]
                raise Outside(found.why, found.line).at(source.file, found.line)
            for clause in source.clauses:
                if clause.name == name and isinstance(clause, Default):
                    defaults.append(clause)
                elif clause.name == name and isinstance(clause, Clause):
                    clauses.append((source, clause))
        title = "/".join([*package, name])
        shapes = {clause.shape for _, clause in clauses} or {Shape.VALUE}
        arities = {len(clause.parameters) for _, clause in clauses}
        if len(shapes) != 1 or len(arities) > 1 or len(defaults) > 1:
            raise Outside(f"`{title}` is defined in several ways")
        shape = shapes.pop()
        if defaults and shape is not Shape.VALUE:
            raise Outside(f"`{title}` has a default that is not a value's")
        if self._is_covered((*package, name)):
            raise Outside(f"`{title}` shares its place with other documents")
        return Rule(package, name, shape, tuple(clauses), defaults[0] if defaults else None)

    def _is_covered(self, path: Path) -> bool:
        """Return whether data, a package or another package's rule stand at a rule's path."""
        value: Any = self._data
        for step in path:
            value = value.get(step, UNDEFINED) if isinstance(value, dict) else UNDEFINED
        is_package = any(package[: len(path)] == path for package in self._packages)
        others = any(self.defines(path[:end], path[end]) for end in range(len(path) - 1))
        return value is not UNDEFINED or is_package or others
