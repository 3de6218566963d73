"""The authority: made once, loaded and checked ever after, renewed in time, whole after a kill."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from killing_steps import told_by
from structlog.testing import capture_logs

from ca.errors import AuthorityExpiredError, CaError, KeyFileError, StateError


def _manifest(folder):
    return json.loads((folder / "authority.json").read_text())


def test_restart_keeps_everything(keeper_of, tmp_path):
    """A second start serves the root and the intermediate of the first."""
    with keeper_of(tmp_path / "s") as keeper:
        first = keeper.current()
    with keeper_of(tmp_path / "s") as keeper:
        second = keeper.current()
    assert (second.root, second.intermediate) == (first.root, first.intermediate)
    assert second.key.private_numbers() == first.key.private_numbers()


def test_intermediate_is_renewed_in_time(keeper_of, tmp_path, clock):
    """With a third of its life left the intermediate is replaced under the same root."""
    with keeper_of(tmp_path / "s") as keeper:
        first = keeper.current()
        clock.now += timedelta(days=59)
        assert keeper.current().intermediate == first.intermediate
        clock.now += timedelta(days=2)
        second = keeper.current()
    assert second.intermediate != first.intermediate
    assert second.root == first.root
    keys = sorted(path.name for path in (tmp_path / "s/keys").iterdir())
    assert [name.split("-")[0] for name in keys] == ["intermediate", "root"]
    with keeper_of(tmp_path / "s") as keeper:
        assert keeper.current().intermediate == second.intermediate


def test_failed_renewal_serves_on_until_the_end(keeper_of, tmp_path, clock):
    """Without the root's key the old intermediate signs until it expires, and not a second more."""
    with keeper_of(tmp_path / "s") as keeper:
        first = keeper.current()
        next((tmp_path / "s/keys").glob("root-*")).unlink()
        clock.now = first.intermediate.not_valid_after_utc
        assert keeper.current().intermediate == first.intermediate
        clock.now += timedelta(seconds=1)
        with pytest.raises(AuthorityExpiredError, match="the intermediate expired"):
            keeper.current()


def test_a_failing_renewal_is_told_once(keeper_of, tmp_path, clock):
    """With the root's key offline each certificate asks; one line says so, and it heals alone."""
    with keeper_of(tmp_path / "s") as keeper, capture_logs() as logs:
        first = keeper.current()
        [key] = (tmp_path / "s/keys").glob("root-*")
        key.rename(tmp_path / "offline.pem")
        clock.now += timedelta(days=61)
        for _ in range(100):
            clock.now += timedelta(milliseconds=500)
            assert keeper.current().intermediate == first.intermediate
        assert [each["event"] for each in logs] == ["intermediate_renewal_failed"]
        assert keeper.renewal_error
        (tmp_path / "offline.pem").rename(key)
        clock.now += timedelta(seconds=5)
        assert keeper.current().intermediate != first.intermediate
        assert not keeper.renewal_error


def test_a_failing_renewal_is_tried_soon_after_the_clock_was_set_back(keeper_of, tmp_path, clock):
    """The pause between tries is no reason to wait until the clock is where it was."""
    with keeper_of(tmp_path / "s") as keeper:
        first = keeper.current()
        [key] = (tmp_path / "s/keys").glob("root-*")
        key.rename(tmp_path / "offline.pem")
        clock.now += timedelta(days=80)
        keeper.current()
        (tmp_path / "offline.pem").rename(key)
        clock.now -= timedelta(days=10)
        assert keeper.current().intermediate != first.intermediate


@pytest.mark.parametrize(
    ("days", "words"), [(301, "the root expired"), (-1, "the root is not valid before")]
)
def test_root_outside_its_validity(keeper_of, tmp_path, clock, days, words):
    """Neither an expired root nor one from the future is served."""
    with keeper_of(tmp_path / "s"):
        pass
    clock.now += timedelta(days=days)
    with pytest.raises(AuthorityExpiredError, match=words), keeper_of(tmp_path / "s"):
        pass


def test_two_processes(keeper_of, tmp_path):
    """A state folder is held by one process at a time."""
    with (
        keeper_of(tmp_path / "s"),
        pytest.raises(StateError, match="held by another process"),
        keeper_of(tmp_path / "s"),
    ):
        pass


