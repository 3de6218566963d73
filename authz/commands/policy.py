"""`policy`, also spelled `meshwarden policy`: what can be done with policies without a mesh."""

from __future__ import annotations

import click

from authz.commands.late import LateGroup

EXIT_CODES = (
    "Exit codes, where a command names no others: 0 it did what was asked; 2 it could not, and "
    "says why on standard error."
)


def _validate() -> click.Command:
    from authz.commands.policy_validate import validate_command

    return validate_command


def _lint() -> click.Command:
    from authz.commands.policy_lint import lint_command

    return lint_command


def _eval() -> click.Command:
    from authz.commands.policy_eval import eval_command

    return eval_command


def _explain() -> click.Command:
    from authz.commands.policy_explain import explain_command

    return explain_command


def _compile() -> click.Command:
    from authz.commands.policy_compile import compile_command

    return compile_command


def _test() -> click.Command:
    from authz.commands.policy_test import test_command

    return test_command


def _init() -> click.Command:
    from authz.commands.policy_init import init_command

    return init_command


def _replay() -> click.Command:
    from authz.commands.policy_replay import replay_command

    return replay_command


def _shadow() -> click.Command:
    from authz.commands.policy_shadow import shadow_group

    return shadow_group


def _promote() -> click.Command:
    from authz.commands.policy_promote import promote_command

    return promote_command


@click.group(
    "policy",
    cls=LateGroup,
    late={
        "validate": _validate,
        "lint": _lint,
        "eval": _eval,
        "explain": _explain,
        "compile": _compile,
        "test": _test,
        "init": _init,
        "replay": _replay,
        "shadow": _shadow,
        "promote": _promote,
    },
    epilog=EXIT_CODES,
)
def policy_main() -> None:
    """Check, try, test and compile policies without a mesh; replay what was recorded."""
