"""`policy init`: a folder to start from, with one policy, its tests and a CI workflow."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Final

import click

from authz.commands.failing import EXIT_UNUSABLE, clear_errors

_WRITTEN: Final = {
    "policies/orders.yaml": "policy.yaml",
    "tests/orders.policytest.yaml": "orders.yaml",
    ".github/workflows/policies.yaml": "workflow.yaml",
}
# A folder that git has just made is as good as empty.
_NO_MATTER: Final = frozenset({".git"})


@click.command("init", short_help="Write a folder to start from.")
@click.argument("folder", default=".", type=click.Path(path_type=Path, file_okay=False))
def init_command(folder: Path) -> None:
    """Write one policy, its tests and a CI workflow into FOLDER (default: here).

    The folder must be empty, but for `.git`. What is written passes `policy lint` and
    `policy test`, with everything covered.

    \b
    Examples:
      policy init shop-policies
      policy init shop-policies && policy test shop-policies

    \b
    Exit codes: 0 written; 2 the folder is not empty, or cannot be written to.
    """
    with clear_errors():
        found = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
        in_the_way = [name for name in found if name not in _NO_MATTER]
        if in_the_way:
            click.echo(f"error: `{folder}` is not empty: `{in_the_way[0]}` is there", err=True)
            click.echo("  help: name a new folder: `policy init NAME`", err=True)
            raise SystemExit(EXIT_UNUSABLE)
        for name, template in _WRITTEN.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(_text(template), encoding="utf-8")
            click.echo(f"wrote {path}")
    where = "" if folder == Path() else f" {folder}"
    click.echo(f"next: policy test{where}")


def _text(template: str) -> str:
    return files("authz.policytest.starter").joinpath(template).read_text(encoding="utf-8")
