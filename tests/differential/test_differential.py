"""The same requests to Envoy's own filters and to us, over real sockets: the same answers.

To go on where this run ends: `make differential N=100000 SEED=anything`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from policies.decision import Effect, ProviderVerdict
from tests.differential.authorizers import HeaderProvider
from tests.differential.cases import Case, read_cases
from tests.differential.known import explanation
from tests.differential.model import PolicySet, Probe
from tests.differential.probe_maker import make_probes
from tests.differential.run import Plan, run
from tests.differential.shrink import shrink
from tests.differential.trial import Refusal, Standing, Trial, running_trial

pytestmark = pytest.mark.envoy

CASES = read_cases()
# A seed names its sets and requests for good; another one is another run.
PLAN = Plan(requests=1_000, sets=24, seed="first")


@pytest.fixture(scope="module")
def trial() -> Iterator[Trial]:
    """Both sides, running."""
    with running_trial() as running:
        yield running


@pytest.fixture(scope="module")
def standing(trial: Trial) -> dict[str, Standing]:
    """Every case's policy set, up on both sides, by name."""
    refusals: list[Refusal] = []
    found = trial.stand([case.policies for case in CASES], refusals)

    assert [] == refusals
    return {each.policies.name: each for each in found}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.policies.name)
def test_case(case: Case, trial: Trial, standing: dict[str, Standing]) -> None:
    """Both sides answer as the case says, and where it says nothing, alike."""
    wrong = []
    for probe, wants in case.requests:
        envoy, ours = trial.ask(standing[case.policies.name], probe)
        if (envoy.status, ours.status) != (wants or envoy.status, wants or envoy.status):
            wrong.append(f"{probe.plain()}: wants {wants}, Envoy {envoy}, ours {ours}")

    assert [] == wrong


def test_no_two_cases_have_one_name() -> None:
    """A case is known by its name."""
    names = [case.policies.name for case in CASES]

    assert sorted(set(names)) == sorted(names)


def test_generated_sets(trial: Trial) -> None:
    """Over generated policy sets and requests, no difference stays unexplained."""
    refusals: list[Refusal] = []

    # Where all is wrong there is no need to see all of it.
    differing = (each for each in run(trial, PLAN, refusals) if each is not None)
    found = list(islice(differing, 10))

    assert [] == [f"{each.policies.name}, by {each.by}: {each.why}" for each in refusals]
    assert [] == [str(shrink(trial, each)) for each in found[:1]]
    # A run that allows nothing, or denies nothing, would compare nothing.
    assert min(trial.tally.answers[status] for status in (200, 401, 403)) > 100
    assert min(trial.tally.connections[what] for what in ("open", "closed")) > 10


def test_every_explained_difference_stands_in_the_docs(repository: Path) -> None:
    """What the comparison passes over is written down, with its reason, under the same name."""
    from tests.differential.known import EXPLAINED

    text = (repository / "docs" / "differences.md").read_text("utf-8")
    sections = {line.removeprefix("### ").strip("`") for line in text.splitlines()}

    assert sorted(EXPLAINED) == sorted(sections & EXPLAINED.keys())


def test_explained_differences_are_recognized(trial: Trial) -> None:
    """Each explained difference shows up as it is described, and under its own name."""
    cases = read_cases(Path(__file__).parent / "explained")
    stand = {each.policies.name: each for each in trial.stand([case.policies for case in cases])}
    found = {}
    for case in cases:
        (probe, _), *_ = case.requests
        difference = trial.compare(stand[case.policies.name], probe)
        found[case.policies.name] = difference and explanation(difference)

    assert {name: name for name in found} == found


@pytest.mark.parametrize(
    ("block", "statuses"), [("127.0.0.1", (403, 200)), ("1.2.3.4", (200, 403))]
)
def test_source_behind_the_proxy_protocol(
    block: str, statuses: tuple[int, int], trial: Trial
) -> None:
    """`source.ip` is the load balancer to Envoy and the client to us, as the docs say."""
    policy = {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "d", "namespace": "foo"},
        "spec": {"action": "DENY", "rules": [{"from": [{"source": {"ipBlocks": [block]}}]}]},
    }
    probe = Probe(destination="10.1.2.3:80", client="1.2.3.4")
    meshes = ({}, {"tcp": True})
    standing = trial.stand([PolicySet(resources=(policy,), mesh=mesh) for mesh in meshes])

    found = [tuple(answer.status for answer in trial.ask(each, probe)) for each in standing]

    assert [statuses, statuses] == found


def test_a_lie_of_ours_is_found(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider of ours that allows what Envoy's refuses is a difference, cut to one policy."""
    allowed = ProviderVerdict(effect=Effect.ALLOW)
    monkeypatch.setattr(HeaderProvider, "evaluate", lambda self, *_asked: allowed)
    case = next(each for each in CASES if each.policies.name == "custom-allow-is-not-the-last-word")
    (standing,) = trial.stand([case.policies])

    found = list(trial.run(standing, make_probes(case.policies, 20, "lie")))
    least = shrink(trial, found[0])

    assert (403, 200) == (least.envoy.status, least.ours.status)
    (policy,) = least.policies.resources
    assert "CUSTOM" == policy["spec"]["action"]
    assert {} == least.probe.plain()
