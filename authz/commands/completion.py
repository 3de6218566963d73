"""`meshwarden completion`: the script by which a shell completes `meshwarden` and `policy`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")
_PROGRAMS = ("meshwarden", "policy")


@click.command("completion", short_help="Print the shell's completion script.")
@click.argument("shell", type=click.Choice(SHELLS))
def completion_command(shell: str) -> None:
    """Print the script by which SHELL completes commands, options and files.

    It is for both programs, `meshwarden` and `policy`.

    \b
    Examples:
      eval "$(meshwarden completion bash)"                     # in ~/.bashrc
      eval "$(meshwarden completion zsh)"                      # in ~/.zshrc
      meshwarden completion fish | source                      # in config.fish
    """
    found = get_completion_class(shell)
    assert found is not None
    root = click.get_current_context().find_root().command
    for program in _PROGRAMS:
        script = found(root, {}, program, f"_{program.upper()}_COMPLETE")
        # WHY not `source`: it asks bash for its version, and the shell that reads this is not
        # the one of the moment.
        click.echo(script.source_template % script.source_vars())
