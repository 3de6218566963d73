"""`policy test`: the cases of policy tests and the Rego unit tests, run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from authz.commands.failing import clear_errors
from authz.commands.options import mesh_option, read_mesh
from authz.commands.replacing import write_whole
from authz.logging_setup import logging_aside
from authz.policytest.coverage.items import Tally, shown_percent
from authz.policytest.coverage.reports import FORMATS as COVERAGE_FORMATS
from authz.policytest.rego_run import SUFFIX as REGO_SUFFIX
from authz.policytest.rego_run import find_units, list_unit
from authz.policytest.render import print_result, print_summary
from authz.policytest.report import BrokenFile, TestRun, Trouble
from authz.policytest.report_formats import FORMATS
from authz.policytest.result import CaseResult
from authz.policytest.run import SUFFIX, Manner, find_test_files, list_test_file
from authz.policytest.session import Share, find_shares, run_shares
from authz.policytest.watch import run_on_change, watched_paths
from policies.diagnostic import LoadError

EXIT_PASSED = 0
EXIT_FAILED = 1
EXIT_BROKEN_TESTS = 2
EXIT_BROKEN_POLICIES = 3
EXIT_BELOW_THRESHOLD = 4
EXIT_NOTHING_FOUND = 6
EXIT_INTERRUPTED = 130
_PRETTY = "pretty"
_TEXT = "text"
_STDOUT = ""


@dataclass(frozen=True, slots=True)
class Output:
    """A report that is wanted: its format, and the file it goes to; empty: standard output."""

    format: str
    file: str = _STDOUT


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the command line asks for."""

    paths: tuple[Path, ...]
    manner: Manner
    outputs: tuple[Output, ...]
    coverage: tuple[Output, ...]
    threshold: float | None
    fail_fast: bool
    jobs: int

    @property
    def measures(self) -> bool:
        """Whether coverage is asked for in any way."""
        return bool(self.coverage) or self.threshold is not None


def _outputs_of(known: Sequence[str], for_people: str) -> Callable[..., tuple[Output, ...]]:
    """Return the callback that reads `NAME[=FILE]...`; one report may go to standard output."""

    def parse(
        context: click.Context, option: click.Parameter, values: Sequence[str]
    ) -> tuple[Output, ...]:
        found = tuple(Output(*value.split("=", 1)) for value in values)
        for each, value in zip(found, values, strict=True):
            if each.format not in known:
                raise click.BadParameter(f"`{each.format}` is none of {', '.join(known)}")
            if "=" in value and not each.file:
                raise click.BadParameter(f"`{value}` names no file")
            if each.format == for_people == _PRETTY and each.file:
                raise click.BadParameter("`pretty` is for standard output")
        if sum(each.file == _STDOUT for each in found) > 1:
            raise click.BadParameter(
                f"two formats for standard output; give one a file, `{known[-1]}=FILE`"
            )
        return found

    return parse


def _parse_pattern(
    context: click.Context, option: click.Parameter, value: str | None
) -> re.Pattern[str] | None:
    try:
        return None if value is None else re.compile(value)
    except re.error as exc:
        raise click.BadParameter(f"not a regular expression: {exc}") from exc


