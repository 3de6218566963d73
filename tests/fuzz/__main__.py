"""`python -m tests.fuzz --runs N`: every target in turn, then how often each was run.

Needs atheris, which `make fuzz` fetches. Inputs that reach something new are kept in
`build/fuzz/corpora` between runs; those that stand in `tests/fuzz/corpora` begin each one.
An input that breaks a promise is named, and stays in `build/fuzz/broken`.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz import target

_KEPT = Path(__file__).parent / "corpora"
_BUILD = Path("build/fuzz")
_EXECUTED = re.compile(r"stat::number_of_executed_units:\s*(\d+)")
# A single input may take this long before it counts as a hang, and a process this much memory.
_HANG_SECONDS = 10
_MEMORY_MIB = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one target."""

    name: str
    executed: int
    seconds: float
    failure: str


def main() -> int:
    """Run; exit status 1 when an input broke a promise, crashed or hung."""
    options = _options()
    names = options.target or list(target.NAMES)
    total = sum(target.load(name).share for name in names)
    runs = {name: int(options.runs * target.load(name).share / total) + 1 for name in names}
    # Long ones first, so that no worker is left alone with one at the end.
    ordered = sorted(names, key=lambda name: -runs[name])
    with ThreadPoolExecutor(options.workers) as pool:
        found = list(pool.map(lambda name: _fuzz(name, runs[name], options.seed), ordered))
    for each in found:
        verdict = "ok" if not each.failure else "BROKEN"
        print(f"{each.name:<18}{each.executed:>10,} executions {each.seconds:>7.0f} s  {verdict}")
    print(f"{'total':<18}{sum(each.executed for each in found):>10,} executions")
    for each in found:
        if each.failure:
            print(f"\n{each.name}:\n{each.failure}")
    return 1 if any(each.failure for each in found) else 0


def _fuzz(name: str, runs: int, seed: int) -> Outcome:
    """Run one target in a process of its own: what it does to itself stays there."""
    corpus, broken = _BUILD / "corpora" / name, _BUILD / "broken"
    corpus.mkdir(parents=True, exist_ok=True)
    broken.mkdir(parents=True, exist_ok=True)
    found = target.load(name)
    for number, data in enumerate(found.seeds()):
        (corpus / f"seed-{number}").write_bytes(data)
    words = _BUILD / f"{name}.words"
    words.write_text("".join(f"{_quoted(word)}\n" for word in found.words))
    folders = [str(corpus), *([str(_KEPT / name)] if (_KEPT / name).is_dir() else [])]
    begun = time.monotonic()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.fuzz.under_atheris", name, f"-runs={runs}"),
            *(f"-max_len={found.longest}", f"-timeout={_HANG_SECONDS}", f"-seed={seed}"),
            *(f"-rss_limit_mb={_MEMORY_MIB}", f"-artifact_prefix={broken}/{name}-"),
            *("-print_final_stats=1", f"-dict={words}", *folders),
        ],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    printed = done.stdout + done.stderr
    executed = _EXECUTED.search(printed)
    return Outcome(
        name=name,
        executed=int(executed.group(1)) if executed else 0,
        seconds=time.monotonic() - begun,
        # Without its last count a run proves nothing.
        failure=_what_broke(printed) if done.returncode or not executed else "",
    )


def _what_broke(printed: str) -> str:
    """Return the exception and the input's file, or the end of what was printed."""
    _, mark, rest = printed.partition("=== Uncaught Python exception: ===")
    if not mark:
        return printed[-3000:]
    trace = rest.partition("\nINFO: ")[0].strip()
    return trace + "\n" + "\n".join(line for line in printed.splitlines() if "Test unit" in line)


def _quoted(word: str) -> str:
    """Return a word as libFuzzer reads it in a dictionary."""
    plain = "".join(
        letter if letter.isalnum() or letter in "-_ ." else f"\\x{byte:02x}"
        for letter in word
        for byte in letter.encode("utf-8", "surrogateescape")
    )
    return f'"{plain}"'


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--runs", type=int, default=100_000, help="executions over all targets")
    parser.add_argument("--target", action="append", choices=target.NAMES, help="only this one")
    parser.add_argument("--workers", type=int, default=2, help="targets at a time")
    parser.add_argument("--seed", type=int, default=1, help="of libFuzzer's choices")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
