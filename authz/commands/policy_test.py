"""`policy test`: the cases of policy tests, run."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from authz.commands.failing import clear_errors
from authz.commands.options import mesh_option, read_mesh
from authz.policytest.render import print_result, print_summary
from authz.policytest.report import BrokenFile, TestRun, Trouble
from authz.policytest.report_formats import FORMATS
from authz.policytest.run import (
    SUFFIX,
    BrokenPoliciesError,
    CaseResult,
    find_test_files,
    list_test_file,
    run_test_file,
)
from policies.diagnostic import LoadError
from policies.mesh import Mesh

EXIT_PASSED = 0
EXIT_FAILED = 1
EXIT_BROKEN_TESTS = 2
EXIT_BROKEN_POLICIES = 3
EXIT_NOTHING_FOUND = 6
_PRETTY = "pretty"
_STDOUT = ""


@dataclass(frozen=True, slots=True)
class Output:
    """A report that is wanted: its format, and the file it goes to; empty: standard output."""

    format: str
    file: str = _STDOUT


def _parse_outputs(
    context: click.Context, option: click.Parameter, values: Sequence[str]
) -> tuple[Output, ...]:
    found = tuple(Output(*value.split("=", 1)) for value in values) or (Output(_PRETTY),)
    for each, value in zip(found, values, strict=False):
        if each.format not in (*FORMATS, _PRETTY):
            known = ", ".join((_PRETTY, *FORMATS))
            raise click.BadParameter(f"`{each.format}` is none of {known}")
        if "=" in value and not each.file:
            raise click.BadParameter(f"`{value}` names no file")
        if each.format == _PRETTY and each.file:
            raise click.BadParameter("`pretty` is for standard output")
    if sum(each.file == _STDOUT for each in found) > 1:
        raise click.BadParameter("two formats for standard output; give one a file, `junit=FILE`")
    return found


def _parse_pattern(
    context: click.Context, option: click.Parameter, value: str | None
) -> Callable[[str], bool]:
    if value is None:
        return lambda name: True
    try:
        pattern = re.compile(value)
    except re.error as exc:
        raise click.BadParameter(f"not a regular expression: {exc}") from exc
    return lambda name: pattern.search(name) is not None


@click.command("test", short_help="Run policy tests.")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="[PATH]...")
@mesh_option("Mesh settings in the place of those in the test files: ours, or MeshConfig.")
@click.option(
    "--run", "wanted", metavar="REGEX", callback=_parse_pattern,
    help="Run the cases whose name, `suite/case`, REGEX is found in.",
)  # fmt: skip
@click.option("--list", "only_lists", is_flag=True, help="Name the cases and run none.")
@click.option("--fail-fast", is_flag=True, help="Stop at the first case that fails.")
@click.option(
    "--format", "outputs", multiple=True, metavar="NAME[=FILE]", callback=_parse_outputs,
    help="pretty, json, junit, tap, github or sarif; repeatable, each but one with a file.  "
    "[default: pretty]",
)  # fmt: skip
def test_command(  # noqa: PLR0913, PLR0917 - the options of one command line
    paths: tuple[Path, ...],
    mesh_file: Path | None,
    wanted: Callable[[str], bool],
    only_lists: bool,
    fail_fast: bool,
    outputs: tuple[Output, ...],
) -> None:
    """Run the cases of every *.policytest.yaml below PATH (default: here).

    \b
    Examples:
      policy test examples/
      policy test examples/ --mesh istio-configmap.yaml
      policy test --run 'orders/.*token' --fail-fast
      policy test --format github --format junit=report.xml

    \b
    Exit codes: 0 all passed; 1 a case failed; 2 a test file, the mesh file or the command
    line is wrong; 3 the policies under test do not load; 6 no test was found. Of several, 2
    goes before 3, and 3 before 1.
    """
    with clear_errors():
        mesh = None if mesh_file is None else read_mesh(mesh_file)
        console = Console(soft_wrap=True, quiet=Output(_PRETTY) not in outputs)
        try:
            files = find_test_files(paths or (Path(),))
            if only_lists:
                raise SystemExit(_list(files, wanted))
        except LoadError as exc:
            raise SystemExit(_tell("the test file cannot be used", exc)) from exc
        run = _run(files, mesh, wanted, console, fail_fast=fail_fast)
        if run.results:
            print_summary(run.results, console)
        for output in outputs:
            _write(run, output)
    raise SystemExit(_exit_code(run))


def _list(files: Sequence[Path], wanted: Callable[[str], bool]) -> int:
    """Print name and place of each case; return the exit code."""
    found = 0
    for file in files:
        for name, place in list_test_file(file):
            if wanted(name):
                found += 1
                click.echo(f"{place}\t{name}")
    return EXIT_PASSED if found else _nothing()


def _run(
    files: Sequence[Path],
    mesh: Mesh | None,
    wanted: Callable[[str], bool],
    console: Console,
    *,
    fail_fast: bool,
) -> TestRun:
    """Run file after file; one that is broken does not keep the others from being run."""
    results: list[CaseResult] = []
    broken: list[BrokenFile] = []
    for file in files:
        console.print(Text(str(file), style="bold"), highlight=False)
        try:
            for result in run_test_file(file, mesh, wanted):
                print_result(result, console)
                results.append(result)
                if fail_fast and not result.passed:
                    return TestRun(results=tuple(results), broken=tuple(broken), was_cut=True)
        except BrokenPoliciesError as exc:
            broken.append(_broken(file, Trouble.POLICIES, exc))
        except LoadError as exc:
            broken.append(_broken(file, Trouble.TEST_FILE, exc))
    return TestRun(results=tuple(results), broken=tuple(broken))


def _broken(file: Path, trouble: Trouble, exc: BrokenPoliciesError | LoadError) -> BrokenFile:
    found = BrokenFile(file=file, trouble=trouble, diagnostics=exc.diagnostics)
    _tell(found.message, exc)
    return found


def _tell(what: str, exc: BrokenPoliciesError | LoadError) -> int:
    click.echo(f"{what}:", err=True)
    for found in exc.diagnostics:
        click.echo(f"  {found}", err=True)
    return EXIT_BROKEN_TESTS


def _write(run: TestRun, output: Output) -> None:
    if output.format == _PRETTY:
        return
    text = FORMATS[output.format](run)
    if output.file == _STDOUT:
        click.echo(text, nl=False)
    else:
        Path(output.file).write_text(text, encoding="utf-8")


def _exit_code(run: TestRun) -> int:
    troubles = {each.trouble for each in run.broken}
    if Trouble.TEST_FILE in troubles:
        return EXIT_BROKEN_TESTS
    if Trouble.POLICIES in troubles:
        return EXIT_BROKEN_POLICIES
    if not run.results:
        return _nothing()
    return EXIT_FAILED if run.failed else EXIT_PASSED


def _nothing() -> int:
    click.echo(f"no case found in any *{SUFFIX}", err=True)
    return EXIT_NOTHING_FOUND
