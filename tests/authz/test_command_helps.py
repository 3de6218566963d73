"""What `--help` says of every command."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from authz.cli import main


def _commands(group: click.Group, *before: str) -> Iterator[tuple[str, ...]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from _commands(command, *before, name)
        else:
            yield (*before, name)


COMMANDS = list(_commands(main))


def _command(words: tuple[str, ...]) -> click.Command:
    found: click.Command = main
    for word in words:
        assert isinstance(found, click.Group)
        command = found.get_command(click.Context(found), word)
        assert command is not None
        found = command
    return found


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_option_says_what_it_is_for(words: tuple[str, ...]) -> None:
    """Each command has a first sentence, and each option that is shown some words."""
    command = _command(words)
    options = [each for each in command.params if isinstance(each, click.Option)]

    assert command.help
    assert [] == [each.opts for each in options if not each.hidden and not each.help]


def test_there_are_all_of_them() -> None:
    """The walk found groups within groups."""
    deep = {("serve",), ("ca", "rotate", "prepare"), ("policy", "shadow", "report")}

    assert deep <= set(COMMANDS)


@pytest.mark.parametrize("words", [(), ("policy",)], ids=["meshwarden", "policy"])
def test_exit_codes_are_told(words: tuple[str, ...]) -> None:
    """Where a command names no codes of its own, its group does."""
    told = CliRunner().invoke(main, [*words, "--help"]).output

    assert "0 it did what was asked; 2 it could not" in " ".join(told.split())
