"""The embedded engine: regopy (rego-cpp), a compiled bundle and an interpreter per thread.

Theory of operation. The engine keeps strings in their JSON-escaped spelling and hands
them out unescaped, so a raw `"` in a header would end the string and add keys of the
client's choice to the result. Three rules close that: every string goes in escaped;
the result is read from the tree, string by string, never from one JSON text; and numbers
that the C interface would cut to 64 bits are refused. Threads share nothing but text.
"""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from regopy import Bundle, BundleFormat, Input, Interpreter, LogLevel, Node, NodeKind, RegoError

from opa_bridge.errors import EngineError
from policies.diagnostic import Diagnostic, LoadError, Location

# BUDGET: nesting of input and result; OPA users' documents stay below 20.
MAX_DEPTH = 128
_INT64 = range(-(2**63), 2**63)
_PLACE = re.compile(r"\(error \d+:(?P<file>[^\n|]*)\|(?P<offset>\d+)\|\d+\n")
_MESSAGE = re.compile(r"\(errormsg \d+:(?P<text>[^\n]*?)\)")
_FINDING = re.compile(_PLACE.pattern + r"\s*\(errormsg \d+:(?P<text>[^\n]*?)\)\n", re.MULTILINE)
# Compiling and loading must not race: the library has global tables.
_LIBRARY_LOCK = threading.Lock()


class EmbeddedEngine:
    """Evaluates one entrypoint of a set of modules; implements `Engine`."""

    def __init__(
        self, modules: Sequence[tuple[str, str]], entrypoint: str, data: Mapping[str, Any]
    ) -> None:
        """Compile `modules` (file name, source) once, to find every error now.

        Raises:
            LoadError: a module does not parse or does not compile.
        """
        self._entrypoint = entrypoint
        self._local = threading.local()
        with _LIBRARY_LOCK:
            text = json.dumps(data, ensure_ascii=False, allow_nan=False)
            self._binary = _compile(modules, entrypoint, text)

    def evaluate(self, document: Mapping[str, Any]) -> Any:
        """Return the entrypoint's value for an input document.

        Raises:
            EngineError: undefined, conflicting or unreadable; the caller denies.
        """
        interpreter, bundle = self._loaded()
        try:
            interpreter.set_input(Input(_escaped(document, MAX_DEPTH)))
            output = interpreter.query_bundle_entrypoint(bundle, self._entrypoint)
        except RegoError as exc:
            raise EngineError(_first_message(str(exc))) from exc
        except json.JSONDecodeError as exc:
            # Runtime errors come as an error tree where the result's JSON should stand.
            raise EngineError(_first_message(exc.doc)) from exc
        if not output.ok():
            # A rule with two values is the usual cause; the engine keeps its reason to itself.
            raise EngineError(f"`{self._entrypoint}` conflicts with itself or fails")
        if str(output) == "undefined":
            raise EngineError(f"`{self._entrypoint}` is undefined")
        terms = output.expressions()
        if len(terms) != 1:
            raise EngineError(f"expected 1 result, got {len(terms)}")
        return _plain(terms.at(0), MAX_DEPTH)

    def _loaded(self) -> tuple[Interpreter, Bundle]:
        """Return this thread's interpreter and bundle, loaded at its first use."""
        found: tuple[Interpreter, Bundle] | None = getattr(self._local, "loaded", None)
        if found is None:
            with _LIBRARY_LOCK:
                found = _load(self._binary)
            self._local.loaded = found
        return found


def _compile(modules: Sequence[tuple[str, str]], entrypoint: str, data: str) -> bytes:
    """Return the compiled bundle in the engine's binary form.

    WHY the binary form: a bundle used as it was built is verified wrongly (it takes the
    table index of a number for a variable's), one that was written and read back is not.
    """
    interpreter = _new_interpreter()
    file = ""
    try:
        interpreter.add_data_json(data)
        for file, source in modules:  # noqa: B007 - the last file is named in the error
            interpreter.add_module(file, source)
        bundle = interpreter.build(None, [entrypoint])
        if not bundle.ok():
            raise RegoError("(errormsg 0:the modules do not compile)")
        with TemporaryDirectory(prefix="meshwarden-rego-") as folder:
            path = Path(folder, "bundle.rbb")
            interpreter.save_bundle(str(path), bundle, BundleFormat.Binary)
            return path.read_bytes()
    except RegoError as exc:
        raise LoadError(_findings(str(exc), dict(modules), file)) from exc
    except OSError as exc:
        message = f"the temporary folder cannot be used: {exc.strerror or exc}"
        problem = Diagnostic(code="rego.file", message=message, location=Location(file))
        raise LoadError([problem]) from exc


