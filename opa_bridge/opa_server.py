"""The `opa` engine: a real OPA server, asked over its REST interface.

Spec: OPA, REST API, "Get a Document (with Input)": `POST /v1/data/<path>` answers 200 with
`{"result": …}`, or without `result` where the document is undefined. The policies are the
server's own, from its own bundles; nothing is uploaded.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from opa_bridge.engine import EngineStats
from opa_bridge.errors import EngineError, EngineInputError, EngineTimeout, EvaluationError
from opa_bridge.opa_address import OpaServer, read_endpoint, refusal
from opa_bridge.opa_connections import OpaConnections

# BUDGET: one evaluation where nobody is waiting; a server sets less.
BUDGET_SECONDS: Final = 2.0
# BUDGET: how long a server may take to come up beside us.
START_SECONDS: Final = 10.0
_BETWEEN_ATTEMPTS: Final = 0.1
# The embedded engine's own limit.
_MAX_DEPTH: Final = 128
_OK, _UNAUTHORIZED, _FORBIDDEN = 200, 401, 403
# What OPA answers to an input that it cannot read, or that is larger than it wants.
_UNFIT = frozenset({400, 413})
_CODE = re.compile(r"[a-z_]{1,40}")
_CONFLICT = "eval_conflict_error"


class OpaServerEngine:
    """Evaluates one entrypoint on a real OPA; implements `Engine`. Safe from many threads."""

    def __init__(
        self, server: OpaServer, entrypoint: str, *, budget_seconds: float = BUDGET_SECONDS
    ) -> None:
        """Read the address and the token; `check` tells whether anybody answers there.

        Raises:
            LoadError: the address or a file of it cannot be used.
        """
        self.budget_seconds = budget_seconds
        self._server = server
        self._entrypoint = entrypoint
        segments = entrypoint.split("/")
        self._path = "/v1/data/" + "/".join(quote(segment, safe="") for segment in segments)
        self._connections = OpaConnections(server, read_endpoint(server))
        self._headers = {"Content-Type": "application/json"}
        try:
            self._read_token()
        except EngineError as exc:
            raise refusal(server.url, str(exc)) from exc

    def evaluate(self, document: Mapping[str, Any], seconds: float | None = None) -> Any:
        """Return the entrypoint's value for an input document.

        `seconds` is what is left of the caller's time; the engine's own budget holds too.

        Raises:
            EngineTimeout: no whole answer within that time.
            EngineError: undefined, conflicting, or the server cannot answer; the caller denies.
        """
        limit = self.budget_seconds if seconds is None else min(seconds, self.budget_seconds)
        answer = self._asked("POST", self._path, _body(document), limit)
        # "If the path refers to an undefined document, the server will return 200 and the
        # response will not contain a `result` property."
        if "result" not in answer:
            raise EngineError(f"`{self._entrypoint}` is undefined")
        return answer["result"]

    def check(self, start_seconds: float = START_SECONDS) -> str:
        """Wait until the server is ready; return the revision of what it answers from.

        That is the revisions of its bundles, or a digest of its modules, or of nothing but
        its version where it shows neither.

        Raises:
            LoadError: nobody is there, it is not ready, or the entrypoint cannot be defined.
        """
        self._wait(start_seconds)
        try:
            if not self._is_defined():
                raise refusal(
                    self._server.url,
                    f"no rule `{self._entrypoint}`",
                    "write it as package/path/rule; OPA's own bundles must define it",
                    "rego.entrypoint",
                )
            return self._revision()
        except EngineError as exc:
            raise refusal(self._server.url, str(exc)) from exc

    def stats(self) -> EngineStats:
        """Return nothing counted: OPA has metrics of its own."""
        return EngineStats()

    def close(self) -> None:
        """Close the connections."""
        self._connections.close()

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        pause = threading.Event()
        while True:
            left = max(deadline - time.monotonic(), 0.01)
            try:
                status, _ = self._call("GET", "/health", b"", min(left, self.budget_seconds))
                why = f"it answers {status}"
                if status == _OK:
                    return
            except EngineError as exc:
                why = str(exc)
            if time.monotonic() + _BETWEEN_ATTEMPTS >= deadline:
                raise refusal(self._server.url, f"OPA is not ready: {why}")
            pause.wait(_BETWEEN_ATTEMPTS)

    def _is_defined(self) -> bool:
        """Return whether some input may define the entrypoint; true where OPA will not say."""
        terms = "".join(f"[{json.dumps(segment)}]" for segment in self._entrypoint.split("/"))
        query = json.dumps({"query": f"data{terms}", "unknowns": ["input"]}).encode()
        try:
            found = self._asked("POST", "/v1/compile", query, self.budget_seconds)
        except EngineError:
            # Not every server lets us compile; the sample requests tell then.
            return True
        result = found.get("result")
        return not isinstance(result, dict) or bool(result.get("queries"))

    def _revision(self) -> str:
        path = f"{self._path}?provenance=true"
        answer = self._asked("POST", path, _body({}), self.budget_seconds)
        told = answer.get("provenance")
        bundles = told.get("bundles") if isinstance(told, dict) else None
        if isinstance(bundles, dict) and bundles:
            shown = {name: found.get("revision", "") for name, found in bundles.items()}
            return ",".join(f"{name}@{shown[name]}" for name in sorted(shown))
        try:
            modules = self._asked("GET", "/v1/policies", b"", self.budget_seconds)["result"]
            known: Any = sorted((each["id"], each["raw"]) for each in modules)
        except (EngineError, KeyError, TypeError):
            known = told
        whole = json.dumps([self._entrypoint, known], sort_keys=True)
        return hashlib.sha256(whole.encode()).hexdigest()

    def _asked(self, method: str, path: str, body: bytes, seconds: float) -> dict[str, Any]:
        """Return the JSON object of a good answer."""
        status, content = self._call(method, path, body, seconds)
        if status != _OK:
            raise self._failure(status, content)
        found = _object(content)
        if found is None:
            raise EngineError("OPA's answer is no JSON object that can be read")
        return found

    def _call(self, method: str, path: str, body: bytes, seconds: float) -> tuple[int, bytes]:
        deadline = time.monotonic() + seconds
        status, content = self._connections.call(method, path, self._headers, body, seconds)
        # Tokens are renewed in their file; the old one is refused one day.
        if status == _UNAUTHORIZED and self._read_token():
            left = deadline - time.monotonic()
            if left <= 0:
                raise EngineTimeout(f"stopped: no verdict within {seconds * 1000:.0f} ms")
            return self._connections.call(method, path, self._headers, body, left)
        return status, content

    def _read_token(self) -> bool:
        """Read the token; return whether it is another than before."""
        if self._server.token_file is None:
            return False
        try:
            token = self._server.token_file.read_text("ascii").strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise EngineError("the token file for OPA cannot be read") from exc
        # RFC 6750 section 2.1: `b64token`; a line break would be another header.
        if not re.fullmatch(r"[A-Za-z0-9._~+/=-]+", token):
            raise EngineError("the token file for OPA does not hold one bearer token")
        spelled = f"Bearer {token}"
        is_new = self._headers.get("Authorization") != spelled
        self._headers = {**self._headers, "Authorization": spelled}
        return is_new

    def _failure(self, status: int, content: bytes) -> EngineError:
        """Return the error of a bad status: OPA's codes, never its texts, which quote inputs."""
        codes = _codes(_object(content) or {})
        if _CONFLICT in codes:
            return EvaluationError(f"`{self._entrypoint}` conflicts with itself or fails")
        said = f" ({', '.join(codes)})" if codes else ""
        if status in (_UNAUTHORIZED, _FORBIDDEN):
            return EngineError(f"OPA does not let us ask: {status}{said}")
        if status in _UNFIT:
            return EngineInputError(f"OPA does not take the input: {status}{said}")
        return EngineError(f"OPA answered {status}{said}")


