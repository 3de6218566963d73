"""From `dryrun.candidate` to the shadow that asks it: a serving state of its own, kept fresh.

Nothing is shared with the enforced set but what reads only: it has its own files, providers,
keys and memory of tokens, so that no fault of it reaches a real answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import structlog

from authz.at_once import AtOnce
from authz.build import load_state, prepare_keys
from authz.metrics import Metrics
from authz.policy_bundle_parts import TakeBundle, no_bundles
from authz.policy_reading import PolicyReading
from authz.provider_memory import ProviderMemory
from authz.provider_settings import ProviderSettings
from authz.reload import Loaded, StateKeeper
from authz.serving_state import ServingState
from authz.settings import Settings
from authz.token_parts import TokenParts, build_token_parts
from authz.walk import Surroundings, look_away, walk_with_peer
from dryrun.candidate import CandidateShadow, SecondsLeft, never_at_once
from policies.decision import Decision
from policies.diagnostic import Diagnostic, LoadError
from policies.request import Request
from policies.snapshot import Snapshot

_log = structlog.get_logger(__name__)


class CandidateUnusable(Exception):
    """No candidate set was ever loaded; its name is what the shadow is marked with."""


class Candidate:
    """The candidate set while it is watched. `shadow` asks it."""

    def __init__(
        self,
        settings: Settings,
        around: Surroundings,
        metrics: Metrics,
        *,
        take: TakeBundle = no_bundles,
    ) -> None:
        """Load the set; one that cannot be loaded is told of, and marks every shadow.

        `take` returns bundles by name: what serves when the candidate is loaded.

        Raises:
            IdentityError: a secret cannot be read.
        """
        candidate = settings.dryrun.candidate
        assert candidate is not None, "no candidate is configured"
        self._settings = settings
        self._paths = candidate.paths
        self._providers = candidate_providers(settings)
        self._take = take
        self._tokens = build_token_parts(settings.identity)
        self._around = undisturbing(around, self._tokens)
        # WHY as for the enforced set: what did not change is not read, compiled or started anew.
        self._memory, self._reading = ProviderMemory(), PolicyReading()
        self._is_first = True
        self._metrics = metrics
        self._keeper = StateKeeper(
            self._build,
            watched_paths(settings),
            interval_seconds=settings.policies.reload_seconds,
            on_reload=self._note,
            hand_over=self._reading.hand_over,
            let_go=self._let_go,
        )
        metrics.candidate_fresh.set(bool(self._keeper.current().revision))
        self._at_once = AtOnce(self._keeper.current(), self._around)
        self.shadow = CandidateShadow(
            self._judge,
            # What the issuer is asked about waits for the issuer.
            at_once=never_at_once if self._tokens.introspector else self._judge_at_once,
            budget_seconds=candidate.budget_seconds,
            threads=settings.listen.threads,
            revision=lambda: self._keeper.current().revision,
        )

    def start(self) -> None:
        """Begin to watch its files."""
        self._reading.begin_serving()
        self._keeper.start()

    def refresh(self) -> None:
        """Load the set anew, of the bundles that count now; one that fails leaves it as it is."""
        self._keeper.adopt(self._build, lambda: None)

    def stop(self) -> None:
        """Watch and answer no more."""
        self._keeper.stop()
        self.shadow.close()
        self._tokens.close()

    def _build(self) -> ServingState:
        """Return the state of the files; the first one that fails is an empty state.

        Raises:
            LoadError: a later set cannot be loaded; the one before it stays.
        """
        is_first, self._is_first = self._is_first, False
        mesh = self._settings.mesh.to_mesh()
        try:
            state = load_state(
                self._paths,
                mesh,
                self._providers,
                take=self._take,
                memory=self._memory,
                snapshot_of_texts=self._reading.snapshot,
            )
            prepare_keys(state.snapshot, self._tokens.keys)
        except LoadError as exc:
            if not is_first:
                raise
            # WHY not an end: a candidate must not keep the enforced policies from serving.
            for problem in exc.diagnostics:
                _log.error("candidate_refused", finding=str(problem))
            return ServingState(snapshot=Snapshot(mesh=mesh), revision="")
        return state

    def _judge(self, request: Request, seconds_left: SecondsLeft) -> Decision:
        state = self._keeper.current()
        if not state.revision:
            raise CandidateUnusable
        return walk_with_peer(request, state, self._around, seconds_left).decision

    def _judge_at_once(self, request: Request, seconds_left: SecondsLeft) -> Decision | None:
        """Return the decision where nobody has to be waited for, None elsewhere."""
        state, at_once = self._keeper.current(), self._at_once
        # The two are of one state but for the moment in which another one takes its place.
        if not state.revision or at_once.state is not state:
            return None
        return at_once.decide(request, seconds_left)

    def _let_go(self, parts: list[object]) -> None:
        """Turn to the state that serves now; nothing keeps the one before it, asked or not."""
        self._at_once = AtOnce(self._keeper.current(), self._around)
        self._reading.let_go(parts)

    def _note(self, loaded: Loaded | None, problems: Sequence[Diagnostic]) -> None:
        """Count whether the newest files are those that are asked."""
        self._metrics.candidate_fresh.set(bool(loaded is not None and loaded.revision))


def candidate_providers(settings: Settings) -> tuple[ProviderSettings, ...]:
    """Return the candidate's providers: its own, and those of the enforced set that it lacks."""
    candidate = settings.dryrun.candidate
    own = candidate.providers if candidate else ()
    names = {each.name for each in own}
    is_default = any(each.default for each in own)
    rest = (
        each.model_copy(update={"default": each.default and not is_default})
        for each in settings.providers
        if each.name not in names
    )
    return (*own, *rest)


def watched_paths(settings: Settings) -> tuple[Path, ...]:
    """Return every path whose edit reloads the candidate."""
    candidate = settings.dryrun.candidate
    providers = candidate_providers(settings)
    rego = [path for each in providers for path in each.rego.files]
    named = {name for each in providers for name in each.rego.bundles}
    bundles = [path for each in settings.bundles if each.name in named for path in each.files]
    return (*(candidate.paths if candidate else ()), *rego, *bundles)


def undisturbing(around: Surroundings, tokens: TokenParts) -> Surroundings:
    """Return the surroundings with everything that a walk writes to replaced by its own."""
    return replace(
        around,
        keys=tokens.keys,
        on_unknown_key=tokens.keys.hasten,
        verify_token=tokens.verify,
        observe=look_away,
        candidate=None,
    )
