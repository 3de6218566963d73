"""A CA's state as its settings describe it: the plan of its authorities, the store of its keys."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial

from ca.authority import AuthorityKeeper, AuthorityPlan
from ca.clock import Clock
from ca.errors import StateError
from ca.key_kinds import KeyKind, generate_key
from ca.keys import FileKeyStore, load_passphrase
from ca.plugged import load_plugged
from ca.rotation import Rotation
from ca.settings import CaSettings
from ca.state import StateFolder
from ca.streams import OpenStreams


def plan_of(settings: CaSettings, clock: Clock) -> AuthorityPlan:
    """Return what the settings say of authorities."""
    folder = settings.plugged_ca
    return AuthorityPlan(
        trust_domain=settings.domain,
        root_lifetime=timedelta(days=settings.root_lifetime_days),
        intermediate_lifetime=timedelta(days=settings.intermediate_lifetime_days),
        leaf_lifetime=timedelta(
            seconds=max(settings.svid_lifetime_seconds, settings.records.max_svid_lifetime_seconds)
        ),
        plugged=None if folder is None else lambda: load_plugged(folder, settings.domain, clock()),
        new_key=partial(generate_key, KeyKind(settings.authority_key)),
    )


def key_store_of(settings: CaSettings, state: StateFolder) -> FileKeyStore:
    """Return the key store in a state folder, with its passphrase where one is configured.

    Raises:
        KeyFileError: the passphrase cannot be read.
    """
    path = settings.key_passphrase_file
    return FileKeyStore(state.keys_folder, None if path is None else load_passphrase(path))


@contextmanager
def open_state(settings: CaSettings, clock: Clock) -> Iterator[tuple[AuthorityKeeper, Rotation]]:
    """Yield the authorities of a state that no process serves, locked for the block.

    Raises:
        StateError: there is no authority yet, another process holds the state, or it is damaged.
    """
    missing = StateError(
        f"there is no authority in `{settings.state_folder}`",
        help="run `meshwarden ca init`, or start the CA",
    )
    if not settings.state_folder.is_dir():
        raise missing
    with StateFolder(settings.state_folder) as state:
        if state.load_manifest() is None:
            raise missing
        plan, keys = plan_of(settings, clock), key_store_of(settings, state)
        keeper = AuthorityKeeper(state, keys, plan, clock, must_sign=False)
        wait = timedelta(seconds=settings.rotation_wait_seconds)
        yield keeper, Rotation(keeper, OpenStreams(clock), clock, wait)


def make_state(settings: CaSettings, clock: Clock) -> AuthorityKeeper:
    """Make the first authority of a state folder that has none.

    Raises:
        StateError: there is one already, or it cannot be written.
    """
    with StateFolder(settings.state_folder) as state:
        if state.load_manifest() is not None:
            raise StateError(f"there is an authority in `{settings.state_folder}` already")
        return AuthorityKeeper(
            state, key_store_of(settings, state), plan_of(settings, clock), clock
        )
