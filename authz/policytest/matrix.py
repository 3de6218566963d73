"""A matrix as its cells: one case each, allowed where it is listed and else denied."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from authz.policytest.model import AXES, Case, Expectation, Matrix
from policies.decision import Effect

_OF_REQUEST = ("method", "path", "host")
_OF_CASE = {"from": "from_", "to": "to", "token": "token"}

Axes = Mapping[str, Sequence[str | None]]
"""The values on each axis that is varied; a token may be None: none is carried."""
Cell = tuple[str | None, ...]
"""One value on each of those axes, in their order."""


def cases_of(matrix: Matrix) -> Iterator[Case]:
    """Yield a case for each cell, in the order of the lists, the last axis fastest.

    A cell's name is that of the matrix with its values in brackets.
    """
    axes = {axis: matrix.on(axis) for axis in AXES if matrix.on(axis)}
    allowed = set(_allowed_cells(matrix, axes))
    allow, denials = Expectation(decision=Effect.ALLOW), _denials(matrix)
    for values in itertools.product(*axes.values()):
        cell = dict(zip(axes, values, strict=True))
        told = ", ".join(f"{axis} {value or 'none'}" for axis, value in cell.items())
        request = {axis: cell[axis] for axis in _OF_REQUEST if axis in cell}
        of_case = {field: cell[axis] for axis, field in _OF_CASE.items() if axis in cell}
        # WHY not validated: the matrix was, and there may be ten thousand cells.
        yield Case.model_construct(
            {"name", "request", "expect", *of_case},
            name=f"{matrix.name} [{told}]" if told else matrix.name,
            request=matrix.request.model_copy(update=request),
            expect=allow if values in allowed else _denial(denials, values),
            skip=matrix.skip,
            **of_case,
        )


def _allowed_cells(matrix: Matrix, axes: Axes) -> Iterator[Cell]:
    """Yield the cells that have one of the values on each axis that an entry writes."""
    for cells in matrix.allow:
        chosen = [
            every if (wanted := cells.on(axis)) is None else [v for v in every if v in wanted]
            for axis, every in axes.items()
        ]
        yield from itertools.product(*chosen)


def _denials(matrix: Matrix) -> Mapping[str | None, Expectation]:
    """Return what is expected of denied cells by the value that a status is written for."""
    denied: dict[str | None, Expectation] = {
        value: Expectation(decision=Effect.DENY, status=status)
        for value, status in matrix.status.items()
    }
    return {**denied, None: Expectation(decision=Effect.DENY)}


def _denial(denials: Mapping[str | None, Expectation], values: Cell) -> Expectation:
    """Return what is expected of a denied cell: the first status that is written for it."""
    return next((found for value, found in denials.items() if value in values), denials[None])
