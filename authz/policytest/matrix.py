"""A matrix as its cells: one case each, allowed where it is listed and else denied."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

from authz.policytest.model import AXES, Case, Cells, Expectation, Matrix
from policies.decision import Effect

_OF_REQUEST = ("method", "path", "host")
Cell = Mapping[str, str | None]
"""The value on each axis that is varied; a token may be None: none is carried."""


def cases_of(matrix: Matrix) -> Iterator[Case]:
    """Yield a case for each cell, in the order of the lists, the last axis fastest.

    A cell's name is that of the matrix with its values in brackets.
    """
    axes = {axis: matrix.on(axis) for axis in AXES if matrix.on(axis)}
    for values in itertools.product(*axes.values()):
        cell = dict(zip(axes, values, strict=True))
        told = ", ".join(f"{axis} {value or 'none'}" for axis, value in cell.items())
        request = {axis: cell[axis] for axis in _OF_REQUEST if axis in cell}
        of_case = {axis: cell[axis] for axis in ("from", "to", "token") if axis in cell}
        yield Case(
            name=f"{matrix.name} [{told}]" if told else matrix.name,
            request=matrix.request.model_copy(update=request),
            expect=_expectation(matrix, cell),
            skip=matrix.skip,
            **of_case,
        )


def _expectation(matrix: Matrix, cell: Cell) -> Expectation:
    if any(_is_among(cell, cells) for cells in matrix.allow):
        return Expectation(decision=Effect.ALLOW)
    status = next((found for value, found in matrix.status.items() if value in cell.values()), None)
    return Expectation(decision=Effect.DENY, status=status)


def _is_among(cell: Cell, cells: Cells) -> bool:
    """Whether a cell has one of the values on each axis that is written."""
    return all((wanted := cells.on(axis)) is None or cell[axis] in wanted for axis in AXES)
