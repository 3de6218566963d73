"""`python -m authz.supervisor CONFIGURATION DESCRIPTOR`: `serve` that looks after workers.

Only `authz.supervisor_plan` starts it. It imports next to nothing, for it does next to nothing.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

from authz.commands.failing import clear_errors
from authz.envoy_start import envoy_worker
from authz.indexing import indexing
from authz.plain_log import PlainLog
from authz.ports import hold_port
from authz.server_folder import server_folder
from authz.supervisor_plan import SupervisorPlan
from authz.worker_process import StartWorker
from authz.worker_start import python_worker
from authz.workers import Workers


def main() -> None:
    """Look after the workers of a plan until SIGTERM or SIGINT."""
    config, descriptor = sys.argv[1:]
    with clear_errors():
        supervise(Path(config), SupervisorPlan.take(int(descriptor)))


def supervise(config: Path, plan: SupervisorPlan) -> None:
    """Start what is planned, look after it, and drain it in the end.

    Raises:
        ListenError: an address cannot be bound, or a worker does not come to listen.
    """
    log = PlainLog(level=plan.log_level, form=plan.log_format, stream=sys.stderr)
    workers = Workers(plan, log)
    workers.hear_signals()
    with ExitStack() as stack:
        helper = stack.enter_context(indexing(None if plan.columns is None else Path(plan.columns)))
        if any(plan.names):
            stack.enter_context(hold_port(plan.grpc))
        workers.run(_starting(config, plan, stack), helper)
    if any(plan.names):
        log.info("stopped")


def _starting(config: Path, plan: SupervisorPlan, stack: ExitStack) -> StartWorker:
    if plan.envoy is None:
        return python_worker(config)
    return envoy_worker(plan.envoy, config, plan.grpc, stack.enter_context(server_folder()))


if __name__ == "__main__":
    main()