@click.command("test", short_help="Run policy tests and Rego unit tests.")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="[PATH]...")
@mesh_option("Mesh settings in the place of those in the test files: ours, or MeshConfig.")
@click.option(
    "--run", "pattern", metavar="REGEX", callback=_parse_pattern,
    help="Run the tests whose name, `suite/case`, REGEX is found in.",
)  # fmt: skip
@click.option("--list", "only_lists", is_flag=True, help="Name the tests and run none.")
@click.option("--fail-fast", is_flag=True, help="Stop at the first test that fails.")
@click.option(
    "-j", "--jobs", default=1, show_default=True, type=click.IntRange(1, 256), metavar="N",
    help="Processes to run in; what is printed stands in the same order.",
)  # fmt: skip
@click.option("-w", "--watch", is_flag=True, help="Run again whenever a file changes.")
@click.option(
    "--format", "outputs", multiple=True, metavar="NAME[=FILE]",
    callback=_outputs_of((_PRETTY, *FORMATS), _PRETTY),
    help="pretty, json, junit, tap, github or sarif; repeatable, each but one with a file.  "
    "[default: pretty]",
)  # fmt: skip
@click.option(
    "--coverage", "coverage", multiple=True, metavar="NAME[=FILE]", is_flag=False,
    flag_value=_TEXT, callback=_outputs_of(tuple(COVERAGE_FORMATS), _TEXT),
    help="What no test came to: text, json, lcov, cobertura or html; repeatable, each but one "
    "with a file.",
)  # fmt: skip
@click.option(
    "--threshold", "--coverage-threshold", "threshold", metavar="PERCENT",
    type=click.FloatRange(0, 100),
    help="The least coverage; below it the exit code is 4.",
)  # fmt: skip
def test_command(  # noqa: PLR0913, PLR0917 - the options of one command line
    paths: tuple[Path, ...],
    mesh_file: Path | None,
    pattern: re.Pattern[str] | None,
    only_lists: bool,
    fail_fast: bool,
    jobs: int,
    watch: bool,
    outputs: tuple[Output, ...],
    coverage: tuple[Output, ...],
    threshold: float | None,
) -> None:
    """Run the cases of every *.policytest.yaml, and the `test_` rules of every *_test.rego,
    below PATH (default: here).

    \b
    Examples:
      policy test examples/
      policy test examples/ --mesh istio-configmap.yaml
      policy test --run 'orders/.*token' --fail-fast
      policy test --format github --format junit=report.xml
      policy test --coverage=html=coverage.html --threshold 90
      policy test --watch

    \b
    Exit codes: 0 all passed; 1 a test failed; 2 a test file, the mesh file or the command
    line is wrong; 3 the policies under test do not load; 4 coverage is below the threshold,
    or cannot be measured; 6 no test was found; 130 interrupted. Of several, 2 goes before 3,
    3 before 1, and 1 before 4.
    """
    if coverage and not any(each.file for each in coverage) and _takes_stdout(outputs):
        raise click.UsageError("two formats for standard output; give one a file, `html=FILE`")
    with logging_aside(), clear_errors():
        mesh = None if mesh_file is None else read_mesh(mesh_file)
        wish = Wish(
            paths=paths or (Path(),),
            manner=Manner(mesh=mesh, pattern=pattern),
            outputs=outputs or (Output(_PRETTY),),
            coverage=coverage,
            threshold=threshold,
            fail_fast=fail_fast,
            jobs=jobs,
        )
        if only_lists:
            raise SystemExit(_checked(lambda: _list(wish)))
        if not watch:
            raise SystemExit(_checked(lambda: _run_once(wish)))
        _keep_running(wish)


def _takes_stdout(outputs: Sequence[Output]) -> bool:
    return any(each.format != _PRETTY and not each.file for each in outputs)


def _checked(run: Callable[[], int]) -> int:
    """Return the exit code of a run; a path that is not there, and an interrupt, are told."""
    try:
        return run()
    except LoadError as exc:
        _tell("the test file cannot be used", exc.diagnostics)
        return EXIT_BROKEN_TESTS
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        return EXIT_INTERRUPTED


def _keep_running(wish: Wish) -> None:
    def run() -> None:
        code = _checked(lambda: _run_once(wish))
        if code == EXIT_INTERRUPTED:
            raise SystemExit(code)
        click.echo("waiting for a file to change; Ctrl-C ends", err=True)

    try:
        run_on_change(run, lambda: watched_paths(wish.paths))
    except KeyboardInterrupt:
        raise SystemExit(EXIT_INTERRUPTED) from None


