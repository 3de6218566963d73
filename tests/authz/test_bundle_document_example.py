"""The configuration that docs/bundles.md shows is one, and its tables name what exists."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from authz.settings import Settings


def test_the_example_loads(repository: Path) -> None:
    """Bundles and provider of the example are valid beside any policies."""
    text = (repository / "docs" / "bundles.md").read_text("utf-8")
    [example] = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    rest = {"policies": {"paths": ["policies"]}, "audit": {"folder": "audit"}}

    settings = Settings.model_validate({**rest, **yaml.safe_load(example)})

    assert ["authz", "roles"] == [each.name for each in settings.bundles]
    assert "https://bundles.example/v1/authz.tar.gz" == settings.bundles[0].to_served().service.url


def test_every_code_of_an_error_is_listed(repository: Path) -> None:
    """Whatever begins with `bundle.` in the code stands in the page, but for our own defects."""
    page = (repository / "docs" / "bundles.md").read_text("utf-8")
    sources = (repository / "opa_bridge").glob("bundle_*.py")
    codes = {
        code
        for path in sources
        for code in re.findall(r'"(bundle\.[a-z]+)"', path.read_text("utf-8"))
    } - {"bundle.internal"}

    assert set() == {code for code in codes if f"`{code}`" not in page}
