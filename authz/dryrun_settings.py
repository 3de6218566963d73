"""The `dryrun:` section: the candidate set that is asked beside the enforced one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from authz.provider_settings import ProviderSettings, check_providers
from authz.section import Section


class CandidateSettings(Section):
    """A whole policy set that is shadowed: recorded and counted, never enforced."""

    paths: tuple[Path, ...] = Field(
        min_length=1,
        description="Files and folders of Istio YAML: the whole set as it would be after the "
        "change, not the change alone.",
    )
    providers: Annotated[tuple[ProviderSettings, ...], AfterValidator(check_providers)] = Field(
        default=(),
        description="The Rego that the candidate's CUSTOM policies ask. A provider of `providers` "
        "that is not named here is loaded a second time, for the candidate alone.",
    )
    budget_seconds: float = Field(
        default=0.02,
        gt=0,
        le=10,
        description="Longest wait for the candidate's verdict on a request, and never more than "
        "half of what the caller still waits. Above it the shadow is marked as an error.",
    )

    def made_absolute(self, base: Path) -> CandidateSettings:
        """Return the settings with every relative path counted from a folder."""
        return self.model_copy(
            update={
                "paths": tuple(base / each for each in self.paths),
                "providers": tuple(each.made_absolute(base) for each in self.providers),
            }
        )


class DryRunSettings(Section):
    """What is tried on real requests and never enforced, besides dry-run policies."""

    candidate: CandidateSettings | None = Field(
        default=None, description="A policy set that may follow the enforced one."
    )

    def made_absolute(self, base: Path) -> DryRunSettings:
        """Return the settings with every relative path counted from a folder."""
        if self.candidate is None:
            return self
        return self.model_copy(update={"candidate": self.candidate.made_absolute(base)})
