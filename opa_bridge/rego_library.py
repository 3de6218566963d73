"""The Rego library (regopy, rego-cpp) behind two calls: compile modules, evaluate an input.

Theory of operation. The library keeps strings in their JSON-escaped spelling and hands
them out unescaped, so a raw `"` in a header would end the string and add keys of the
client's choice to the result. Three rules close that: every string goes in escaped;
the result is read from the tree, string by string, never from one JSON text; and numbers
that the C interface would cut to 64 bits are refused. Not for many threads: it runs in
worker processes, which it may also take down (`opa_bridge.worker`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from ctypes import c_void_p, create_string_buffer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from regopy import Bundle, BundleFormat, Interpreter, LogLevel, Node, NodeKind, RegoError
from regopy.rego_shared import rego as _library

from opa_bridge.direct.values import MAX_DEPTH, rank
from opa_bridge.errors import EngineError, EngineInputError, EvaluationError
from opa_bridge.hidden_names import part_names
from opa_bridge.negated_needs import state_needs
from opa_bridge.polyfills import PACKAGE
from opa_bridge.rego_binary import UnknownForm, outline_of, with_data
from opa_bridge.rego_module import Module, rules_by_package, scan_module
from opa_bridge.stated_parts import state_parts
from opa_bridge.unified_rules import state_rules
from policies.diagnostic import Diagnostic, LoadError, Location

# Up to here a double is the whole number that its text says.
_EXACT: Final = 2.0**53
_INT64 = range(-(2**63), 2**63)
_PLACE = re.compile(r"\(error \d+:(?P<file>[^\n|]*)\|(?P<offset>\d+)\|\d+\n")
_MESSAGE = re.compile(r"\(errormsg \d+:(?P<text>[^\n]*?)\)")
_FINDING = re.compile(_PLACE.pattern + r"\s*\(errormsg \d+:(?P<text>[^\n]*?)\)\n", re.MULTILINE)
_HALF = re.compile("[\ud800-\udfff]")
# Texts that are spelled the same when escaped.
_PLAIN_TEXT = re.compile(r"[ !#-\[\]-~]*")
# Whole outputs that need no reading of the tree: no string stands in them.
_SCALAR_OUTPUTS: Final = {
    b'{"expressions":[true]}': True,
    b'{"expressions":[false]}': False,
}
_library.regoNewInput.restype = c_void_p


class _LongFractionError(Exception):
    """An input holds a fraction that the library's interface would cut."""


class LoadedPolicy:
    """A compiled bundle in an interpreter of its own, with its entrypoints. One thread only."""

    def __init__(self, binary: bytes, entrypoints: Sequence[str], name: str = "") -> None:
        """Load a bundle that `compile_bundle` returned; errors tell of `name`.

        Raises:
            EngineError: the library does not take it.
        """
        self._entrypoint = name or entrypoints[0]
        self._entrypoints = [each.encode() for each in entrypoints]
        self._interpreter, self._bundle = _load(binary)

    def evaluate(self, document: Mapping[str, Any], entry: int = 0) -> Any:
        """Return an entrypoint's value for an input document.

        Raises:
            EngineError: undefined, conflicting or unreadable; the caller denies.
        """
        self._set_input(document)
        output = _library.regoBundleQueryEntrypoint(
            self._interpreter._impl, self._bundle._impl, self._entrypoints[entry]
        )
        if not output:
            raise EngineError("the library gave no answer")
        try:
            return self._read(output)
        except RegoError as exc:
            raise EngineError(_first_message(str(exc))) from exc
        finally:
            _library.regoFreeOutput(output)

    def _set_input(self, document: Mapping[str, Any]) -> None:
        place = _library.regoNewInput()
        try:
            _add(place, document, MAX_DEPTH)
            if _library.regoSetInput(self._interpreter._impl, place):
                raise EngineError("the library does not take the input")
        except _LongFractionError:
            self._set_input_text(document)
        finally:
            _library.regoFreeInput(place)

    def _set_input_text(self, document: Mapping[str, Any]) -> None:
        """Set an input by its JSON text, which takes longer and keeps every digit."""
        text = _spelled(document, MAX_DEPTH).encode()
        if _library.regoSetInputTerm(self._interpreter._impl, text):
            raise EngineError("the library does not take the input")

    def _read(self, output: int) -> Any:
        """Return the value in an output of the library."""
        text = _text_of(output)
        if text in _SCALAR_OUTPUTS:
            return _SCALAR_OUTPUTS[text]
        if not _library.regoOutputOk(output):
            # A rule with two values is the usual cause; the library keeps its reason to itself.
            raise EvaluationError(f"`{self._entrypoint}` conflicts with itself or fails")
        if text == b"undefined":
            raise EngineError(f"`{self._entrypoint}` is undefined")
        if not text.startswith(b'{"expressions":'):
            # Runtime errors come as an error tree where the result should stand.
            raise EvaluationError(_first_message(text.decode("utf-8", "replace")))
        terms = Node(_library.regoOutputExpressionsAtIndex(output, 0))
        if len(terms) != 1:
            raise EngineError(f"expected 1 result, got {len(terms)}")
        return _plain(terms.at(0), MAX_DEPTH)


def _text_of(output: int) -> bytes:
    size = _library.regoOutputJSONSize(output)
    buffer = create_string_buffer(size)
    if _library.regoOutputJSON(output, buffer, size):
        raise EngineError("the result cannot be read")
    return buffer.value


