"""What became of each policy in a decision: told from the answer and its layer."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from policies.decision import Decision, Layer
from policies.matchers import CompiledPolicy
from policies.model import Action

# The layers in the order in which they may refuse; AUDIT is looked at with the rules.
_ORDER: Final = (
    Layer.REQUEST, Layer.PEER_AUTHENTICATION, Layer.CUSTOM, Layer.REQUEST_AUTHENTICATION,
    Layer.DENY, Layer.ALLOW,
)  # fmt: skip
_PLACE_OF: Final = {
    Action.CUSTOM: _ORDER.index(Layer.CUSTOM),
    Action.AUDIT: _ORDER.index(Layer.DENY),
    Action.DENY: _ORDER.index(Layer.DENY),
    Action.ALLOW: _ORDER.index(Layer.ALLOW),
}


class Standing(StrEnum):
    """What became of a policy in a decision."""

    DECIDED = "decided"
    MATCHED = "matched"
    NO_MATCH = "no_match"
    NOT_ASKED = "not_asked"
    SHADOW = "shadow"


class Standings:
    """Tells of one decision's policies, asked in the order in which the layers ask them."""

    def __init__(self, decision: Decision) -> None:
        """Begin before the first policy."""
        self._decision = decision
        self._is_decided = False

    def of(self, policy: CompiledPolicy, *, matches: bool) -> Standing:
        """Return what became of the next policy; `matches` says whether a rule of it does."""
        if policy.dry_run:
            return Standing.SHADOW
        if self._is_decider(policy):
            # A provider that allows leaves the others to be asked.
            is_last_word = policy.action is not Action.CUSTOM or not self._decision.is_allowed
            self._is_decided = is_last_word
            return Standing.DECIDED
        if not self._was_reached(policy.action):
            return Standing.NOT_ASKED
        return Standing.MATCHED if matches else Standing.NO_MATCH

    def _is_decider(self, policy: CompiledPolicy) -> bool:
        rule = self._decision.rule
        # WHY the layer: a PeerAuthentication that refuses may bear the same name.
        return (
            rule is not None
            and str(self._decision.layer) == str(policy.action)
            and (rule.namespace, rule.policy) == (policy.ref.namespace, policy.ref.policy)
        )

    def _was_reached(self, action: Action) -> bool:
        if self._is_decided and action is not Action.AUDIT:
            return False
        if self._decision.is_allowed:
            return True
        layer = self._decision.layer
        return layer in _ORDER and _ORDER.index(layer) >= _PLACE_OF[action]
