"""How a command line ends when it cannot do its work: the findings, and exit code 2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from audit.errors import AuditError
from authz.errors import ListenError, TracingError
from ca.errors import CaError
from identity.errors import IdentityError
from policies.diagnostic import LoadError

EXIT_UNUSABLE = 2


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn the errors an operator can mend into text on standard error and exit code 2."""
    try:
        yield
    except LoadError as exc:
        for found in exc.diagnostics:
            click.echo(str(found), err=True)
        raise SystemExit(EXIT_UNUSABLE) from exc
    except BrokenPipeError:
        # Whoever read our output has enough; click ends quietly.
        raise
    except OSError as exc:
        # `[Errno 2]` is for programs.
        where = f"`{exc.filename}`: " if exc.filename else ""
        click.echo(f"error: {where}{exc.strerror or exc}", err=True)
        raise SystemExit(EXIT_UNUSABLE) from exc
    except (AuditError, CaError, IdentityError, ListenError, TracingError) as exc:
        click.echo(f"error: {exc}", err=True)
        advice = getattr(exc, "help", "")
        if advice:
            click.echo(f"  help: {advice}", err=True)
        raise SystemExit(EXIT_UNUSABLE) from exc
