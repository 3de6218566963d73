"""Authorities in their slots: which step is allowed when, and that no moment lacks a root."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from issuing import CART, CART_CALLER, open_ca, request_of
from killing_steps import told_by

from ca.errors import AuthorityExpiredError, CaError, RotationRefusedError, StoreError
from ca.issue import SvidRequest, issue_x509_svid
from ca.last_leaf import LastLeaf
from ca.rotation import Rotation
from ca.state import Phase
from ca.store import Store
from ca.streams import OpenStreams
from ca.validate import verify_x509_svid
from identity.spiffe_id import SpiffeId

WAIT = timedelta(minutes=5)
LEAF = timedelta(days=7)
SECOND = timedelta(seconds=1)
ID = SpiffeId.parse("spiffe://example.org/a")


@pytest.fixture
def streams():
    """The open streams of a CA."""
    return OpenStreams()


@pytest.fixture
def rotation_of(clock, streams):
    """Guard a keeper."""
    return lambda keeper: Rotation(keeper, streams, clock, WAIT)


def _phases(keeper):
    return {slot.number: slot.phase.value for slot in keeper.slots}


def test_one_root_after_another(keeper_of, rotation_of, clock, tmp_path):
    """Twice through the slots: the signer's root is in the bundle, and the bundle counts on."""
    with keeper_of(tmp_path / "s") as keeper:
        rotation = rotation_of(keeper)
        for number in (2, 3):
            before, sequence = keeper.current(), keeper.sequence
            assert rotation.prepare().number == number
            assert keeper.sequence == sequence + 1
            assert keeper.current().intermediate == before.intermediate
            clock.now += WAIT
            bundle = keeper.bundle_pem()
            rotation.activate()
            # No peer has to catch up: the bundle is the same to the byte.
            assert (keeper.bundle_pem(), keeper.sequence) == (bundle, sequence + 1)
            assert keeper.current().number == number
            assert _phases(keeper) == {number - 1: "retired", number: "active"}
            clock.now += LEAF + SECOND
            rotation.retire()
            assert keeper.sequence == sequence + 2
            assert keeper.roots == (keeper.current().root,)
            assert keeper.current().root in keeper.roots
            assert (tmp_path / "s/bundle.pem").read_text() == keeper.bundle_pem()
        names = sorted(path.name.split("-")[0] for path in (tmp_path / "s/keys").iterdir())
        assert names == ["intermediate", "root"]
    with keeper_of(tmp_path / "s") as keeper:
        assert (_phases(keeper), keeper.sequence) == ({3: "active"}, 5)


def test_steps_out_of_turn(keeper_of, rotation_of, clock, tmp_path):
    """Each slot holds one authority, and an empty one cannot be moved."""
    with keeper_of(tmp_path / "s") as keeper:
        rotation = rotation_of(keeper)
        for step, words in (
            (rotation.activate, "no authority is prepared"),
            (rotation.retire, "no authority is retired"),
        ):
            with pytest.raises(RotationRefusedError, match=words):
                step()
        rotation.prepare()
        with pytest.raises(RotationRefusedError, match="prepared already"):
            rotation.prepare()
        rotation.activate(force=True)
        rotation.prepare()
        clock.now += WAIT
        with pytest.raises(RotationRefusedError, match="the retired slot is taken"):
            rotation.activate()


def test_wait_without_streams(keeper_of, rotation_of, clock, tmp_path):
    """Nobody listens: the stated wait has to pass, or the operator has to insist."""
    with keeper_of(tmp_path / "s") as keeper:
        rotation = rotation_of(keeper)
        rotation.prepare()
        clock.now += WAIT - timedelta(seconds=1)
        with pytest.raises(RotationRefusedError, match="1 s of the wait are left") as caught:
            rotation.activate()
        assert "--force" in caught.value.help
        clock.now += timedelta(seconds=1)
        rotation.activate()
        with pytest.raises(RotationRefusedError, match="last leaf may live for 604801 s"):
            rotation.retire()
        assert rotation.retire(force=True).number == 1


def test_acknowledgements_open_the_way(keeper_of, rotation_of, streams, tmp_path):
    """All streams with roots must have acknowledged the bundle that has the new one."""
    with keeper_of(tmp_path / "s") as keeper:
        rotation = rotation_of(keeper)
        with streams.opened("sds", "spiffe://example.org/a") as one:
            with (
                streams.opened("sds", "spiffe://example.org/b") as other,
                streams.opened("sds", "spiffe://example.org/c"),
            ):
                one.carries_roots = other.carries_roots = True
                one.acknowledged = other.acknowledged = keeper.sequence
                rotation.prepare()
                one.acknowledged = keeper.sequence
                with pytest.raises(RotationRefusedError, match=r"not .* by `spiffe://.*/b`"):
                    rotation.activate()
            # The laggard went away; who listens without roots was never asked.
            rotation.activate()


