"""A CA's state as its settings describe it: the plan of its authorities, the store of its keys."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

from ca.authority import AuthorityKeeper, AuthorityPlan
from ca.clock import Clock
from ca.errors import StateError
from ca.key_kinds import KeyKind, generate_key
from ca.keys import FileKeyStore, KeyStore, load_passphrase
from ca.making import PluggedAuthority
from ca.plugged import load_plugged
from ca.rotation import Rotation
from ca.settings import CaSettings
from ca.shared_state import Replicas, SharedKeyStore, SharedManifest
from ca.state import ManifestStore, StateFolder
from ca.store import Store
from ca.streams import OpenStreams

_REFRESHES_BEFORE_USE = 3


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
        plugged=None if folder is None else lambda: load_plugged_of(settings, folder, clock),
        new_key=partial(generate_key, KeyKind(settings.authority_key)),
    )


def publication_of(settings: CaSettings) -> timedelta:
    """Return how long a new root is published before other trust domains can be taken to have it.

    SPIFFE Federation: new keys are published three to five times the refresh hint before their use.
    """
    endpoint = settings.bundle_endpoint
    if endpoint is None:
        return timedelta(0)
    return _REFRESHES_BEFORE_USE * timedelta(seconds=endpoint.refresh_hint_seconds)


def load_plugged_of(settings: CaSettings, folder: Path, clock: Clock) -> PluggedAuthority:
    """Return the existing CA in `folder`; its key may be encrypted with the configured passphrase.

    Raises:
        PluggedCaError, KeyFileError: it cannot be read, or may not sign here.
    """
    path = settings.key_passphrase_file
    passphrase = None if path is None else load_passphrase(path)
    return load_plugged(folder, settings.domain, clock(), passphrase)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityStores:
    """Where the authorities of a CA live; `replicas` is there where others share them."""

    manifest: ManifestStore
    keys: KeyStore
    replicas: Replicas | None = None


@contextmanager
def authority_stores(
    settings: CaSettings, state: StateFolder, clock: Clock
) -> Iterator[AuthorityStores]:
    """Yield where the authorities live, open for the block: this folder, or a shared database.

    Raises:
        KeyFileError: the passphrase cannot be read.
        StoreError: the database cannot be opened.
    """
    path, records = settings.key_passphrase_file, settings.records
    passphrase = None if path is None else load_passphrase(path)
    if not settings.shared_authorities or passphrase is None:
        keys = FileKeyStore(state.keys_folder, passphrase)
        yield AuthorityStores(manifest=state, keys=keys)
        return
    store = Store(records.ledger_url_in(settings.state_folder), clock=clock)
    try:
        yield AuthorityStores(
            manifest=SharedManifest(store, settings.state_folder / "bundle.pem"),
            keys=SharedKeyStore(store, passphrase),
            replicas=Replicas(store, records.node_name, clock),
        )
    finally:
        store.close()


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
    with (
        StateFolder(settings.state_folder) as state,
        authority_stores(settings, state, clock) as stores,
    ):
        if stores.manifest.load_manifest() is None:
            raise missing
        plan = plan_of(settings, clock)
        keeper = AuthorityKeeper(stores.manifest, stores.keys, plan, clock, must_sign=False)
        wait = timedelta(seconds=settings.rotation_wait_seconds)
        rotation = Rotation(keeper, OpenStreams(), clock, wait)
        rotation.replicas, rotation.publication = stores.replicas, publication_of(settings)
        yield keeper, rotation


def make_state(settings: CaSettings, clock: Clock) -> AuthorityKeeper:
    """Make the first authority of a state folder that has none.

    Raises:
        StateError: there is one already, or it cannot be written.
    """
    with (
        StateFolder(settings.state_folder) as state,
        authority_stores(settings, state, clock) as stores,
    ):
        if stores.manifest.load_manifest() is not None:
            raise StateError(
                f"there is an authority in `{settings.state_folder}` already",
                help="`meshwarden ca rotate prepare` makes the next one",
            )
        return AuthorityKeeper(stores.manifest, stores.keys, plan_of(settings, clock), clock)
