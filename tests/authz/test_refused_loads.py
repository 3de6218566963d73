"""A malformed file is refused with one clear error, and nothing of that load is in force."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from malformed_loads import GOOD, TEXTS, THINGS

from authz.build import load_state
from authz.decide import decide
from authz.reload import Loaded, StateKeeper, fingerprint
from authz.serving_state import ServingState
from policies import files
from policies.diagnostic import Diagnostic, LoadError, Severity
from policies.files import read_policy_files
from policies.mesh import Mesh
from policies.request import Request, Workload

DENY = GOOD.replace("good", "deny-admin").replace(
    "{rules: [{}]}", "{action: DENY, rules: [{to: [{operation: {paths: ['/admin']}}]}]}"
)
WORKLOAD = Workload(namespace="shop")
# BUDGET: of a child that refuses every malformed file; each of them takes well under a second.
CPU_SECONDS = 40
MEMORY_BYTES = 2 << 30


def answers(state: ServingState) -> dict[str, bool]:
    """Return what a state says of a few paths."""
    policies = state.policies_for(WORKLOAD)
    return {
        path: decide(policies, Request(method="GET", path=path, host="h"), {}).is_allowed
        for path in ("/", "/admin", "/new")
    }


class Served:
    """A folder with two good policies, and a keeper that serves it and is asked to look."""

    def __init__(self, folder: Path) -> None:
        (folder / "deny.yaml").write_text(DENY)
        (folder / "good.yaml").write_text(GOOD)
        self.told: list[tuple[Loaded | None, Sequence[Diagnostic]]] = []
        self.keeper = StateKeeper(
            lambda: load_state([folder], Mesh(), ()),
            [folder],
            interval_seconds=60,
            on_reload=lambda loaded, problems: self.told.append((loaded, problems)),
        )
        self.before = self.keeper.current()

    def look_twice(self) -> None:
        """Look as the watching thread does: an edit counts when two looks saw it alike."""
        self.keeper._look(self.keeper._look(self.keeper._tried))
        self.keeper._tell()

    def one_error(self) -> Diagnostic:
        """Check that the last good state serves as before, and return the one error told."""
        (told,) = self.told
        assert told[0] is None
        assert self.keeper.current() is self.before
        assert {"/": True, "/admin": False, "/new": True} == answers(self.keeper.current())
        errors = [found for found in told[1] if found.severity is Severity.ERROR]
        assert 1 == len(errors), [str(found) for found in errors]
        assert tuple(told[1]) == self.keeper.status().problems
        return errors[0]


@pytest.mark.parametrize("name", TEXTS)
def test_malformed_text(tmp_path: Path, name: str) -> None:
    """A malformed file is told with its place, and the last good policies serve on."""
    content, place, says = TEXTS[name]
    served = Served(tmp_path)
    # A name that is read last: what was read before it is not in force either.
    bad = tmp_path / "zz.yaml"
    (tmp_path / "new.yaml").write_text(
        DENY.replace("deny-admin", "deny-new").replace("/admin", "/new")
    )
    bad.write_bytes(content if isinstance(content, bytes) else content.encode())

    served.look_twice()

    error = served.one_error()
    assert f"{bad}:{place}".rstrip(":") == str(error.location), str(error)
    assert says in error.message
    assert "\n" not in str(error)
    assert 1000 > len(str(error))


@pytest.mark.parametrize("name", THINGS)
def test_no_file(tmp_path: Path, name: str) -> None:
    """What is no file, or too large to be one, is refused without being read."""
    make, says = THINGS[name]
    served = Served(tmp_path)
    (tmp_path / "good.yaml").write_text(GOOD + "# edited\n")
    make(tmp_path / "zz.yaml")

    served.look_twice()

    assert says in served.one_error().message


def test_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of 50 MB is refused by its size: neither read nor parsed."""
    path = tmp_path / "large.yaml"
    path.write_bytes(b"# x\n" * 12_500_000)
    parsed: list[str] = []
    monkeypatch.setattr(
        "policies.load.iter_documents", lambda text, file, line: parsed.append(file)
    )
    served: list[int] = []
    real = os.fdopen

    def fdopen(descriptor: int, mode: str) -> object:
        served.append(descriptor)
        return real(descriptor, mode)

    monkeypatch.setattr(files.os, "fdopen", fdopen)

    with pytest.raises(LoadError, match="larger than 16 MiB") as refusal:
        load_state([tmp_path], Mesh(), ())

    assert 1 == len(refusal.value.diagnostics)
    assert [] == parsed
    assert 1 == len(served)


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file without permission is refused (root may read any, so it is asked for)."""
    served = Served(tmp_path)
    (tmp_path / "zz.yaml").write_text(GOOD)
    real = os.open

    def refusing(path: Path, flags: int) -> int:
        if Path(path).name == "zz.yaml":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, flags)

    monkeypatch.setattr(files.os, "open", refusing)

    served.look_twice()

    assert "cannot be read: Permission denied" == served.one_error().message


def test_growing_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is larger than its size said is refused all the same."""
    path = tmp_path / "p.yaml"
    path.write_text(GOOD)
    monkeypatch.setattr(files, "MAX_BYTES", 50)
    real = os.fstat

    def fstat(descriptor: int) -> os.stat_result:
        info = list(real(descriptor))
        info[6] = 10
        return os.stat_result(info)

    monkeypatch.setattr(files.os, "fstat", fstat)

    with pytest.raises(LoadError, match="larger than 16 MiB"):
        read_policy_files([path])


