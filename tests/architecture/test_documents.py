"""What the documents say holds: links lead somewhere, what they show loads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from authz.settings import Settings

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    [
        *REPOSITORY.glob("*.md"),
        *REPOSITORY.glob("docs/**/*.md"),
        *REPOSITORY.glob("bench/*.md"),
        *REPOSITORY.glob("examples/*.md"),
    ]
)
DECISIONS = sorted((REPOSITORY / "docs" / "decisions").glob("0*.md"))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    """A relative link names a file or folder that exists."""
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text("utf-8"))
    local = [target for target in targets if "://" not in target]

    assert [] == [target for target in local if not (document.parent / target).exists()]


def test_the_readmes_configuration_loads() -> None:
    """The example in README.md is valid for the model that `serve` uses."""
    text = (REPOSITORY / "README.md").read_text("utf-8")
    [example] = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)

    settings = Settings.model_validate(yaml.safe_load(example))

    assert "orders-rego" == settings.providers[0].name


def test_decisions_are_numbered_and_listed() -> None:
    """Numbers run without a gap, and the list names every record by its title."""
    index = (DECISIONS[0].parent / "README.md").read_text("utf-8")

    assert [f"{number:04}" for number in range(1, len(DECISIONS) + 1)] == [
        path.name[:4] for path in DECISIONS
    ]
    for path in DECISIONS:
        number, title = path.read_text("utf-8").splitlines()[0].removeprefix("# ").split(" ", 1)
        assert f"| [{number}]({path.name}) | {title} |" in index


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem)
def test_a_decision_has_its_four_parts(path: Path) -> None:
    """Context, options, outcome and consequences, in this order."""
    parts = re.findall(r"^\*\*(\w+)\.\*\*", path.read_text("utf-8"), flags=re.MULTILINE)

    assert ["Context", "Options", "Outcome", "Consequences"] == parts
