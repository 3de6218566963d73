"""Edits of policies under load, each looked after until it counts."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import grpc
import httpx
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse

from bench.check_contest.load import METHOD
from bench.check_contest.servers import Server
from bench.soak_run.shop import canary_check, touch_policies, write_canary

EDIT_SECONDS: Final = 20.0
_PATIENCE_SECONDS: Final = 15.0
_BROKEN_EVERY: Final = 5


class Editor:
    """Edits policies; `faults` says which edits did not count in time, or counted and must not."""

    def __init__(self, folder: Path, server: Server) -> None:
        """Edit what stands in the folder and is served by the server."""
        self.edits = self.refused = 0
        self.faults: list[str] = []
        self._folder = folder
        self._server = server
        self._canary = 0
        channel = grpc.insecure_channel(f"127.0.0.1:{server.port}")
        self._ask = channel.unary_unary(f"/{METHOD}")

    def begin_anew(self) -> None:
        """Forget the edits so far: those made while more was asked than could be answered."""
        self.edits = self.refused = 0
        self.faults = []

    def edit(self) -> None:
        """Move the canary on, and touch a file; now and then write what is no policy first."""
        self.edits += 1
        touch_policies(self._folder, self.edits)
        if self.edits % _BROKEN_EVERY == 0:
            write_canary(self._folder, self._canary, is_broken=True)
            self._expect("a broken edit is refused", self._is_refused)
            self._expect("what served still serves", lambda: self._is_let_in(self._canary))
            self.refused += 1
        before, self._canary = self._canary, self._canary + 1
        write_canary(self._folder, self._canary)
        self._expect("an edit counts", lambda: self._is_let_in(self._canary))
        self._expect("and what was before does not", lambda: not self._is_let_in(before))

    def _expect(self, what: str, holds: Callable[[], bool]) -> None:
        pause, until = threading.Event(), time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                if holds():
                    return
            except (grpc.RpcError, httpx.HTTPError) as exc:
                what += f" ({exc})"
            if time.monotonic() > until:
                self.faults.append(f"edit {self.edits}: not {what}")
                return
            pause.wait(0.25)

    def _is_let_in(self, number: int) -> bool:
        answer = CheckResponse.FromString(self._ask(canary_check(number), timeout=5))
        return bool(answer.status.code == 0)

    def _is_refused(self) -> bool:
        url = f"http://127.0.0.1:{self._server.http_port}/readyz"
        return bool(json.loads(httpx.get(url, timeout=10).text)["refused"])
