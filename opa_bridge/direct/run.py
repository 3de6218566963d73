"""One evaluation under way: its input, what rules were found to be, and what it may cost yet."""

from __future__ import annotations

from typing import Any, Final

from opa_bridge.direct.values import RegoSet

# BUDGET: iterations and calls of one evaluation, some twenty milliseconds of one core. What
# needs more is asked of the library, in a process that can be ended. A count, not a time: the
# same input takes the same way everywhere.
STEPS_MOST: Final = 20_000
# A text is looked through some hundred characters in the time of one step.
_CHARACTERS: Final = 256
UNKNOWN: Final = object()


class OverBudget(Exception):
    """The steps are spent; nothing was found out."""


class Conflict(Exception):
    """A rule has two values for this input."""


class Run:
    """The state of one evaluation. For one thread.

    `values` holds what each rule was found to be, by its number.
    """

    __slots__ = ("document", "steps", "values")

    def __init__(self, document: Any, rules: int, steps: int = STEPS_MOST) -> None:
        """Begin with an admitted input and the number of rules."""
        self.document = document
        self.steps = steps
        self.values: list[Any] = [UNKNOWN] * rules

    def spend(self, steps: int = 1) -> None:
        """Count steps.

        Raises:
            OverBudget: there are none left.
        """
        self.steps -= steps
        if self.steps < 0:
            raise OverBudget

    def walk(self, value: Any) -> None:
        """Count what it takes to look at all of a value.

        Raises:
            OverBudget: the steps do not suffice.
        """
        if type(value) is str:
            if len(value) > _CHARACTERS:
                self.spend(len(value) // _CHARACTERS)
        elif isinstance(value, dict):
            self.spend(1 + len(value))
            for item in value.values():
                self.walk(item)
        elif isinstance(value, (list, RegoSet)):
            self.spend(1 + len(value))
            for item in value:
                self.walk(item)
