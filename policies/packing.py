"""What was read of a file, as bytes for another process of ours, and back.

Theory of operation. Pickle does it, but for AuthorizationPolicies, of which there are ten
thousand: they go as flat tuples, a place as its line and column, which is a third of the
work on either side.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import struct
from collections.abc import Callable, Mapping
from sys import intern
from typing import Any, Final

from policies.diagnostic import Location, location_at
from policies.load import Inspected
from policies.model import (
    Action,
    Attachment,
    AuthorizationPolicy,
    Clause,
    Metadata,
    Rule,
    Value,
    selecting,
)

LENGTH: Final = struct.Struct(">I")
"""What stands before each piece that is sent; 0 ends a file's pieces."""

_Flat = tuple[Any, ...]


def pack(inspected: Inspected) -> bytes:
    """Return the bytes that `unpack` takes."""
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, pickle.HIGHEST_PROTOCOL)
    pickler.dispatch_table = {**copyreg.dispatch_table, AuthorizationPolicy: _flat_policy}
    pickler.dump(inspected)
    return buffer.getvalue()


def unpack(data: bytes) -> Inspected:
    """Return what was packed; only for bytes of our own making.

    Raises:
        pickle.UnpicklingError, EOFError: they are none, or not whole.
    """
    found = pickle.loads(data)  # noqa: S301 - what `pack` of this version made
    assert isinstance(found, Inspected)
    return found


# -- to flat tuples -----------------------------------------------------------------------------


def _flat_policy(policy: AuthorizationPolicy) -> tuple[Callable[..., Any], _Flat]:
    metadata, attachment = policy.metadata, policy.attachment
    selector = attachment.selector
    return _policy, (
        (metadata.namespace, metadata.name, metadata.annotations, metadata.created_at),
        metadata.location,
        attachment if attachment.target_refs else None,
        None if selector is None else tuple(selector.items()),
        policy.action.value,
        tuple(map(_flat_rule, policy.rules)),
        policy.provider,
        policy.dry_run,
    )


def _flat_rule(rule: Rule) -> _Flat:
    return (
        tuple([_flat_clauses(group) for group in rule.sources]),
        tuple([_flat_clauses(group) for group in rule.operations]),
        _flat_clauses(rule.when),
        rule.location.line,
        rule.location.column,
    )


def _flat_clauses(clauses: tuple[Clause, ...]) -> _Flat:
    return tuple(
        [
            (
                clause.key,
                clause.spelled,
                _flat_values(clause.values),
                _flat_values(clause.not_values),
                clause.location.line,
                clause.location.column,
            )
            for clause in clauses
        ]
    )


def _flat_values(values: tuple[Value, ...]) -> _Flat:
    return tuple([part for text, _, line, column in values for part in (text, line, column)])


# -- and back -----------------------------------------------------------------------------------


def _policy(  # noqa: PLR0913, PLR0917 - the parts of a policy, in their order
    names: tuple[str, str, Mapping[str, str], str],
    location: Location,
    targeted: Attachment | None,
    selector: tuple[tuple[str, str], ...] | None,
    action: str,
    rules: tuple[_Flat, ...],
    provider: str,
    dry_run: bool,
) -> AuthorizationPolicy:
    namespace, name, annotations, created_at = names
    return AuthorizationPolicy(
        metadata=Metadata(
            namespace=intern(namespace),
            name=name,
            annotations=annotations,
            created_at=created_at,
            location=location,
        ),
        attachment=targeted or selecting(selector),
        action=Action(action),
        rules=tuple([_rule(location.file, *each) for each in rules]),
        provider=provider,
        dry_run=dry_run,
    )


def _rule(
    file: str, sources: _Flat, operations: _Flat, when: _Flat, line: int, column: int
) -> Rule:
    return Rule(
        sources=tuple([_clauses(file, each) for each in sources]),
        operations=tuple([_clauses(file, each) for each in operations]),
        when=_clauses(file, when),
        location=location_at(file, line, column),
    )


def _clauses(file: str, clauses: _Flat) -> tuple[Clause, ...]:
    return tuple(
        [
            Clause(
                key=intern(key),
                spelled=intern(spelled),
                values=_values(file, values) if values else (),
                not_values=_values(file, not_values) if not_values else (),
                location=location_at(file, line, column),
            )
            for key, spelled, values, not_values, line, column in clauses
        ]
    )


def _values(file: str, flat: _Flat) -> tuple[Value, ...]:
    parts = iter(flat)
    return tuple(
        [
            Value(text, location_at(file, line, column))
            for text, line, column in zip(parts, parts, parts, strict=True)
        ]
    )
