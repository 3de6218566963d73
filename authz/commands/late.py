"""Groups whose commands are imported when they are asked for: a start costs what it uses."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from io import TextIOWrapper
from typing import Any

import click

Late = Mapping[str, Callable[[], click.Command]]
"""Commands by name, each as a function that imports and returns it."""


class LateGroup(click.Group):
    """A group of commands, some of which are imported late; `--help` imports them all."""

    def __init__(self, *args: Any, late: Late, **settings: Any) -> None:
        """Take click's arguments, and the late commands."""
        super().__init__(*args, **settings)
        self._late = late

    def main(self, *args: Any, **settings: Any) -> Any:
        """Run the command line; signs that its output has no bytes for are spelled out."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        return super().main(*args, **settings)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, sorted."""
        return sorted({*super().list_commands(ctx), *self._late})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, imported now if it was not before."""
        if cmd_name in self._late and cmd_name not in self.commands:
            self.add_command(self._late[cmd_name](), cmd_name)
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that is asked for; who misspells it is told of those that are near."""
        if self.get_command(ctx, args[0]) is None:
            # click looks among those that were imported.
            for name in self._late:
                self.get_command(ctx, name)
        return super().resolve_command(ctx, args)