@pytest.mark.parametrize(
    ("content", "count"),
    [
        (b"\xef\xbb\xbf" + GOOD.encode(), 1),
        (GOOD.replace("\n", "\r\n").encode(), 1),
        (b"apiVersion: traefik.io/v1alpha1\nkind: IPAllowList\nmetadata: {name: a}\n", 0),
        (b"apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 080}]}\n", 0),
        (b"apiVersion: v1\nkind: PodList\nitems: []\n---\n" + GOOD.encode(), 1),
        (b"# only a comment\n", 0),
    ],
    ids=["BOM", "CRLF", "a kind that ends in List", "a stranger", "a list of strangers", "comment"],
)
def test_not_malformed(tmp_path: Path, content: bytes, count: int) -> None:
    """What only looks odd loads: marks of editors, and resources that are no policies."""
    (tmp_path / "p.yaml").write_bytes(content)

    assert count == len(load_state([tmp_path], Mesh(), ()).snapshot.policies)


def test_folder_named_like_a_file(tmp_path: Path) -> None:
    """A folder is a folder, whatever its name; the policies in it count."""
    (tmp_path / "x.yaml").mkdir()
    (tmp_path / "x.yaml" / "p.yaml").write_text(GOOD)

    assert 1 == len(load_state([tmp_path], Mesh(), ()).snapshot.policies)


def test_watching_a_loop_ends(tmp_path: Path) -> None:
    """Links to folders above are looked at once each, not for ever."""
    THINGS["links to the folder above"][0](tmp_path / "loop.yaml")
    (tmp_path / "p.yaml").write_text(GOOD)

    assert 1 == len(fingerprint([tmp_path]))


CHILD = """
import json, sys
from pathlib import Path
from authz.build import load_state
from policies.diagnostic import LoadError
from policies.mesh import Mesh
counts = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        load_state([path], Mesh(), ())
    except LoadError as exc:
        counts[path.name] = sum(found.severity == "error" for found in exc.diagnostics)
print(json.dumps(counts))
"""


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def test_all_within_bounds(tmp_path: Path) -> None:
    """A process that may use little time and memory refuses them all, and is never ended."""
    made = {name: entry for name, entry in TEXTS.items() if name != "given twice"}
    for number, (content, _, _) in enumerate(made.values()):
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / f"{number}.yaml").write_bytes(data)
    for number, (make, _) in enumerate(THINGS.values(), len(made)):
        (tmp_path / f"{number}").mkdir()
        make(tmp_path / f"{number}" / "p.yaml")
    root = Path(files.__file__).parents[1]

    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path)],
        cwd=root, preexec_fn=_limit, capture_output=True, text=True, check=True,
    )  # fmt: skip

    counts = json.loads(done.stdout)
    assert {1} == set(counts.values()), counts
    assert len(made) + len(THINGS) == len(counts)