def _load(binary: bytes) -> tuple[Interpreter, Bundle]:
    interpreter = _new_interpreter()
    try:
        with TemporaryDirectory(prefix="meshwarden-rego-") as folder:
            path = Path(folder, "bundle.rbb")
            path.write_bytes(binary)
            return interpreter, interpreter.load_bundle(str(path), BundleFormat.Binary)
    except (RegoError, OSError) as exc:
        raise EngineError("the compiled policy cannot be loaded") from exc


def _new_interpreter() -> Interpreter:
    interpreter = Interpreter()
    interpreter.log_level = LogLevel.NONE
    return interpreter


def _findings(report: str, sources: Mapping[str, str], file: str) -> list[Diagnostic]:
    """Return the engine's error report as diagnostics; its places are byte offsets."""
    found = [
        Diagnostic(
            code="rego.parse",
            message=_lowered(match["text"]),
            location=Location(match["file"], _line(sources.get(match["file"], ""), match)),
        )
        for match in _FINDING.finditer(report)
    ]
    if found:
        return found
    message = _first_message(report)
    return [Diagnostic(code="rego.compile", message=message, location=Location(file))]


def _line(source: str, match: re.Match[str]) -> int:
    return source.encode("utf-8")[: int(match["offset"])].count(b"\n") + 1


def _first_message(report: str) -> str:
    match = _MESSAGE.search(report)
    return _lowered(match["text"]) if match else "the engine gave an answer that cannot be read"


def _lowered(text: str) -> str:
    return text[:1].lower() + text[1:]


def _escaped(value: Any, depth: int) -> Any:
    """Return the value with every string in JSON's escaped spelling."""
    if depth == 0:
        raise EngineError(f"the input is nested deeper than {MAX_DEPTH}")
    if isinstance(value, str):
        return _escaped_text(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        # WHY: the interface keeps the low 64 bits, so 2**64 + 1 would arrive as 1.
        if value not in _INT64:
            raise EngineError("the input holds an integer of more than 64 bits")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise EngineError("the input holds a number that is not finite")
        return value
    if isinstance(value, Mapping):
        return {_escaped_text(key): _escaped(item, depth - 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_escaped(item, depth - 1) for item in value]
    raise EngineError(f"the input holds a {type(value).__name__}, which is no JSON value")


def _escaped_text(text: str) -> str:
    """Return the escaped spelling; halves of surrogate pairs become U+FFFD, as in Go."""
    whole = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return json.dumps(whole, ensure_ascii=False)[1:-1]


def _plain(node: Node, depth: int) -> Any:
    """Return a result tree as JSON values, each string decoded alone."""
    if depth == 0:
        raise EngineError(f"the result is nested deeper than {MAX_DEPTH}")
    match node.kind:
        case NodeKind.Term | NodeKind.Scalar:
            return _plain(node.at(0), depth)
        case NodeKind.Object:
            # INVARIANT: the keys of an object node are JSON texts.
            return {_key(key): _plain(node.at(key), depth - 1) for key in node}
        case NodeKind.Set:
            return [_plain(node.at(key), depth - 1) for key in node]
        case NodeKind.Array:
            return [_plain(node.at(index), depth - 1) for index in range(len(node))]
        case _:
            return _scalar(node.json())


def _scalar(text: str) -> Any:
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except ValueError as exc:
        raise EngineError("the result holds a text or number that cannot be read") from exc
    if isinstance(value, float) and not math.isfinite(value):
        raise EngineError("the result holds a number that is not finite")
    return value


def _key(text: str) -> str:
    key = _scalar(text)
    if isinstance(key, str):
        return key
    raise EngineError("the result holds an object key that is not a text")


def _refuse_constant(_text: str) -> Any:
    raise ValueError("not a JSON number")
