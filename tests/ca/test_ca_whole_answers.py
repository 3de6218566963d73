"""An answer in one piece is, byte for byte, the answer in three, and leaves the same state."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from talking import TALKS, held, request_not_at_its_end

from ca import whole_answers


@pytest.mark.parametrize("talking", TALKS)
def test_the_bytes_are_those_of_the_long_way(monkeypatch, talking):
    """Whatever is asked, and whatever windows and tables are like, the server says the same."""
    sent: list[bool] = []
    plain = whole_answers._sent_at_once

    def watched(stream: Any, message: Any) -> bool:
        sent.append(plain(stream, message))
        return sent[-1]

    monkeypatch.setattr(whole_answers, "_sent_at_once", watched)
    short = asyncio.run(held(talking))
    assert any(sent) or talking is request_not_at_its_end
    monkeypatch.setattr(whole_answers, "_sent_at_once", lambda *_: False)
    assert asyncio.run(held(talking)) == short
