"""The process log: structlog to standard error, for people or for machines."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from authz.plain_log import is_colored
from authz.settings import LogSettings

# WHY no values of variables, here and for people: tokens, keys and what clients sent are among
# them.
_TRACES = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)


def set_up_logging(settings: LogSettings, *, is_for_good: bool = True) -> None:
    """Make every structlog logger of this process write as the settings say.

    Loggers keep what they were told first when it is `is_for_good`, which is what serves fast.
    """
    renderer: structlog.types.Processor = (
        structlog.processors.JSONRenderer()
        if settings.format == "json"
        else structlog.dev.ConsoleRenderer(
            colors=is_colored(sys.stderr),
            exception_formatter=structlog.dev.plain_traceback,
        )
    )
    processors: list[structlog.types.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if settings.format == "json":
        processors.append(structlog.processors.ExceptionRenderer(_TRACES))
    structlog.configure(
        processors=[*processors, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[settings.level.upper()]
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=is_for_good,
    )


@contextmanager
def logging_aside() -> Iterator[None]:
    """Keep the log off standard output, which belongs to the command's answers, for a while.

    Its lines are those of a server; `set_up_logging` changes them until the end.
    """
    before = structlog.get_config()
    set_up_logging(LogSettings(), is_for_good=False)
    try:
        yield
    finally:
        structlog.configure(**before)
