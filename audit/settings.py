"""The `audit` block of the configuration file."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from audit.logs import worker_folder
from audit.redact import DEFAULT_CLAIMS, DEFAULT_HEADERS
from audit.sinks.settings import SinkSettings


class FsyncPolicy(StrEnum):
    """When written lines are forced to the disk."""

    BATCH = "batch"
    INTERVAL = "interval"
    NEVER = "never"


class AuditMode(StrEnum):
    """What a decision waits for, and what becomes of one that cannot be recorded."""

    STRICT = "strict"
    SPILL = "spill"
    BEST_EFFORT = "best-effort"


class TraceOf(StrEnum):
    """Which decisions are recorded with the trace of how they came about."""

    OFF = "off"
    DENIED = "denied"
    ALL = "all"


class Compression(StrEnum):
    """What becomes of a segment that is closed."""

    NONE = "none"
    GZIP = "gzip"


class RetentionSettings(BaseModel):
    """How long the record is kept. What is deleted was signed, and taken by every sink, before."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True
    )

    max_age_days: float = Field(
        default=0,
        ge=0,
        description="A segment whose newest line is older is deleted; 0: none is for its age.",
    )
    max_bytes: int = Field(
        default=0,
        ge=0,
        description="The oldest segments are deleted while all together take more (of several "
        "workers: those of each); 0: none is for its size.",
    )

    @property
    def is_wanted(self) -> bool:
        """Whether anything is ever deleted."""
        return bool(self.max_age_days or self.max_bytes)