def _list(wish: Wish) -> int:
    """Print name and place of each test; return the exit code."""
    found = 0
    for name, place in _names(wish.paths):
        if wish.manner.wants(name):
            found += 1
            click.echo(f"{place}\t{name}")
    return EXIT_PASSED if found else _nothing(wish)


def _names(paths: Sequence[Path]) -> Iterator[tuple[str, str]]:
    for file in find_test_files([path for path in paths if not path.name.endswith(REGO_SUFFIX)]):
        yield from ((name, str(place)) for name, place in list_test_file(file))
    for unit in find_units(paths):
        yield from list_unit(unit)


def _run_once(wish: Wish) -> int:
    """Run everything, write every report; return the exit code."""
    console = Console(soft_wrap=True, quiet=Output(_PRETTY) not in wish.outputs)
    shares = find_shares(wish.paths, wish.manner, wish.jobs)
    run, tally = _run(shares, wish, console)
    if run.results:
        print_summary(run.results, console)
    for output in wish.outputs:
        if output.format != _PRETTY:
            _write(FORMATS[output.format](run), output)
    for output in wish.coverage:
        _write(COVERAGE_FORMATS[output.format](tally), output)
    return _exit_code(run, tally, wish)


def _run(shares: Sequence[Share], wish: Wish, console: Console) -> tuple[TestRun, Tally]:
    """Run share after share; one that is broken does not keep the others from being run."""
    results: list[CaseResult] = []
    broken: list[BrokenFile] = []
    tally = Tally()
    was_cut = False
    for found in run_shares(shares, measures=wish.measures, jobs=wish.jobs):
        if isinstance(found, Tally):
            tally.merge(found)
        elif isinstance(found, BrokenFile):
            broken.append(found)
            _tell(f"{found.file}: {found.message}", found.diagnostics)
        else:
            if not results or results[-1].location.file != found.location.file:
                console.print(Text(found.location.file, style="bold"), highlight=False)
            print_result(found, console)
            results.append(found)
            if wish.fail_fast and found.failed:
                was_cut = True
                break
    return TestRun(results=tuple(results), broken=tuple(broken), was_cut=was_cut), tally


def _tell(what: str, diagnostics: Sequence[object]) -> None:
    click.echo(f"{what}:", err=True)
    for found in diagnostics:
        click.echo(f"  {found}", err=True)


def _write(text: str, output: Output) -> None:
    if output.file == _STDOUT:
        click.echo(text, nl=False)
    else:
        write_whole(Path(output.file), text)


def _exit_code(run: TestRun, tally: Tally, wish: Wish) -> int:
    troubles = {each.trouble for each in run.broken}
    if Trouble.TEST_FILE in troubles:
        return EXIT_BROKEN_TESTS
    if Trouble.POLICIES in troubles:
        return EXIT_BROKEN_POLICIES
    if not run.results:
        return _nothing(wish)
    if run.failed:
        return EXIT_FAILED
    if wish.threshold is not None and tally.percent < wish.threshold:
        told = f"coverage {shown_percent(tally.percent)} is below {wish.threshold:g}%"
        click.echo(told, err=True)
        return EXIT_BELOW_THRESHOLD
    return EXIT_BELOW_THRESHOLD if Trouble.COVERAGE in troubles else EXIT_PASSED


def _nothing(wish: Wish) -> int:
    where = ", ".join(f"`{path}`" for path in wish.paths)
    click.echo(f"no test found in any *{SUFFIX} or *{REGO_SUFFIX} of {where}", err=True)
    advice = "`policy init NAME` writes a folder with tests to start from"
    if wish.manner.pattern is not None:
        wanted = wish.manner.pattern.pattern
        advice = (
            f"no name holds `{wanted}` of `--run`, or there is no test: see `policy test --list`"
        )
    click.echo(f"  help: {advice}", err=True)
    return EXIT_NOTHING_FOUND
