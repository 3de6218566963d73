"""A CA's state as its settings describe it: the plan of its authorities, the store of its keys."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

from ca.authority import AuthorityPlan
from ca.clock import Clock
from ca.key_kinds import KeyKind, generate_key
from ca.keys import FileKeyStore, load_passphrase
from ca.plugged import load_plugged
from ca.settings import CaSettings
from ca.state import StateFolder


def plan_of(settings: CaSettings, clock: Clock) -> AuthorityPlan:
    """Return what the settings say of authorities."""
    folder = settings.plugged_ca
    return AuthorityPlan(
        trust_domain=settings.domain,
        root_lifetime=timedelta(days=settings.root_lifetime_days),
        intermediate_lifetime=timedelta(days=settings.intermediate_lifetime_days),
        leaf_lifetime=timedelta(seconds=settings.svid_lifetime_seconds),
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
