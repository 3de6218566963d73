"""A Rego policy as the provider of CUSTOM policies."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from identity.claims import VerifiedClaims
from identity.peer import Peer
from opa_bridge.capabilities import Module, check_entrypoint, check_modules, scan_module
from opa_bridge.compatibility import Compatibility
from opa_bridge.compiled_memory import CompiledMemory
from opa_bridge.embedded import BUDGET_SECONDS, EmbeddedEngine
from opa_bridge.engine import Engine
from opa_bridge.errors import (
    EngineError,
    EngineInputError,
    EngineTimeout,
    EvaluationError,
    InputError,
    RegoError,
    ResultError,
)
from opa_bridge.grpc_bodies import GrpcBodies
from opa_bridge.input_document import InputOptions, input_document
from opa_bridge.istio_verdict import istio_verdict
from opa_bridge.needed_input import NeededInput
from opa_bridge.opa_address import OpaServer
from opa_bridge.opa_server import START_SECONDS, OpaServerEngine
from opa_bridge.polyfills import supply_polyfills
from opa_bridge.rego_files import digest, read_data, read_modules
from opa_bridge.rego_module import rules_in_data
from opa_bridge.result import (
    KNOWN_KEYS,
    has_decided,
    passed_in_dry_run,
    read_verdict,
    unknown_keys,
)
from policies.decision import (
    Decision,
    Effect,
    ProviderError,
    ProviderTimeout,
    ProviderVerdict,
    UnfitRequest,
)
from policies.diagnostic import Diagnostic, LoadError, Location, Severity
from policies.request import Request, Workload

# BUDGET: Envoy sends no more than its `max_request_bytes`; this bounds one evaluation.
MAX_BODY_BYTES = 1024 * 1024
_ISTIO_KEY: Final = ("meshwarden", "istio")
_SAMPLE_VERDICT: Final = {"would": "allow", "layer": "default", "reason": "no_allow_policy"}
_BAD_REQUEST, _TOO_LARGE = 400, 413
# Constant texts: nothing of the request, nothing of a parser.
_REFUSED_BODY = {_BAD_REQUEST: "request_parse_error", _TOO_LARGE: "request_too_large"}

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
class Evaluated:
    """What an engine evaluates: modules as they were written, data, and the rule that is asked."""

    modules: Sequence[tuple[str, str]]
    data: Mapping[str, Any]
    entrypoint: str


WatchEngine = Callable[[Engine, Evaluated], Engine]
"""Returns what asks an engine, and takes note of it: for tests that measure coverage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderOptions:
    """What a provider does besides asking its engine.

    `proto_descriptor` is a FileDescriptorSet for gRPC bodies. `budget_seconds` bounds each
    evaluation, `start_seconds` the wait for an OPA server, `max_body_bytes` a request.
    With `dry_run` its denials are told and not enforced. `compiled` may have the modules
    already, from a provider with other data. `watch` stands before the embedded engine.
    """

    compatibility: Compatibility = field(default_factory=Compatibility)
    proto_descriptor: Path | None = None
    skip_body: bool = False
    max_body_bytes: int = MAX_BODY_BYTES
    budget_seconds: float = BUDGET_SECONDS
    start_seconds: float = START_SECONDS
    workers: int | None = None
    dry_run: bool = False
    compiled: CompiledMemory | None = field(default=None, compare=False)
    watch: WatchEngine | None = field(default=None, compare=False)

    def for_input(self) -> InputOptions:
        """Return what concerns the input document.

        Raises:
            LoadError: the proto descriptor cannot be used.
        """
        descriptor = self.proto_descriptor
        return InputOptions(
            is_encoded_slash_taken=self.compatibility.encoded_slash,
            is_body_parsed=not self.skip_body,
            grpc_bodies=None if descriptor is None else GrpcBodies.from_file(descriptor),
        )


