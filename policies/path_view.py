"""What the policies of a workload see of a path: two paths that show the same are decided alike.

Theory of operation. Policies look at a path through the values of their conditions and through
the anchors of their index, and both ask whether it is a text, begins with one, ends with one, or
fits a template. So which of all these texts it has says all that any policy can find out, and
dictionaries tell that without trying the rules. INVARIANT: what may be seen otherwise is `None`:
a path that a token may stand in, that is written in another way than it is matched, and all
paths where a condition is not known to look elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Final

from identity.token_locations import holds_param, token_params
from policies.http_path import is_canonical, normalize_path
from policies.matchers import CompiledPolicy
from policies.mesh import PathNormalization
from policies.needs import claim_of, header_of, metadata_of
from policies.pace import Pace, no_pace, paced
from policies.path_template import is_template, template_matcher
from policies.snapshot import WorkloadPolicies
from policies.string_match import TextTest, head_of

PATH_HEADER: Final = ":path"
"""The header in which a path stands a second time."""

_PATHS: Final = "operation.paths"
_ELSEWHERE: Final = frozenset(
    {
        "source.principal",
        "source.namespace",
        "source.serviceAccount",
        "source.trustDomain",
        "source.ip",
        "destination.ip",
        "destination.port",
        "connection.sni",
        "request.auth.principal",
        "operation.hosts",
        "operation.methods",
    }
)
# BUDGET: texts of as many lengths, and templates that begin alike; more would cost what rules do.
_LENGTHS_MAX: Final = 64
_TEMPLATES_MAX: Final = 16

Seen = tuple[int, ...]
"""The texts that a path has and the templates that it fits, by their numbers."""


class PathView:
    """What one workload's policies see of paths."""

    __slots__ = ("_heads", "_is_blind", "_level", "_params", "_tails", "_templates", "_wholes")

    def __init__(
        self, policies: WorkloadPolicies, level: PathNormalization, pace: Pace = no_pace
    ) -> None:
        """Take the texts that conditions look for; `level` is how a path is to be written.

        `pace` is called on the way.
        """
        keys, values = _looked_for(policies, pace)
        self._level = level
        self._params = token_params(policies.jwt_rules)
        self._wholes: dict[str, int] = {}
        self._templates: dict[str, list[tuple[int, TextTest]]] = {}
        heads: dict[int, dict[str, int]] = {}
        tails: dict[int, dict[str, int]] = {}
        for number, value in enumerate(values):
            if is_template(value):
                head = value.partition("{")[0]
                heads.setdefault(len(head), {}).setdefault(head, number)
                self._templates.setdefault(head, []).append(
                    (len(values) + number, template_matcher(value))
                )
            # "`*`": any path is present, and one that is not is never seen.
            elif value.startswith("*"):
                if value != "*":
                    tails.setdefault(len(value) - 1, {})[value[1:]] = number
            elif value.endswith("*"):
                heads.setdefault(len(value) - 1, {}).setdefault(head_of(value), number)
            else:
                self._wholes[value] = number
        self._heads = tuple(heads.items())
        self._tails = tuple(tails.items())
        self._is_blind = (
            any(map(sees_path, keys))
            or len(heads) + len(tails) > _LENGTHS_MAX
            or any(len(each) > _TEMPLATES_MAX for each in self._templates.values())
        )

    def seen(self, path: str) -> Seen | None:
        """Return what is seen of a path with its query; None where that cannot be told."""
        target, mark, query = path.partition("?")
        if self._is_blind or "#" in path or not (is_canonical(target) or self._is_plain(path)):
            return None
        if mark and self._params and holds_param(query, self._params):
            return None
        found = []
        number = self._wholes.get(target)
        if number is not None:
            found.append(number)
        for size, numbers in self._heads:
            head = target[:size]
            if head in numbers:
                found.append(numbers[head])
                if head in self._templates:
                    found += [mine for mine, fits in self._templates[head] if fits(target)]
        for size, numbers in self._tails:
            number = numbers.get(target[-size:])
            if number is not None:
                found.append(number)
        return tuple(found)

    def _is_plain(self, path: str) -> bool:
        """Whether a path is present for `*`, and is matched as it is written."""
        # "Missing :path (CONNECT)" never matches.
        is_present = path[:1] not in ("", "?") and "\n" not in path
        return is_present and normalize_path(path, self._level) == path


def sees_path(key: str) -> bool:
    """Whether a condition may look at the path; one that nobody knows may."""
    if key in _ELSEWHERE:
        return False
    header = header_of(key)
    if header is not None:
        return header == PATH_HEADER
    return claim_of(key) is None and metadata_of(key) is None


def _applied(policies: WorkloadPolicies) -> Iterator[CompiledPolicy]:
    """Yield every policy that a walk may try, those that are only watched included."""
    for index in policies.indexes():
        yield from index
    yield from policies.dry_run


def _looked_for(policies: WorkloadPolicies, pace: Pace) -> tuple[set[str], list[str]]:
    """Return the keys of all conditions but those on paths, and the values of those, each once."""
    keys: set[str] = set()
    values: dict[str, None] = {}
    for policy in paced(_applied(policies), pace):
        for rule in policy.rules:
            for clause in chain(*rule.sources, *rule.operations, rule.when):
                condition = clause.source
                if condition.key != _PATHS:
                    keys.add(condition.key)
                    continue
                for value in (*condition.values, *condition.not_values):
                    values[value.text] = None
    return keys, list(values)
