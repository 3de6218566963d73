"""What can go wrong between a request and a Rego verdict.

RegoError
├── InputError     the request cannot be turned into an input document (the caller's fault)
├── EngineError    the engine gave no usable answer (the policy's or the engine's fault)
│   └── EngineTimeout   it was stopped at its time limit
└── ResultError    the answer has not the shape of a decision (the policy author's fault)
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


class ResultError(RegoError):
    """The answer has not the shape of a decision."""

    code = "rego.result"
