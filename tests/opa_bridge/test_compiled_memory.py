"""New data alone: nothing is compiled, and every answer is that of the new data."""

from __future__ import annotations

from typing import Any

import pytest

from opa_bridge.compiled_memory import CompiledMemory
from opa_bridge.embedded import EmbeddedEngine
from opa_bridge.errors import EngineError
from policies.diagnostic import LoadError

TABLE = "".join(f'allow if input.path == "/{number}"\n\n' for number in range(30))
MODULES = [
    (
        "p.rego",
        "package p\n\nimport rego.v1\n\ndefault allow := false\n\n"
        f"allow if data.users[input.user].admin\n\n{TABLE}",
    )
]


def answer(data: dict[str, Any], document: dict[str, Any], compiled: CompiledMemory) -> Any:
    """What an engine with this data says."""
    engine = EmbeddedEngine(MODULES, "p/allow", data, workers=1, compiled=compiled)
    try:
        return engine.evaluate(document)
    finally:
        engine.close()


def test_new_data_are_served_without_compiling() -> None:
    """The second engine finds the plan, and answers from its own data."""
    compiled = CompiledMemory()
    asked = {"user": "ann", "path": "/none"}

    assert answer({"users": {"ann": {"admin": True}}}, asked, compiled) is True
    assert 0 == compiled.hits
    assert answer({"users": {"ann": {"admin": False}}}, asked, compiled) is False
    assert answer({"users": {"bob": {"admin": True}}}, asked, compiled) is False
    assert answer({"users": {"bob": {"admin": True}}}, asked | {"path": "/7"}, compiled) is True
    assert 3 == compiled.hits


def test_another_outline_or_module_is_compiled() -> None:
    """A key more at the top, or another rule, is another plan."""
    compiled = CompiledMemory()
    answer({"users": {}}, {}, compiled)
    answer({"users": {}, "more": 1}, {}, compiled)
    other = [("p.rego", MODULES[0][1] + "allow if input.x == 1\n")]
    EmbeddedEngine(other, "p/allow", {"users": {}}, workers=1, compiled=compiled).close()
    EmbeddedEngine(MODULES, "p/other", {"users": {}}, workers=1, compiled=compiled).close()

    assert 0 == compiled.hits


def test_what_does_not_compile_is_not_remembered() -> None:
    """A refusal is told each time."""
    compiled = CompiledMemory()
    for _ in range(2):
        with pytest.raises(LoadError):
            broken = [("p.rego", "package p\n\nimport rego.v1\n\nallow if {\n")]
            EmbeddedEngine(broken, "p/allow", {}, workers=1, compiled=compiled)
    assert 0 == compiled.hits


def test_only_so_many_plans_are_kept() -> None:
    """The one that was used longest ago goes first."""
    compiled = CompiledMemory(entries=1)
    for data in ({"a": 1}, {"b": 1}, {"a": 2}):
        answer(data, {}, compiled)

    assert 0 == compiled.hits
    with pytest.raises(EngineError, match="JSON"):
        answer({"a": 3}, {"user": object()}, compiled)
    assert 1 == compiled.hits