@dataclass(frozen=True, slots=True, kw_only=True, weakref_slot=True)
class RegoProvider:
    """Implements `policies.decision.Provider` with a Rego engine; safe from many threads.

    `revision` is the SHA-256 of modules, data and entrypoint, or what an OPA server calls
    its own. `warnings` were found at load. `needs_istio` says whether the policy may look
    at `input.meshwarden.istio`. With `dry_run` a denial passes, and says so.
    """

    name: str
    engine: Engine
    revision: str = ""
    warnings: tuple[Diagnostic, ...] = ()
    max_body_bytes: int = MAX_BODY_BYTES
    input_options: InputOptions = field(default_factory=InputOptions)
    compatibility: Compatibility = field(default_factory=Compatibility)
    needs_istio: bool = True
    budget_seconds: float = BUDGET_SECONDS
    dry_run: bool = False

    def evaluate(
        self,
        request: Request,
        seconds: float | None = None,
        istio: Callable[[], Decision] | None = None,
    ) -> ProviderVerdict:
        """Return the policy's verdict; `seconds` is what is left of the caller's time.

        `istio` works out what token, DENY and ALLOW policies say; it is called when needed.

        A request that cannot be turned into an input is denied by it: that is the caller's
        doing, so it must not count as a failure, which may be configured to allow.

        Raises:
            ProviderTimeout: the evaluation was stopped at its limit, or never began.
            UnfitRequest: the engine cannot carry the input, or finds no answer to it; or the
                verdict is there and the rest of the result is of no use.
            ProviderError: undefined, malformed or failed; the caller denies.
        """
        if seconds is not None and seconds <= 0:
            raise ProviderTimeout("the caller's time was over before the policy was asked")
        limit = self.budget_seconds if seconds is None else min(seconds, self.budget_seconds)
        if len(request.body) > self.max_body_bytes:
            return _refused(_TOO_LARGE, f"the body is larger than {self.max_body_bytes} bytes")
        try:
            document = input_document(request, self.input_options)
        except InputError as exc:
            # opa-envoy-plugin: 400 with the parser's text; the text is for the record alone.
            return _refused(_BAD_REQUEST, f"{exc.code}: {exc}")
        # Working it out tries every DENY and ALLOW rule, and most policies never look.
        if istio is not None and self.needs_istio:
            document["meshwarden"]["istio"] = istio_verdict(istio())
        try:
            result = self.engine.evaluate(document, limit)
            verdict = read_verdict(result, self.compatibility)
        except EngineTimeout as exc:
            raise ProviderTimeout(f"{exc.code}: {exc}") from exc
        # WHY a conflict is unfit: it comes of what was sent, as does the stop of a polyfill at a
        # text that the engine would answer otherwise than OPA.
        except (EngineInputError, EvaluationError) as exc:
            raise UnfitRequest(f"{exc.code}: {exc}") from exc
        except ResultError as exc:
            # WHY unfit: the policy has decided, and what is wrong beside that may be a text of
            # the client's in a header: nobody spoils a denial, and so passes it.
            kind = UnfitRequest if has_decided(result) else ProviderError
            raise kind(f"{exc.code}: {exc}") from exc
        except RegoError as exc:
            raise ProviderError(f"{exc.code}: {exc}") from exc
        unknown = () if self.compatibility.silent_unknown_keys else unknown_keys(result)
        if unknown:
            listed = ", ".join(f"`{key}`" for key in unknown)
            detail = f"{verdict.detail} (unknown result keys {listed})".strip()
            verdict = replace(verdict, detail=detail)
        return passed_in_dry_run(verdict) if self.dry_run else verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class RegoPolicy:
    """Modules (file name, source) and their data, wherever they came from.

    `revision` names all of it; `place` is where findings about the whole are told to be.
    """

    modules: Sequence[tuple[str, str]]
    data: Mapping[str, Any]
    revision: str
    place: str


def load_provider(
    name: str,
    paths: Iterable[Path],
    entrypoint: str,
    data_paths: Iterable[Path] = (),
    options: ProviderOptions | None = None,
) -> RegoProvider:
    """Return a provider that answers from Rego files, proven on sample requests.

    Raises:
        LoadError: something in the files would not serve; nothing was loaded.
    """
    return provide(name, policy_in_files(paths, entrypoint, data_paths), entrypoint, options)


def policy_in_files(
    paths: Iterable[Path], entrypoint: str, data_paths: Iterable[Path] = ()
) -> RegoPolicy:
    """Return the policy that Rego and data files make together; nothing of it is checked yet.

    Raises:
        LoadError: a file cannot be read.
    """
    paths = tuple(paths)
    texts = read_modules(paths)
    data, data_texts = read_data(data_paths)
    revision = digest([*texts, *data_texts], entrypoint.strip("/"))
    return RegoPolicy(modules=texts, data=data, revision=revision, place=str(paths[0]))


def provide(
    name: str, policy: RegoPolicy, entrypoint: str, options: ProviderOptions | None = None
) -> RegoProvider:
    """Return a provider that answers from modules and data, proven on sample requests.

    Raises:
        LoadError: something in them would not serve; nothing was loaded.
    """
    options = options or ProviderOptions()
    texts, data, place = policy.modules, policy.data, policy.place
    entrypoint = entrypoint.strip("/")
    warnings = _check(policy, entrypoint)
    engine = EmbeddedEngine(
        _with_polyfills(texts),
        entrypoint,
        data,
        budget_seconds=_engine_budget(options),
        workers=options.workers,
        compiled=options.compiled,
    )
    loaded = _proven(name, engine, options, entrypoint, place)
    if options.watch is not None:
        what = Evaluated(modules=texts, data=data, entrypoint=entrypoint)
        loaded = replace(loaded, engine=options.watch(engine, what))
    return replace(
        loaded,
        revision=policy.revision,
        warnings=(*warnings, *loaded.warnings),
        needs_istio=NeededInput.of_sources(source for _, source in texts).holds(*_ISTIO_KEY),
    )


