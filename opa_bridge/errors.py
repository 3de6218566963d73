"""What can go wrong between a request and a Rego verdict.

RegoError
├── InputError     the request cannot be turned into an input document (the caller's fault)
├── EngineError    the engine gave no usable answer (the policy's or the engine's fault)
│   ├── EngineTimeout   it was stopped at its time limit
│   └── EngineInputError   the engine cannot carry this input (the caller's fault)
├── ResultError    the answer has not the shape of a decision (the policy author's fault)
└── PolicyBundleError  a bundle of policy and data cannot be had or is refused
"""

from __future__ import annotations


class RegoError(Exception):
    """The root of this package's errors; never raised itself."""

    code = "rego.error"


class InputError(RegoError):
    """A request cannot be turned into an input document."""

    code = "rego.input"


class EngineError(RegoError):
    """The engine gave no usable answer: undefined, a conflict, a value it cannot carry."""

    code = "rego.engine"


class EngineTimeout(EngineError):
    """An evaluation did not end within its time and was stopped."""

    code = "rego.timeout"


class EngineInputError(EngineError):
    """The engine cannot carry this input: a number too large, a nesting too deep."""

    code = "rego.input"


class EvaluationError(EngineError):
    """The evaluation ended without an answer for this input: a conflict, or a polyfill's stop."""


class ResultError(RegoError):
    """The answer has not the shape of a decision."""

    code = "rego.result"


class PolicyBundleError(RegoError):
    """A bundle is refused as a whole; `code` says by which rule, `help` what mends it."""

    def __init__(self, code: str, why: str, help_: str = "") -> None:
        """Keep a code that begins with `bundle.`, one clause and advice."""
        super().__init__(why)
        self.code = code
        self.help = help_
