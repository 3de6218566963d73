"""What command lines have in common: the mesh file, the workload, options of many values."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

from policies.diagnostic import Diagnostic, LoadError, Location
from policies.documents import MAX_BYTES, TOO_LARGE
from policies.mesh import Mesh
from policies.mesh_config import load_mesh
from policies.request import Service, Workload

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

WORKLOAD_FORM = "NAMESPACE[/k=v,...]"
SERVICE_FORM = "[Service/|ServiceEntry/]NAMESPACE/NAME"


def mesh_option(
    help_: str = "Mesh settings: our own, or Istio's MeshConfig.",
) -> Callable[[Decorated], Decorated]:
    """Return the option `--mesh FILE`; its argument is `mesh_file`."""
    return click.option(
        "--mesh",
        "mesh_file",
        type=click.Path(path_type=Path, dir_okay=False, exists=True, allow_dash=True),
        metavar="FILE",
        help=help_,
    )


def read_mesh(path: Path | None, *, unusable: list[Diagnostic] | None = None) -> Mesh:
    """Return the mesh settings of a file or a pipe; without one, the defaults.

    `unusable` takes what is wrong with extension providers, which refuses the file otherwise.

    Raises:
        OSError: the file cannot be read.
        LoadError: it is not UTF-8, empty or too large, or what it says is wrong.
    """
    if path is None:
        return Mesh()
    # WHY not as policies are read: `--mesh <(kubectl get configmap ...)` is a pipe.
    with click.open_file(str(path), "rb") as stream:
        raw = stream.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise _unreadable(path, TOO_LARGE)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise _unreadable(path, f"not UTF-8 at byte {exc.start}") from exc
    if not text.strip():
        # What stopped half way looks like this, and the defaults are not what was meant.
        raise _unreadable(path, "the file is empty", "write `{}` to mean the defaults")
    return load_mesh(text, str(path), unusable=unusable)


def _unreadable(path: Path, message: str, help_: str = "") -> LoadError:
    location = Location(str(path))
    return LoadError(
        [Diagnostic(code="unreadable-file", message=message, location=location, help=help_)]
    )


def parse_workload(value: str) -> Workload:
    """Return the workload of `NAMESPACE[/key=value,...]`; a label's key may hold a `/`.

    Raises:
        click.BadParameter: the text is not of that form.
    """
    namespace, _, text = value.partition("/")
    if not namespace:
        raise click.BadParameter("the namespace is missing")
    labels: dict[str, str] = {}
    for pair in filter(None, text.split(",")):
        key, equals, label = pair.partition("=")
        if not (key and equals):
            raise click.BadParameter(f"`{pair}` is not of the form `key=value`")
        labels[key] = label
    return Workload(namespace=namespace, labels=labels)


def parse_service(value: str) -> Service:
    """Return the service of `NAMESPACE/NAME`, its kind before it where it is a ServiceEntry.

    Raises:
        click.BadParameter: the text is not of that form.
    """
    kind: Literal["Service", "ServiceEntry"] = "Service"
    parts = value.split("/")
    if len(parts) == 3 and parts[0] in ("Service", "ServiceEntry"):
        kind = "Service" if parts[0] == "Service" else "ServiceEntry"
        parts = parts[1:]
    if len(parts) != 2 or not all(parts):
        raise click.BadParameter(f"`{value}` is not of the form `{SERVICE_FORM}`")
    return Service(kind=kind, namespace=parts[0], name=parts[1])


class SpreadingCommand(click.Command):
    """A command whose repeatable options also take several values in a row: `--policies A B`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Write each further value with its option's name before it, as click wants it."""
        names = {
            name
            for parameter in self.params
            if isinstance(parameter, click.Option) and parameter.multiple
            for name in parameter.opts
        }
        return super().parse_args(ctx, list(spread(args, names)))


def spread(args: Sequence[str], names: Collection[str]) -> Iterator[str]:
    """Yield the arguments with the option's name before every further value.

    >>> list(spread(["--rego", "a", "b", "--mesh", "m"], {"--rego"}))
    ['--rego', 'a', '--rego', 'b', '--mesh', 'm']
    """
    option, taken = "", 0
    for arg in args:
        if arg.startswith("-") and arg != "-":
            head, equals, _ = arg.partition("=")
            option, taken = (head if head in names else ""), int(bool(equals))
        elif option:
            if taken:
                yield option
            taken += 1
        yield arg
