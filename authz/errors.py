"""Errors of the server that its operator can mend."""

from __future__ import annotations


class ListenError(Exception):
    """An address cannot be listened on."""


class TracingError(Exception):
    """Spans cannot be made: what they need is not installed."""
