"""What applies to one workload, with everything that each of its requests would derive anew."""

from __future__ import annotations

from dataclasses import dataclass

from identity.jwt_rule import JwtRule
from identity.request_authentication import TokenRules
from policies.mesh import PathNormalization
from policies.pace import Pace, no_pace
from policies.path_view import PathView
from policies.snapshot import WorkloadPolicies

DEFAULT_CARRIERS = ("authorization", "access_token")
"""Where a token is looked for when no rule says where."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The policies of a workload, ready to be asked.

    `token_carriers` names every header, parameter and cookie a token is looked for in,
    `token_rules` are those of the policies, `paths` tells what they see of a path.
    """

    policies: WorkloadPolicies
    token_carriers: frozenset[str]
    token_rules: TokenRules
    paths: PathView

    @classmethod
    def of(
        cls, policies: WorkloadPolicies, level: PathNormalization, pace: Pace = no_pace
    ) -> Selection:
        """Return the selection of these policies; `level` is how paths are to be written.

        `pace` is called on the way.
        """
        return cls(
            policies=policies,
            token_carriers=_carriers(policies.jwt_rules),
            token_rules=TokenRules.of(policies.jwt_rules),
            paths=PathView(policies, level, pace),
        )


def _carriers(rules: tuple[JwtRule, ...]) -> frozenset[str]:
    names = set(DEFAULT_CARRIERS)
    for rule in rules:
        names.update(header.name.lower() for header in rule.from_headers)
        names.update(rule.from_params)
        names.update(rule.from_cookies)
    return frozenset(names)
