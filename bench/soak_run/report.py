"""The table of a soak, for people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_table(found: Mapping[str, Any], path: Path) -> None:
    """Write what was found as Markdown."""
    path.write_text("\n".join([*_summary(found), "", *_minutes(found)]) + "\n", "utf-8")


def _summary(found: Mapping[str, Any]) -> list[str]:
    failed = ", ".join(f"{count} {name}" for name, count in found["failed"].items()) or "none"
    judged = "" if found["is_slope_judged"] else ", too short to be judged"
    return [
        f"# {found['minutes']:g} minutes at {found['share_of_capacity']:.0%} of capacity",
        "",
        f"| server `{found['server']}` | measured | goal |",
        "|---|---|---|",
        f"| checks | {found['checks']:,} at {found['checks_a_second']:,} a second | |",
        f"| not decided rightly | {failed} | none |",
        f"| edits that counted | {found['edits'] - len(found['edit_faults'])} of {found['edits']}, "
        f"{found['edits_refused']} after a broken one | all |",
        f"| keys that changed | {found['key_rotations']} | |",
        f"| memory, all processes | {_shown(found['slope'])}{judged} "
        f"| < {found['slope_limit']:g} MB/h |",
        f"| memory, main process | {_shown(found['slope_of_main_process'])} | |",
        f"| `audit verify` | exit code {found['verify_exit_code']} | 0 |",
        f"| goals | {'met' if found['met'] else 'MISSED'} | |",
    ]


def _shown(slope: Mapping[str, float] | None) -> str:
    if slope is None:
        return "?"
    return f"{slope['megabytes_an_hour']:+.1f} MB/h (± {slope['error']:.1f})"


def _minutes(found: Mapping[str, Any]) -> list[str]:
    memory = {int(at // 60): megabytes for at, megabytes in found["memory"]}
    rows = [
        "| minute | decided | p50 ms | p99 ms | longest ms | CPU µs a check | MB |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for each in found["per_minute"]:
        waits, number = each["decisions"], each["number"]
        rows.append(
            f"| {number} | {each['decided']:,} | {waits['median']:.2f} | {waits['p99']:.1f} "
            f"| {waits['longest']:.0f} | {each['cpu_microseconds']} | {memory.get(number, '?')} |"
        )
    return rows