class AuditSettings(BaseModel):
    """Where the record goes, how much may wait, and what it may hold."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True
    )

    folder: Path = Field(
        default=Path("audit"),
        description="Folder of the segments; made at start. One process writes one folder; of "
        "several workers each writes a folder `worker-NAME` in it.",
    )
    max_segment_bytes: int = Field(
        default=64 * 1024 * 1024,
        ge=4096,
        description="Size at which a segment is closed and the next one begins.",
    )
    max_segment_seconds: int = Field(
        default=0,
        ge=0,
        description="Age at which a segment that holds a line is closed as well; 0: never.",
    )
    compression: Compression = Field(
        default=Compression.NONE,
        description="What is done to closed segments: `gzip` takes about a tenth of the disk; "
        "reading them takes longer.",
    )
    retention: RetentionSettings = Field(
        default_factory=RetentionSettings,
        description="How long the record is kept; for ever by default.",
    )
    sinks: SinkSettings = Field(
        default_factory=SinkSettings, description="Where the record goes beside its files."
    )
    mode: AuditMode = Field(
        default=AuditMode.SPILL,
        description="`strict`: no answer leaves before its record is on the disk. `spill`: records "
        "wait in bounded memory and are written soon after; a killed process loses those that "
        "waited, and the next one says how many. Both deny what cannot be recorded. "
        "`best-effort`: nothing is denied for want of a record, what is dropped is counted, in "
        "metrics and on record.",
    )
    queue_size: int = Field(
        default=10_000,
        ge=1,
        description="Records that may wait for the writer; beyond it a request waits, then it is "
        "denied (in the mode `best-effort`: its record is dropped).",
    )
    queue_wait_milliseconds: int = Field(
        default=100,
        ge=0,
        description="How long a request waits for room in a full queue, and in the mode `strict` "
        "for its record to be on the disk, before it is denied.",
    )
    fsync: FsyncPolicy = Field(
        default=FsyncPolicy.INTERVAL,
        description="When lines are forced to the disk: after each `batch`, on an `interval`, or "
        "`never` (the operating system decides). A killed process loses none of what was "
        "written under any of them; a power cut may lose what was not forced. In the mode "
        "`strict` it is `batch`, whatever stands here.",
    )
    fsync_milliseconds: int = Field(
        default=1000, ge=1, description="The interval of `fsync: interval`."
    )
    retry_milliseconds: int = Field(
        default=1000,
        ge=1,
        description="Pause before a failed write (disk full, folder gone) is tried again.",
    )
    trace: TraceOf = Field(
        default=TraceOf.OFF,
        description="Which decisions are recorded with their trace: the policies that were asked, "
        "what became of each, and which conditions its rules lacked, by name and place; nothing "
        "of the request stands in it.",
    )
    trace_rules: int = Field(
        default=20,
        ge=1,
        le=500,
        description="Rules in a trace: those that came nearest; the others are counted.",
    )
    columns: bool = Field(
        default=False,
        description="Whether the columns that questions are asked of are made as segments are "
        "sealed, at low priority by a process of its own; else by the first question.",
    )
    checkpoint_key_file: Path | None = Field(
        default=None,
        description="Ed25519 private key (PEM) that signs a checkpoint of each sealed segment; "
        "without one none is signed, and a log that was written anew cannot be told from the "
        "first.",
    )
    checkpoint_origin: str = Field(
        default="",
        description="Name under which checkpoints are signed, one for each log; empty: "
        "`meshwarden/` and the name of the instance.",
    )
    node_name: str = Field(
        default="", description="Name of this instance in every record; empty: the host's name."
    )
    headers: tuple[str, ...] = Field(
        default=DEFAULT_HEADERS,
        description="Request headers that are recorded. Secret ones are masked even if named here.",
    )
    secret_headers: tuple[str, ...] = Field(
        default=(), description="Further headers whose values are never recorded."
    )
    secret_parameters: tuple[str, ...] = Field(
        default=(), description="Further query parameters whose values are never recorded."
    )
    claims: tuple[str, ...] = Field(
        default=DEFAULT_CLAIMS, description="Token claims that are recorded beside `iss` and `sub`."
    )
    hash_key_file: Path | None = Field(
        default=None,
        description="Secret key, 32 bytes or more, of the hashes in the place of values: who has "
        "it can try values, nobody else can.",
    )
    hashed_headers: tuple[str, ...] = Field(
        default=(),
        description="Headers that stand on record as a keyed hash of their value, secret ones "
        "too: requests with the same value can be found, the value cannot.",
    )
    hashed_claims: tuple[str, ...] = Field(
        default=(), description="Token claims that stand on record as a keyed hash of their value."
    )

    @model_validator(mode="after")
    def _has_a_key_of_hashes(self) -> AuditSettings:
        if (self.hashed_headers or self.hashed_claims) and self.hash_key_file is None:
            raise ValueError(
                "`hashedHeaders` and `hashedClaims` need `hashKeyFile`: without a key, who guesses "
                "a value can tell that it was right"
            )
        return self

    @model_validator(mode="after")
    def _is_signed_before_it_is_deleted(self) -> AuditSettings:
        if self.retention.is_wanted and self.checkpoint_key_file is None:
            raise ValueError(
                "`retention` needs `checkpointKeyFile`: what is deleted must have been signed, or "
                "a lost beginning could not be told from a deleted one"
            )
        return self

    def made_absolute(self, base: Path) -> AuditSettings:
        """Return the settings with relative paths counted from `base`."""
        key, hash_key = self.checkpoint_key_file, self.hash_key_file
        uploads = tuple(each.made_absolute(base) for each in self.sinks.uploads)
        return self.model_copy(
            update={
                "folder": base / self.folder,
                "checkpoint_key_file": None if key is None else base / key,
                "hash_key_file": None if hash_key is None else base / hash_key,
                "sinks": self.sinks.model_copy(update={"uploads": uploads}),
            }
        )

    def for_worker(self, worker: str, *, node: str) -> AuditSettings:
        """Return the settings of one of several workers: a log, a chain and a name of its own.

        `node` names the instance where `node_name` does not; `worker` is of letters, digits, `-`.
        """
        origin = self.checkpoint_origin and f"{self.checkpoint_origin}/{worker}"
        return self.model_copy(
            update={
                "folder": worker_folder(self.folder, worker),
                "node_name": f"{self.node_name or node}/{worker}",
                "checkpoint_origin": origin,
            }
        )
