"""What providers answer to a recorded request: what they answered then, or their new Rego anew.

Theory of operation. An answer of then stands as long as nothing that the provider looks at is
another one now. Who is asked, and how, is noted: what the record holds of headers is what those
who were asked then made of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from dryrun.past import NotReplayable, Past
from dryrun.past_tokens import carriers
from policies.decision import Effect, Layer, Provider, ProviderVerdict, Reason
from policies.snapshot import WorkloadPolicies

_SEVERAL: Final = 2


class NewProvider(Protocol):
    """The candidate's Rego for a provider."""

    @property
    def revision(self) -> str:
        """The digest of its policy."""
        ...

    @property
    def looks_at_istio(self) -> bool:
        """Whether it looks at what Istio's own policies say."""
        ...

    @property
    def looks_at_token(self) -> bool:
        """Whether it looks at what a token proved."""
        ...

    def provider_for(self, past: Past, /) -> Provider:
        """Return what evaluates a past request.

        Raises:
            NotReplayable: it looks at what the record does not hold.
        """
        ...


class Answers:
    """The providers of one past request. Call `begin` before each time it is decided."""

    def __init__(
        self,
        past: Past,
        policies: WorkloadPolicies,
        new: Mapping[str, NewProvider],
        new_for_any: NewProvider | None,
        *,
        is_same_set: bool,
        is_istio_known: bool,
    ) -> None:
        """Answer for every provider that could be asked.

        `is_same_set`: the candidate is what decided then. `is_istio_known`: what DENY and ALLOW
        policies say is.
        """
        self._past = past
        self._then = tuple(past.asked)
        self._asked: list[str] = []
        self._has_new = self._has_stood = False
        self._is_same_set = is_same_set
        self._is_istio_known = is_istio_known
        self._token_rules = policies.jwt_rules
        names = dict.fromkeys([*policies.custom, *filter(None, [past.default_provider])])
        found = {name: new.get(name) or new_for_any for name in names}
        # The default one is asked where no other is.
        self._is_alone = len(policies.custom) < _SEVERAL
        self._all_stand = all(
            name in past.asked and (given is None or given.revision == past.asked[name])
            for name, given in found.items()
            if name in policies.custom
        )
        self.providers: Mapping[str, Provider] = {
            name: answer
            for name, given in found.items()
            if (answer := self._answer(name, given)) is not None
        }

    def begin(self) -> None:
        """Take it that nobody was asked yet."""
        self._asked.clear()
        self._has_new = self._has_stood = False

    @property
    def is_as_then(self) -> bool:
        """Whether those were asked that were asked then, and what they said then stood."""
        return not self._then or (not self._has_new and tuple(self._asked) == self._then)

    def note(self, name: str, *, is_new: bool) -> None:
        """Hear that a provider is asked."""
        self._asked.append(name)
        self._has_new |= is_new
        self._has_stood |= not is_new

    def still_stands(self, name: str, given: NewProvider | None) -> bool:
        """Whether what a provider said then is what it would say, as far as anybody can tell."""
        if name not in self._past.asked:
            return False
        if given is None:
            return True
        if self._past.asked[name] != given.revision:
            return False
        if self._is_same_set:
            return True
        has_same_input = not self._has_new and tuple(self._asked) == self._then[: len(self._asked)]
        # What one changes the next one sees: of several, all are asked anew where one has to be.
        has_same_input = has_same_input and (self._is_alone or self._all_stand)
        has_same_token = self._past.has_claims_of_then or not given.looks_at_token
        return has_same_input and has_same_token and not given.looks_at_istio

    def check_new(self, name: str, given: NewProvider) -> None:
        """Make sure that a Rego can be asked anew.

        Raises:
            NotReplayable: what it looks at is not known.
        """
        if len(self._asked) > 1 and self._has_stood:
            raise NotReplayable(f"what the providers before `{name}` changed is not known")
        has_changes = bool(self._then and self._past.changed)
        if given.looks_at_istio and (has_changes or not self._is_istio_known):
            raise NotReplayable(
                f"the Rego of `{name}` looks at what Istio's policies say, and that is not known"
            )

    def check_changes(self, name: str, verdict: ProviderVerdict) -> None:
        """Make sure that what a Rego changes is not where tokens are looked for.

        Raises:
            NotReplayable: it is, and tokens are not recorded.
        """
        does = verdict.mutations
        touched = {each for each, _ in (*does.set_request_headers, *does.append_request_headers)}
        touched.update(does.remove_request_headers, does.remove_query_parameters)
        touched.update(each for each, _ in does.set_query_parameters)
        if verdict.effect is not Effect.ALLOW or not self._token_rules:
            return
        if ":path" in touched or not touched.isdisjoint(carriers(self._token_rules)):
            raise NotReplayable(f"the Rego of `{name}` changes where tokens are looked for")

    def _answer(self, name: str, given: NewProvider | None) -> Provider | None:
        if given is None and name not in self._past.asked:
            return None if self._past.reason == Reason.PROVIDER_UNKNOWN else _NeverAsked(name)
        return _Answer(name, given, self._past, self)


@dataclass(frozen=True, slots=True)
class _Answer:
    """Answers as the provider did, or asks its new Rego once it is known that it is asked."""

    name: str
    given: NewProvider | None
    past: Past
    of: Answers

    def evaluate(self, request: Any, *asking: Any) -> ProviderVerdict:
        """Return the answer of then where it stands."""
        stands = self.of.still_stands(self.name, self.given)
        self.of.note(self.name, is_new=not stands)
        if stands or self.given is None:
            return ProviderVerdict(effect=_recorded_effect(self.name, self.past))
        self.of.check_new(self.name, self.given)
        verdict = self.given.provider_for(self.past).evaluate(request, *asking)
        self.of.check_changes(self.name, verdict)
        return verdict


@dataclass(frozen=True, slots=True)
class _NeverAsked:
    """Stands for a provider whose answer nobody knows."""

    name: str

    def evaluate(self, request: Any, *_asking: object) -> ProviderVerdict:
        """Refuse to guess."""
        raise NotReplayable(f"the provider `{self.name}` was not asked then")


def _recorded_effect(name: str, past: Past) -> Effect:
    """Return a provider's answer: of those that were asked, only the last one can have denied."""
    is_last = name == list(past.asked)[-1]
    was_denied = past.layer == Layer.CUSTOM and past.effect is Effect.DENY
    own = past.reason not in (Reason.PROVIDER_UNKNOWN, Reason.SEVERAL_PROVIDERS)
    return Effect.DENY if is_last and was_denied and own else Effect.ALLOW
