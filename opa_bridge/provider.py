"""A Rego policy as the provider of CUSTOM policies."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from identity.claims import VerifiedClaims
from identity.peer import Peer
from opa_bridge.capabilities import Module, check_entrypoint, check_modules, scan_module
from opa_bridge.embedded import EmbeddedEngine
from opa_bridge.engine import Engine
from opa_bridge.errors import RegoError
from opa_bridge.input_document import input_document
from opa_bridge.rego_files import digest, read_data, read_modules
from opa_bridge.result import KNOWN_KEYS, read_verdict, unknown_keys
from policies.decision import ProviderError, ProviderVerdict
from policies.diagnostic import Diagnostic, LoadError, Location, Severity
from policies.request import Request, Workload

# BUDGET: Envoy sends no more than its `max_request_bytes`; this bounds one evaluation.
MAX_BODY_BYTES = 1024 * 1024

_PLAIN = Request(
    method="GET",
    path="/",
    host="sample.invalid",
    headers={":method": ("GET",), ":path": ("/",)},
    workload=Workload(namespace="sample"),
)
# What every policy must answer with a well-formed verdict before it serves.
_SAMPLES = (
    _PLAIN,
    replace(
        _PLAIN,
        method="POST",
        path="/sample/path?name=value",
        headers={"content-type": ("application/json",), "authorization": ("Bearer sample",)},
        body=b'{"sample": 1}',
        peer=Peer.from_principal("spiffe://sample.invalid/ns/sample/sa/sample"),
        claims=VerifiedClaims({"iss": "https://sample.invalid", "sub": "sample"}),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegoProvider:
    """Implements `policies.decision.Provider` with a Rego engine; safe from many threads.

    `revision` is the SHA-256 of modules, data and entrypoint. `warnings` were found at load.
    """

    name: str
    engine: Engine
    revision: str = ""
    warnings: tuple[Diagnostic, ...] = ()
    max_body_bytes: int = MAX_BODY_BYTES

    def evaluate(self, request: Request) -> ProviderVerdict:
        """Return the policy's verdict.

        Raises:
            ProviderError: undefined, malformed or failed; the caller denies.
        """
        if len(request.body) > self.max_body_bytes:
            raise ProviderError(f"the body is larger than {self.max_body_bytes} bytes")
        try:
            result = self.engine.evaluate(input_document(request))
            verdict = read_verdict(result)
        except RegoError as exc:
            raise ProviderError(f"{exc.code}: {exc}") from exc
        unknown = unknown_keys(result)
        if unknown:
            listed = ", ".join(f"`{key}`" for key in unknown)
            detail = f"{verdict.detail} (unknown result keys {listed})".strip()
            verdict = replace(verdict, detail=detail)
        return verdict


def load_provider(
    name: str, paths: Iterable[Path], entrypoint: str, data_paths: Iterable[Path] = ()
) -> RegoProvider:
    """Return a provider that answers from Rego files, proven on sample requests.

    Raises:
        LoadError: something in the files would not serve; nothing was loaded.
    """
    paths = tuple(paths)
    texts = read_modules(paths)
    data, data_texts = read_data(data_paths)
    entrypoint = entrypoint.strip("/")
    warnings = _check(texts, entrypoint, str(paths[0]))
    engine = EmbeddedEngine(texts, entrypoint, data)
    warnings += _try_samples(engine, entrypoint, str(paths[0]))
    return RegoProvider(
        name=name,
        engine=engine,
        revision=digest([*texts, *data_texts], entrypoint),
        warnings=tuple(warnings),
    )


def _check(texts: Sequence[tuple[str, str]], entrypoint: str, place: str) -> list[Diagnostic]:
    """Return the warnings about the modules; raise when there is an error."""
    scanned = [scan_module(file, source) for file, source in texts]
    modules = [found for found in scanned if isinstance(found, Module)]
    findings = [found for found in scanned if isinstance(found, Diagnostic)]
    findings += check_modules(modules)
    if len(modules) == len(texts):
        findings += check_entrypoint(modules, entrypoint, place)
    if any(found.severity is Severity.ERROR for found in findings):
        raise LoadError(findings)
    return findings


def _try_samples(engine: Engine, entrypoint: str, place: str) -> list[Diagnostic]:
    """Return warnings from sample evaluations; raise when one gives no verdict."""
    unknown: set[str] = set()
    for sample in _SAMPLES:
        try:
            result = engine.evaluate(input_document(sample))
            read_verdict(result)
        except RegoError as exc:
            help_ = f"`{entrypoint}` must answer every request; give it a default"
            problem = Diagnostic(
                code="rego.sample",
                message=f"a sample request gets no verdict: {exc}",
                location=Location(place),
                help=help_,
            )
            raise LoadError([problem]) from exc
        unknown.update(unknown_keys(result))
    return [_unknown_key(key, place) for key in sorted(unknown)]


def _unknown_key(key: str, place: str) -> Diagnostic:
    near = difflib.get_close_matches(key, KNOWN_KEYS, n=1)
    return Diagnostic(
        code="rego.result_key",
        message=f"the result has a key `{key}` that means nothing",
        location=Location(place),
        help=f"did you mean `{near[0]}`?" if near else "",
        severity=Severity.WARNING,
    )
