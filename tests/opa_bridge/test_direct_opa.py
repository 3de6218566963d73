"""Random programs are answered in process as OPA answers them, each with several inputs."""

from __future__ import annotations

import http.client
import json
import os
import random
from collections import Counter
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from opa_process import MISSING, opa_binary, running_opa
from rego_differential import (
    answer_of_direct,
    answer_of_opa,
    compiled_by_opa,
    modules_of,
)
from rego_programs import Program, document, mutated

from opa_bridge.direct.policy import DirectPolicy, HandOver
from opa_bridge.direct.syntax import Outside

# `make interop` runs the long form: some thousand programs, at least 20,000 decisions.
IS_LONG = bool(os.environ.get("MESHWARDEN_LONG"))
SEEDS = range(1, 6) if IS_LONG else range(1)
PROGRAMS, INPUTS, DECISIONS = (1500, 10, 4000) if IS_LONG else (250, 6, 300)

pytestmark = [
    pytest.mark.opa,
    pytest.mark.skipif(opa_binary() is None, reason=MISSING),
]


@pytest.mark.parametrize("seed", SEEDS)
def test_random_programs(seed: int, tmp_path: Path) -> None:
    """Value, undefined or conflict: what is evaluated in process comes out as OPA has it."""
    programs = {number: Program(number, f"opa {seed}") for number in range(PROGRAMS)}
    counts = compare(programs, seed, tmp_path)
    assert counts["decisions"] >= DECISIONS
    # The fragment holds most of what is written here, and the answers differ.
    assert counts["outside"] < counts["programs"]
    assert counts["conflict"]
    assert counts["undefined"] < 0.7 * counts["decisions"]


@pytest.mark.parametrize("seed", SEEDS)
def test_mutated_programs(seed: int, tmp_path: Path) -> None:
    """What OPA still compiles after some edits is read here as OPA reads it, or not at all."""
    programs = {
        number: mutated(Program(number, f"mutated {seed}"), random.Random(f"{seed} {number}"))
        for number in range(2 * PROGRAMS)
    }
    counts = compare(programs, seed, tmp_path)
    assert counts["programs"] > PROGRAMS // 50


def compare(programs: dict[int, Program], seed: int, folder: Path) -> Counter[str]:
    """Hold programs against OPA, each with several inputs; return what came of it."""
    data = {"d": document(random.Random(f"data {seed}"))}
    (folder / "data.json").write_text(json.dumps(data), "utf-8")
    programs = compiled_by_opa(folder, programs)
    counts: Counter[str] = Counter()
    with (
        running_opa(str(folder)) as opa,
        closing(http.client.HTTPConnection(urlsplit(opa.tcp).netloc)) as connection,
    ):
        for number, program in programs.items():
            try:
                policy = DirectPolicy(modules_of(program), f"p{number}/r", data)
            except Outside:
                counts["outside"] += 1
                continue
            counts["programs"] += 1
            for turn in range(INPUTS):
                asked = document(random.Random(f"{seed} {number} {turn}"))
                try:
                    found = answer_of_direct(policy, asked)
                except HandOver:
                    counts["handed over"] += 1
                    continue
                wanted = answer_of_opa(connection, f"p{number}/r", asked)
                if wanted is not None:
                    counts[str(wanted)] += 1
                    counts["decisions"] += 1
                    told = json.dumps({"input": asked, "data": data})
                    sources = "\n".join(source for _, source in program.modules)
                    assert wanted == found, f"{sources}\n{told}"
    print(dict(counts.most_common(8)))
    return counts
