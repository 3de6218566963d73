"""The YAML cases: a policy set, its requests, and the status that both sides must give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.differential.model import PolicySet, Probe

FOLDER = Path(__file__).parent / "cases"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A policy set with requests, each with the status it wants (None: that of Envoy)."""

    policies: PolicySet
    requests: tuple[tuple[Probe, int | None], ...]


def read_cases(folder: Path = FOLDER) -> list[Case]:
    """Return the cases of every file in a folder."""
    return [
        case_of(plain)
        for path in sorted(folder.glob("*.yaml"))
        for plain in yaml.safe_load(path.read_text("utf-8"))
    ]


def case_of(plain: Mapping[str, Any]) -> Case:
    """Return the case that plain data spells, as `Difference` prints it."""
    requests = []
    for each in plain["requests"]:
        spelled = dict(each)
        wants = spelled.pop("wants", None)
        requests.append((Probe.of(spelled), wants))
    policies = PolicySet(
        resources=tuple(plain["policies"]), mesh=plain.get("mesh", {}), name=plain["name"]
    )
    return Case(policies=policies, requests=tuple(requests))