def test_those_who_have_no_stream_are_waited_for(keeper_of, rotation_of, streams, clock, tmp_path):
    """Other trust domains get time to fetch a root, callers of the signing endpoints to return."""
    with keeper_of(tmp_path / "s") as keeper, open_ca(tmp_path, keeper.current(), clock) as ca:
        ca.add()
        ca.issuance.sign(request_of(CART), CART_CALLER)
        clock.now += timedelta(minutes=30)
        rotation = rotation_of(keeper)
        rotation.publication = timedelta(minutes=15)
        rotation.last_leaf = LastLeaf(ca.store, timedelta(hours=24))
        with streams.opened("sds", "spiffe://example.org/a") as one:
            one.carries_roots, one.acknowledged = True, keeper.sequence + 1
            rotation.prepare()
            assert rotation.activation_waits_for() == (
                "other trust domains may fetch it for 900 s more",
                "signed certificates without it may live for 1801 s",
            )
            clock.now += timedelta(minutes=15)
            # Who comes now gets the new root with its certificate.
            ca.issuance.sign(request_of(CART), CART_CALLER)
            [signed] = rotation.activation_waits_for()
            assert signed == "signed certificates without it may live for 901 s"
            with pytest.raises(RotationRefusedError, match="901 s"):
                rotation.activate()
            clock.now += timedelta(seconds=901)
            rotation.activate()


def test_a_ledger_that_cannot_be_asked(keeper_of, rotation_of, streams, clock, tmp_path):
    """Without its ledger the CA does not know who has not heard of a root, and waits."""
    with keeper_of(tmp_path / "s") as keeper:
        rotation = rotation_of(keeper)
        store = Store(f"sqlite:///{tmp_path / 'ledger.db'}", clock=clock)
        rotation.last_leaf = LastLeaf(store, timedelta(hours=24))
        store.close()
        (tmp_path / "ledger.db").unlink()
        (tmp_path / "ledger.db").mkdir()
        rotation.prepare()
        clock.now += WAIT
        assert "cannot be asked who has not heard" in rotation.activation_waits_for()[0]


def test_a_jump_of_the_clock_is_no_wait(keeper_of, rotation_of, clock, tmp_path):
    """A clock set forward does not open the way: the wait begins anew."""
    with keeper_of(tmp_path / "s") as keeper:
        rotation = rotation_of(keeper)
        rotation.prepare()
        clock.now += timedelta(hours=1)
        rotation.note_clock_jump()
        with pytest.raises(RotationRefusedError, match="300 s of the wait are left"):
            rotation.activate()


def test_leaves_of_both_authorities_hold(keeper_of, rotation_of, clock, tmp_path):
    """A leaf of before and one of after the change verify under every bundle in between."""
    with keeper_of(tmp_path / "s") as keeper:
        rotation = rotation_of(keeper)
        request = SvidRequest(spiffe_id=ID, lifetime=LEAF)
        old = issue_x509_svid(request, keeper.current(), now=clock())
        rotation.prepare()
        prepared = keeper.roots
        rotation.activate(force=True)
        new = issue_x509_svid(request, keeper.current(), now=clock())
        for roots in (prepared, keeper.roots):
            verify_x509_svid(old, roots, now=clock())
            verify_x509_svid(new, roots, now=clock())
        clock.now += LEAF
        verify_x509_svid(old, keeper.roots, now=clock())
        assert rotation.retirement_waits_for() == ("its last leaf may live for 1 s",)
        clock.now += SECOND
        assert rotation.retirement_waits_for() == ()


def test_retired_no_longer_than_its_signer(keeper_of, rotation_of, clock, tmp_path):
    """A retired root is needed no longer than its intermediate lives."""
    with keeper_of(tmp_path / "s") as keeper:
        rotation = rotation_of(keeper)
        rotation.prepare()
        next((tmp_path / "s/keys").glob("root-*")).unlink()
        first = keeper.in_phase(Phase.ACTIVE)
        clock.now = first.intermediate.not_valid_after_utc - timedelta(hours=1)
        rotation.activate()
        retired = keeper.in_phase(Phase.RETIRED)
        assert retired.entry.trusted_until == first.intermediate.not_valid_after_utc


def test_age_moves_authorities(keeper_of, rotation_of, clock, tmp_path):
    """Nobody has to think of it: by age the root is prepared, activated and retired."""
    with keeper_of(tmp_path / "s") as keeper:
        rotation = rotation_of(keeper)
        seen = []
        for _ in range(301):
            keeper.current()
            rotation.advance()
            if not seen or seen[-1] != _phases(keeper):
                seen.append(_phases(keeper))
            clock.now += timedelta(days=1)
    assert seen == [
        {1: "active"},
        {1: "active", 2: "prepared"},
        {1: "retired", 2: "active"},
        {2: "active"},
    ]


