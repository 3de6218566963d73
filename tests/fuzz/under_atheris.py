"""`python -m tests.fuzz.under_atheris TARGET [libFuzzer's options]`: one target, until it ends.

Ends the process with libFuzzer's exit status; 77 means that an input broke a promise.
"""

from __future__ import annotations

import sys

import atheris

from tests.fuzz import target

_WATCHED = ["identity", "policies", "opa_bridge", "dryrun", "audit", "ca", "authz"]


def main() -> None:
    """Fuzz the target that is named first."""
    name = sys.argv.pop(1)
    # Its branches are watched only in what is imported from here on.
    with atheris.instrument_imports(include=_WATCHED):
        found = target.load(name)

    def run(data: bytes) -> None:
        found.run(data)

    atheris.Setup(sys.argv, run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