def _codes(answer: Mapping[str, Any]) -> list[str]:
    """Return the error codes of an answer, without those that are none."""
    errors = answer.get("errors")
    inner = [each for each in errors if isinstance(each, dict)] if isinstance(errors, list) else []
    found = [each.get("code") for each in (answer, *inner)]
    named = [code for code in found if isinstance(code, str) and _CODE.fullmatch(code)]
    return list(dict.fromkeys(named))[:4]


def _body(document: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps({"input": document}, default=_plain, allow_nan=False).encode()
    except (ValueError, TypeError, RecursionError) as exc:
        raise EngineInputError(f"the input is no JSON document: {exc}") from exc


def _plain(value: Any) -> Any:
    """Return a mapping of another type as a dict."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} is no JSON value")


def _object(content: bytes) -> dict[str, Any] | None:
    """Return a JSON object; None for anything else, for a key twice and for endless nesting."""
    try:
        found = json.loads(
            content.decode("utf-8"), parse_constant=_refused, object_pairs_hook=_unique
        )
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and _fits(found, _MAX_DEPTH + 1) else None


def _fits(value: Any, depth: int) -> bool:
    if isinstance(value, dict):
        return depth > 0 and all(_fits(each, depth - 1) for each in value.values())
    if isinstance(value, list):
        return depth > 0 and all(_fits(each, depth - 1) for each in value)
    return value not in (float("inf"), float("-inf")) if isinstance(value, float) else True


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _refused(_text: str) -> Any:
    raise ValueError("not a JSON number")
