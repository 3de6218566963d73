"""`policy test`: the cases of policy tests, run."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from authz.commands.failing import clear_errors
from authz.commands.options import mesh_option, read_mesh
from authz.policytest.render import print_result, print_summary
from authz.policytest.run import (
    SUFFIX,
    BrokenPoliciesError,
    CaseResult,
    find_test_files,
    run_test_file,
)
from policies.diagnostic import LoadError
from policies.mesh import Mesh

EXIT_PASSED = 0
EXIT_FAILED = 1
EXIT_BROKEN_TESTS = 2
EXIT_BROKEN_POLICIES = 3
EXIT_NOTHING_FOUND = 6


@click.command("test", short_help="Run policy tests.")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="[PATH]...")
@mesh_option("Mesh settings in the place of those in the test files: ours, or MeshConfig.")
def test_command(paths: tuple[Path, ...], mesh_file: Path | None) -> None:
    """Run the cases of every *.policytest.yaml below PATH (default: here).

    \b
    Examples:
      policy test examples/
      policy test examples/ --mesh istio-configmap.yaml

    \b
    Exit codes: 0 all passed; 1 a case failed; 2 a test file or the mesh file is wrong;
    3 the policies under test do not load; 6 no test was found.
    """
    with clear_errors():
        mesh = None if mesh_file is None else read_mesh(mesh_file)
    console = Console(soft_wrap=True)
    raise SystemExit(_run(paths or (Path(),), mesh, console))


def _run(paths: tuple[Path, ...], mesh: Mesh | None, console: Console) -> int:
    results: list[CaseResult] = []
    try:
        files = find_test_files(paths)
        for file in files:
            console.print(Text(str(file), style="bold"), highlight=False)
            for result in run_test_file(file, mesh):
                print_result(result, console)
                results.append(result)
    except BrokenPoliciesError as exc:
        return _report("the policies under test do not load", exc.diagnostics, EXIT_BROKEN_POLICIES)
    except LoadError as exc:
        return _report("the test file cannot be used", exc.diagnostics, EXIT_BROKEN_TESTS)
    if not results:
        click.echo(f"no *{SUFFIX} found", err=True)
        return EXIT_NOTHING_FOUND
    print_summary(results, console)
    return EXIT_PASSED if all(result.passed for result in results) else EXIT_FAILED


def _report(what: str, diagnostics: tuple[object, ...], code: int) -> int:
    click.echo(f"{what}:", err=True)
    for found in diagnostics:
        click.echo(f"  {found}", err=True)
    return code