def test_expired_signer_is_saved_by_a_prepared_one(keeper_of, rotation_of, clock, tmp_path):
    """With the root's key away and the intermediate expired, activating a new one is enough."""
    with keeper_of(tmp_path / "s") as keeper:
        rotation = rotation_of(keeper)
        next((tmp_path / "s/keys").glob("root-*")).unlink()
        clock.now += timedelta(days=91)
        with pytest.raises(AuthorityExpiredError, match="the intermediate expired"):
            keeper.current()
        assert "root's key is not here" in keeper.renewal_error
        rotation.prepare()
        rotation.activate(force=True)
        assert keeper.current().number == 2
        assert not keeper.renewal_error
    with keeper_of(tmp_path / "s") as keeper:
        assert keeper.current().number == 2


def test_failed_write_changes_nothing(keeper_of, rotation_of, tmp_path, monkeypatch):
    """A full disk refuses the step; what was in force stays, here and on disk."""

    def refuse(*_):
        raise OSError(28, "No space left on device")

    with keeper_of(tmp_path / "s") as keeper:
        rotation, before = rotation_of(keeper), (tmp_path / "s/authority.json").read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr("ca.files.os.fsync", refuse)
            with pytest.raises(CaError, match="No space left"):
                rotation.prepare()
        assert (_phases(keeper), keeper.sequence) == ({1: "active"}, 1)
        assert (tmp_path / "s/authority.json").read_bytes() == before
        rotation.prepare()


def test_a_step_that_could_not_be_recorded_is_not_forgotten(keeper_of, rotation_of, tmp_path):
    """Steps taken while the audit chain was away are recorded when it is back, in their order."""
    recorded, is_away = [], True

    def record(details):
        if is_away:
            raise StoreError("the audit log cannot be written")
        recorded.append(details["step"])

    with keeper_of(tmp_path / "s") as keeper:
        rotation = rotation_of(keeper)
        rotation.record = record
        rotation.prepare()
        rotation.activate(force=True)
        rotation.record_pending()
        assert recorded == []
        is_away = False
        rotation.retire(force=True)
        assert recorded == ["prepare", "activate", "retire"]


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    steps=st.lists(
        st.sampled_from(["prepare", "activate", "retire", "issue", "a day", "a day", "restart"]),
        min_size=20,
        max_size=50,
    )
)
def test_no_leaf_ever_lacks_its_root(keeper_of, streams, clock, tmp_path_factory, steps):
    """Whatever is tried in whatever order, every leaf in force has a root in every bundle."""
    folder, leaves = tmp_path_factory.mktemp("slots"), []
    with ExitStack() as stack:
        keeper = stack.enter_context(keeper_of(folder / "s"))
        rotation = Rotation(keeper, streams, clock, WAIT)
        for step in steps:
            if step == "a day":
                clock.now += timedelta(days=1)
                rotation.advance()
            elif step == "issue":
                request = SvidRequest(spiffe_id=ID, lifetime=LEAF)
                leaves.append(issue_x509_svid(request, keeper.current(), now=clock()))
            elif step == "restart":
                stack.close()
                keeper = stack.enter_context(keeper_of(folder / "s"))
                rotation = Rotation(keeper, streams, clock, WAIT)
            else:
                with suppress(RotationRefusedError):
                    getattr(rotation, step)()
            leaves = [leaf for leaf in leaves if leaf.is_valid_at(clock())]
            for leaf in leaves:
                verify_x509_svid(leaf, keeper.roots, now=clock())
            assert keeper.current().root in keeper.roots


_KILLED_AT_EVERY_STEP = """
def opened(folder, do):
    with StateFolder(folder) as state:
        return do(AuthorityKeeper(state, FileKeyStore(state.keys_folder), plan, lambda: now))

def look(keeper):
    authority = keeper.current()
    assert authority.root in keeper.roots
    return {slot.number: slot.phase.value for slot in keeper.slots}

def killed(folder, step, name):
    child = os.fork()
    if child == 0:
        def do(keeper):
            steps["left"] = step
            sys.addaudithook(hook)
            getattr(keeper, name)()
        opened(folder, do)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])

total = 0
names = ["prepare", "activate", "retire"]
for at, name in enumerate(names):
    original = base / name
    for done in names[:at]:
        opened(original, lambda keeper: getattr(keeper, done)())
    was = opened(original, look)
    for step in range(100):
        folder = base / f"{name}-{step}"
        shutil.copytree(original, folder)
        was_killed = killed(folder, step, name)
        now_is = opened(folder, look)
        assert not list(folder.rglob(".tmp-*"))
        # No key lies there that no authority names, however the step ended.
        assert len(list((folder / "keys").iterdir())) == 2 * len(now_is)
        if was_killed and now_is == was:
            opened(folder, lambda keeper: getattr(keeper, name)())
            now_is = opened(folder, look)
        assert now_is != was
        total += 1
        if not was_killed:
            break
print(total)
"""


def test_kill_at_every_step(tmp_path):
    """Killed at any file operation of a step, the CA has the slots and keys of before or after."""
    assert int(told_by(_KILLED_AT_EVERY_STEP, tmp_path)) > 20