def test_other_trust_domain(keeper_of, tmp_path):
    """A state folder is not taken over by another trust domain."""
    with keeper_of(tmp_path / "s"):
        pass
    with (
        pytest.raises(StateError, match=r"is of `example.org`, expected `other.org`"),
        keeper_of(tmp_path / "s", "other.org"),
    ):
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 2}', '{"version": 1, "more": 1}'])
def test_damaged_manifest_is_never_replaced(keeper_of, tmp_path, content):
    """A manifest that cannot be read stops the CA; it does not make a new root."""
    with keeper_of(tmp_path / "s"):
        pass
    (tmp_path / "s/authority.json").write_text(content)
    with pytest.raises(StateError, match="cannot be read at"), keeper_of(tmp_path / "s"):
        pass
    assert (tmp_path / "s/authority.json").read_text() == content


def test_foreign_parts_are_refused(keeper_of, tmp_path):
    """An intermediate of another root, a wrong key and a missing key are each found out."""
    for name in ("a", "b"):
        with keeper_of(tmp_path / name):
            pass
    mine, other = _manifest(tmp_path / "a"), _manifest(tmp_path / "b")
    path = tmp_path / "a/authority.json"

    def write(**changes):
        slot = mine["slots"][0] | changes
        path.write_text(json.dumps(mine | {"slots": [slot]}))

    own, others = mine["slots"][0], other["slots"][0]
    entry = own["intermediate"]
    for changes, error, words in (
        ({"intermediate": others["intermediate"]}, StateError, "not signed by its root"),
        ({"root": entry}, StateError, "not signed by its root"),
        (
            {"intermediate": entry | {"key": own["root"]["key"]}},
            StateError,
            "is not the intermediate's key",
        ),
        ({"intermediate": entry | {"key": "absent"}}, StateError, "is missing"),
        ({"intermediate": entry | {"key": "../x"}}, KeyFileError, "is not a key name"),
        ({"phase": "retired"}, StateError, "cannot be read at"),
    ):
        write(**changes)
        with pytest.raises(error, match=words), keeper_of(tmp_path / "a"):
            pass


def test_state_from_before_slots(keeper_of, tmp_path):
    """A manifest of the first version is the same authority, in the active slot."""
    with keeper_of(tmp_path / "s") as keeper:
        first = keeper.current()
    slot = _manifest(tmp_path / "s")["slots"][0]
    old = {
        "version": 1,
        "trust_domain": "example.org",
        "root": slot["root"],
        "intermediate": slot["intermediate"],
    }
    (tmp_path / "s/authority.json").write_text(json.dumps(old, indent=2))
    with keeper_of(tmp_path / "s") as keeper:
        assert keeper.current().intermediate == first.intermediate
        assert keeper.prepare().number == 2
    assert _manifest(tmp_path / "s")["version"] == 2


def test_full_disk_at_first_start(keeper_of, tmp_path, monkeypatch):
    """A write that fails is a StateError, leaves no temporary file, and the next start works."""

    def refuse(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("ca.files.os.fsync", refuse)
        with pytest.raises(CaError, match="No space left"), keeper_of(tmp_path / "s"):
            pass
    assert list((tmp_path / "s").rglob(".tmp-*")) == []
    with keeper_of(tmp_path / "s") as keeper:
        assert keeper.current()


_KILLED_AT_EVERY_STEP = """
def start(folder, at):
    with StateFolder(folder) as state:
        keeper = AuthorityKeeper(state, FileKeyStore(state.keys_folder), plan, lambda: at)
        return keeper.current()

def killed(folder, at, step):
    child = os.fork()
    if child == 0:
        steps["left"] = step
        sys.addaudithook(hook)
        start(folder, at)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])

def sweep(at, prepared):
    for step in range(200):
        folder = base / f"{prepared}-{step}"
        before = start(folder, now) if prepared else None
        if not killed(folder, at, step):
            return step
        manifest = folder / "authority.json"
        written = manifest.read_bytes() if manifest.exists() else None
        after = start(folder, at)
        assert start(folder, at).root == after.root
        assert not list(folder.rglob(".tmp-*"))
        if before:
            assert after.root == before.root
        if written and not prepared:
            assert manifest.read_bytes() == written

print(sweep(now, False), sweep(now + timedelta(days=61), True))
"""


def test_kill_at_every_step(tmp_path):
    """Killed at any file operation of the first start or a renewal, the CA comes back whole."""
    first, renewal = map(int, told_by(_KILLED_AT_EVERY_STEP, tmp_path).split())
    assert first > 10
    assert renewal > 10


def test_names_of_authorities_differ(keeper_of, tmp_path):
    """No two authorities share a subject, so a chain can be built one way only."""
    with keeper_of(tmp_path / "a") as one, keeper_of(tmp_path / "b") as two:
        authorities = [one.current(), two.current()]
    subjects = {c.subject for a in authorities for c in (a.root, a.intermediate)}
    assert len(subjects) == 4
