"""The `log` block of the CA's configuration: the authorizer's, word by word (a test compares)."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class CaLogSettings(BaseModel):
    """The log of the CA's processes (what it issued is in the audit chain, not here)."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True
    )

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe level that is written."
    )
    format: Literal["console", "json"] = Field(
        default="console", description="Lines for people or for machines, on standard error."
    )