def _with_polyfills(texts: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return checked modules as the engine gets them, with the polyfills they refer to."""
    scanned = (scan_module(file, source) for file, source in texts)
    return supply_polyfills(found for found in scanned if isinstance(found, Module))


def connect_provider(
    name: str, server: OpaServer, entrypoint: str, options: ProviderOptions | None = None
) -> RegoProvider:
    """Return a provider that asks a real OPA server, proven on sample requests.

    Raises:
        LoadError: the server is not there, not ready, or does not answer as a policy must.
    """
    options = options or ProviderOptions()
    entrypoint = entrypoint.strip("/")
    engine = OpaServerEngine(server, entrypoint, budget_seconds=_engine_budget(options))
    try:
        revision = engine.check(options.start_seconds)
        return replace(_proven(name, engine, options, entrypoint, server.url), revision=revision)
    except LoadError:
        engine.close()
        raise


def _proven(
    name: str, engine: Engine, options: ProviderOptions, entrypoint: str, place: str
) -> RegoProvider:
    """Return the provider of an engine that gives every sample request a verdict."""
    compatibility = options.compatibility
    warnings = _try_samples(engine, entrypoint, place, compatibility)
    return RegoProvider(
        name=name,
        engine=engine,
        warnings=tuple(warnings),
        max_body_bytes=options.max_body_bytes,
        input_options=options.for_input(),
        compatibility=compatibility,
        dry_run=options.dry_run,
        budget_seconds=options.budget_seconds,
    )


def _engine_budget(options: ProviderOptions) -> float:
    """Return the time of a sample at load, where a cold engine is not a policy too slow."""
    return max(options.budget_seconds, BUDGET_SECONDS)


def _refused(status: int, detail: str) -> ProviderVerdict:
    return ProviderVerdict(
        effect=Effect.DENY, http_status=status, body=_REFUSED_BODY[status], detail=detail
    )


def _check(policy: RegoPolicy, entrypoint: str) -> list[Diagnostic]:
    """Return the warnings about the modules; raise when there is an error."""
    place = policy.place
    scanned = [scan_module(file, source) for file, source in policy.modules]
    modules = [found for found in scanned if isinstance(found, Module)]
    findings = [found for found in scanned if isinstance(found, Diagnostic)]
    findings += check_modules(modules)
    findings += [_covered(rule, place) for rule in rules_in_data(modules, policy.data)]
    if len(modules) == len(policy.modules):
        findings += check_entrypoint(modules, entrypoint, place)
    if any(found.severity is Severity.ERROR for found in findings):
        raise LoadError(findings)
    return findings


def _covered(rule: str, place: str) -> Diagnostic:
    return Diagnostic(
        code="rego.data",
        message=f"`{rule}` is a rule and stands in the data as well",
        location=Location(place),
        help="put the data elsewhere: OPA refuses it too",
    )


def _try_samples(
    engine: Engine, entrypoint: str, place: str, compatibility: Compatibility
) -> list[Diagnostic]:
    """Return warnings from sample evaluations; raise when one gives no verdict."""
    unknown: set[str] = set()
    warnings: list[Diagnostic] = []
    for sample in _SAMPLES:
        try:
            document = input_document(sample)
            document["meshwarden"]["istio"] = _SAMPLE_VERDICT
            result = engine.evaluate(document)
            read_verdict(result, compatibility)
        except RegoError as exc:
            is_warning = compatibility.undefined_samples and isinstance(exc, EngineError)
            problem = Diagnostic(
                code="rego.sample",
                message=f"a sample request gets no verdict: {exc}",
                location=Location(place),
                help=f"`{entrypoint}` must answer every request; give it a default",
                severity=Severity.WARNING if is_warning else Severity.ERROR,
            )
            if not is_warning:
                raise LoadError([problem]) from exc
            warnings.append(problem)
            continue
        unknown.update(unknown_keys(result))
    if compatibility.silent_unknown_keys:
        unknown.clear()
    return list(dict.fromkeys(warnings)) + [_unknown_key(key, place) for key in sorted(unknown)]


def _unknown_key(key: str, place: str) -> Diagnostic:
    near = difflib.get_close_matches(key, KNOWN_KEYS, n=1)
    return Diagnostic(
        code="rego.result_key",
        message=f"the result has a key `{key}` that means nothing",
        location=Location(place),
        help=f"did you mean `{near[0]}`?" if near else "",
        severity=Severity.WARNING,
    )
