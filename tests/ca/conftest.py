"""What the CA's tests share: authorities, boards, and a CA that really serves."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from ca.authority import AuthorityKeeper, AuthorityPlan
from ca.clock import utc_now
from ca.issue import SvidRequest, issue_x509_svid
from ca.keys import FileKeyStore
from ca.server import serve
from ca.settings import CaSettings
from ca.state import StateFolder
from identity.spiffe_id import SpiffeId, TrustDomain

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


class SettableClock:
    """A clock that stands still until it is told otherwise."""

    def __init__(self) -> None:
        """Start at a fixed moment."""
        self.now = START

    def __call__(self) -> datetime:
        """Return the moment."""
        return self.now


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Print a line of figures past pytest's capture, in the long runs only: `make interop`."""

    def _say(line: str) -> None:
        if os.environ.get("MESHWARDEN_LONG"):
            with capsys.disabled():
                print(f"\n{line}", end=" ")

    return _say


@pytest.fixture
def clock() -> SettableClock:
    """A clock that the test moves."""
    return SettableClock()


@pytest.fixture
def keeper_of(clock: SettableClock) -> Callable[..., AbstractAsyncContextManager[AuthorityKeeper]]:
    """Open the keeper of a state folder: `with keeper_of(folder) as keeper`."""
    return lambda folder, trust_domain="example.org": open_keeper(folder, clock, trust_domain)


class open_keeper:
    """A keeper with its lock, as a context manager."""

    def __init__(self, folder: Path, clock: SettableClock, trust_domain: str) -> None:
        """Remember what to open."""
        self._folder, self._clock, self._trust_domain = folder, clock, trust_domain

    def __enter__(self) -> AuthorityKeeper:
        """Take the lock and load or make the authority."""
        self._state = StateFolder(self._folder)
        plan = AuthorityPlan(
            trust_domain=TrustDomain(self._trust_domain),
            root_lifetime=timedelta(days=300),
            intermediate_lifetime=timedelta(days=90),
        )
        try:
            keys = FileKeyStore(self._state.keys_folder)
            return AuthorityKeeper(self._state, keys, plan, self._clock)
        except BaseException:
            self._state.close()
            raise

    def __exit__(self, *_: object) -> None:
        """Give the lock back."""
        self._state.close()


@pytest.fixture
def authority(keeper_of, tmp_path):
    """A fresh authority of `example.org`."""
    with keeper_of(tmp_path / "state") as keeper:
        yield keeper.current()


@pytest.fixture
def issue(authority, clock):
    """Issue an SVID of the fresh authority: `issue("spiffe://example.org/a")`."""

    def _issue(spiffe_id="spiffe://example.org/ns/shop/sa/cart", **changes):
        changes.setdefault("lifetime", timedelta(hours=1))
        request = SvidRequest(spiffe_id=SpiffeId.parse(spiffe_id), **changes)
        return issue_x509_svid(request, authority, now=clock())

    return _issue


@pytest.fixture
def serving(tmp_path):
    """Serve a CA in the test's loop: `async with serving({...}) as ca`, with `ca.folder`."""

    @asynccontextmanager
    async def _serving(
        folder: Path = tmp_path, clock=utc_now, **changes
    ) -> AsyncIterator[SimpleNamespace]:
        settings = CaSettings.model_validate(
            {
                "stateFolder": "state",
                "trustDomain": "cluster.local",
                "workloads": [
                    {"spiffeId": "spiffe://cluster.local/ns/shop/sa/cart", "socket": "cart.sock"},
                    {"spiffeId": "spiffe://cluster.local/ns/shop/sa/pay", "socket": "pay.sock"},
                ],
            }
            | changes
        ).resolved(folder)
        ready, stop = asyncio.Event(), asyncio.Event()
        server = asyncio.create_task(serve(settings, ready=ready.set, stop=stop, clock=clock))
        waiting = asyncio.create_task(ready.wait())
        await asyncio.wait([server, waiting], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if server.done():
            server.result()
        try:
            yield SimpleNamespace(settings=settings, folder=folder, server=server, stop=stop)
        finally:
            stop.set()
            await server

    return _serving