def compile_bundle(
    modules: Sequence[tuple[str, str]], entrypoints: Sequence[str], data: str
) -> bytes:
    """Return modules (file name, source) and data, compiled, in the library's binary form.

    Raises:
        LoadError: a module does not parse or does not compile.
    """
    values = json.loads(data)
    outline = _outline(modules, values)
    if outline is None:
        return compile_with_data(modules, entrypoints, data)
    text = json.dumps(outline, ensure_ascii=False)
    try:
        return with_data(compile_with_data(modules, entrypoints, text), values)
    except UnknownForm:
        return compile_with_data(modules, entrypoints, data)


def compile_with_data(
    modules: Sequence[tuple[str, str]], entrypoints: Sequence[str], data: str
) -> bytes:
    """Return the same with the data put in by the library, which takes long over them.

    WHY the binary form: a bundle used as it was built is verified wrongly (it takes the
    table index of a number for a variable's), one that was written and read back is not.

    Raises:
        LoadError: a module does not parse or does not compile.
    """
    interpreter = _new_interpreter()
    file = ""
    try:
        interpreter.add_data_json(data)
        for file, source in _written_out(modules):
            interpreter.add_module(file, source)
        bundle = interpreter.build(None, list(entrypoints))
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


def _written_out(modules: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield modules so that the library evaluates them as OPA does; no line moves."""
    scanned = [scan_module(file, source) for file, source in modules]
    rules_of = rules_by_package(found for found in scanned if isinstance(found, Module))
    for (file, source), found in zip(modules, scanned, strict=True):
        if file.startswith(f"{PACKAGE}/") or not isinstance(found, Module):
            yield file, source
            continue
        stated = state_rules(found, rules_of[found.package])
        yield file, part_names(state_parts(state_needs(stated)))


def _outline(
    modules: Sequence[tuple[str, str]], data: Mapping[str, Any]
) -> Mapping[str, Any] | None:
    """Return the outline that the modules are compiled with, None when one cannot be read."""
    scanned = [scan_module(file, source) for file, source in modules]
    packages = [found.package.split("/") for found in scanned if isinstance(found, Module)]
    return outline_of(data, packages) if len(packages) == len(scanned) else None


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


def _add(place: int, value: Any, depth: int) -> None:
    """Add a value to an input under way, every string in JSON's escaped spelling."""
    if depth == 0:
        raise EngineInputError(f"the input is nested deeper than {MAX_DEPTH}")
    if isinstance(value, str):
        _add_text(place, value)
    elif value is None:
        _library.regoInputNull(place)
    elif isinstance(value, bool):
        _library.regoInputBoolean(place, value)
    elif isinstance(value, int):
        # WHY: the interface keeps the low 64 bits, so 2**64 + 1 would arrive as 1.
        if value not in _INT64:
            raise EngineInputError("the input holds an integer of more than 64 bits")
        _library.regoInputInt(place, value)
    elif isinstance(value, float):
        _add_fraction(place, value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _add_text(place, key)
            _add(place, item, depth - 1)
            _library.regoInputObjectItem(place)
        _library.regoInputObject(place, len(value))
    elif isinstance(value, (list, tuple)):
        for item in value:
            _add(place, item, depth - 1)
        _library.regoInputArray(place, len(value))
    else:
        raise EngineInputError(f"the input holds a {type(value).__name__}, which is no JSON value")


def _add_fraction(place: int, value: float) -> None:
    """Add a fraction, where the interface keeps what is left of it.

    Raises:
        _LongFractionError: it would not: it writes six decimals, so that 1e-7 would be 0.
    """
    if not math.isfinite(value):
        raise EngineInputError("the input holds a number that is not finite")
    if value.is_integer() and abs(value) < _EXACT:
        # WHY: 1.0 is the place 1 in an array; and the sign of `-0.0 + -5` would be taken off.
        _library.regoInputInt(place, int(value))
        return
    if float(f"{value:.6f}") != value:
        raise _LongFractionError
    _library.regoInputFloat(place, value)


def _spelled(value: Any, depth: int) -> str:
    """Return a value as JSON text, within the bounds of `_add`."""
    if depth == 0:
        raise EngineInputError(f"the input is nested deeper than {MAX_DEPTH}")
    if isinstance(value, Mapping):
        items = (f'"{_escaped_text(key)}":{_spelled(it, depth - 1)}' for key, it in value.items())
        return f"{{{','.join(items)}}}"
    if isinstance(value, (list, tuple)):
        return f"[{','.join(_spelled(item, depth - 1) for item in value)}]"
    if isinstance(value, str):
        return f'"{_escaped_text(value)}"'
    if isinstance(value, int) and not isinstance(value, bool) and value not in _INT64:
        raise EngineInputError("the input holds an integer of more than 64 bits")
    if isinstance(value, float) and not math.isfinite(value):
        raise EngineInputError("the input holds a number that is not finite")
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return str(int(value))
    if value is None or isinstance(value, (bool, int, float)):
        return json.dumps(value)
    raise EngineInputError(f"the input holds a {type(value).__name__}, which is no JSON value")


def _add_text(place: int, text: str) -> None:
    spelled = text if _PLAIN_TEXT.fullmatch(text) else _escaped_text(text)
    _library.regoInputString(place, spelled.encode())


def _escaped_text(text: str) -> str:
    """Return the escaped spelling; each half of a surrogate pair becomes U+FFFD, as in Go."""
    return json.dumps(_HALF.sub("\ufffd", text), ensure_ascii=False)[1:-1]


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
            return sorted((_plain(node.at(key), depth - 1) for key in node), key=rank)
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
