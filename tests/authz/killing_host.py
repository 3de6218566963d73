"""A process that starts authorizers and waits for them to end: each start is a fork.

It has imported what the server needs and nothing of it has begun, so that a fork serves
within milliseconds. A line of standard input is the configuration to serve; the answer is the
process id, and once that process has ended, an empty line.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from authz.config_file import load_settings
from authz.logging_setup import set_up_logging
from authz.serve import serve


def _serve(config: Path) -> None:
    settings = load_settings(config)
    set_up_logging(settings.log)
    serve(settings)


def main() -> None:
    """Start an authorizer for each line."""
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                _serve(Path(line.rstrip("\n")))
                code = 0
            finally:
                # WHY not `sys.exit`: what the host opened is the host's to close.
                os._exit(code)
        print(pid, flush=True)
        os.waitpid(pid, 0)
        print(flush=True)


if __name__ == "__main__":
    main()
