"""What an auditor asks of the record, each as one table: a section of a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from audit.verify import VerifyReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A rule of an ALLOW policy: what was granted. `principals` are those it names in full."""

    policy: str
    rule: int
    place: str = ""
    principals: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One table with what it answers. `controls` are those it is evidence for.

    `empty` is what no rows mean: nothing was found, or it cannot be known.
    """

    name: str
    title: str
    question: str
    columns: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]
    notes: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()
    empty: str = "Nothing."


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """The answers of one day, UTC."""

    day: str
    allowed: int
    denied: int


OTHERS: Final = "all others"


@dataclass(frozen=True, slots=True)
class Bar:
    """How many decisions have a name in common: one of the most frequent, or `OTHERS`."""

    name: str
    count: int


@dataclass(frozen=True, slots=True)
class Cell:
    """The answers that one caller had from one workload."""

    allowed: int
    denied: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """What a reader sees first: the numbers, and what the charts show.

    `hours` are the refusals of each weekday (Monday first) and hour, UTC. `cells` has a row for
    each of `callers` and a column for each of `workloads`, the most frequent of both.
    """

    days: tuple[Day, ...] = ()
    callers_count: int = 0
    workloads_count: int = 0
    anonymous: int = 0
    shadow_differences: int = 0
    failed_open: int = 0
    microseconds: tuple[int, int, int] = (0, 0, 0)
    refusing: tuple[Bar, ...] = ()
    refused: tuple[Bar, ...] = ()
    reasons: tuple[Bar, ...] = ()
    hours: tuple[tuple[int, ...], ...] = ()
    callers: tuple[str, ...] = ()
    workloads: tuple[str, ...] = ()
    cells: tuple[tuple[Cell, ...], ...] = ()

    @property
    def allowed(self) -> int:
        """How many decisions allowed."""
        return sum(day.allowed for day in self.days)

    @property
    def denied(self) -> int:
        """How many decisions denied."""
        return sum(day.denied for day in self.days)

    @property
    def total(self) -> int:
        """How many decisions there are."""
        return self.allowed + self.denied


@dataclass(frozen=True, slots=True)
class Verification:
    """What is true of each log: several workers write one each.

    `noted` counts the segments that were not read again, but verified by what was noted of them.
    """

    reports: tuple[VerifyReport, ...]
    noted: int = 0

    @property
    def intact(self) -> bool:
        """Whether nothing is wrong with any log."""
        return all(each.intact for each in self.reports)

    @property
    def verdict(self) -> str:
        """What is true of them all, as the end of a sentence about the record."""
        count = self.problem_count
        places = "1 place" if count == 1 else f"{count} places"
        if self.is_only_unsigned:
            return f"has an intact chain, but lacks signatures in {places}"
        return "is intact" if self.intact else f"is broken in {places}"

    @property
    def is_only_unsigned(self) -> bool:
        """Whether all that is wrong is that nobody is known who signed for some of the lines."""
        wrong = [each for each in self.reports if not each.intact]
        return bool(wrong) and all(each.is_only_unsigned for each in wrong)

    @property
    def problem_count(self) -> int:
        """How many places are wrong in all logs."""
        return sum(each.problem_count for each in self.reports)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Sections over one range of time, with what is to be seen first."""

    title: str
    range: str
    overview: Overview
    sections: tuple[Section, ...]
    verification: Verification


TITLES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "access-matrix": "Access matrix",
        "granted-unused": "Granted but unused",
        "anonymous-plaintext": "Anonymous and plaintext access",
        "policy-changes": "Policy change history",
        "shadow-exceptions": "Shadow policies and exceptions",
        "decisions": "Decisions",
        "integrity": "Integrity statement",
        "controls": "Controls",
    }
)
"""The sections by name, in the order they are told."""

QUESTIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "access-matrix": "Who called what, and were they allowed?",
        "granted-unused": "Which grants did nobody use, and could be taken back?",
        "anonymous-plaintext": "Who called without a proven identity of their own?",
        "policy-changes": "Which policies decided, since when, and which were refused?",
        "shadow-exceptions": "What would policies under trial change, and what was let past?",
        "decisions": "What was decided last, for whom, by what and why?",
        "integrity": "Is the record as it was written?",
        "controls": "Which section is evidence for which control?",
    }
)

# (framework, control, what it asks in our words, the sections that answer)
CONTROLS: Final[tuple[tuple[str, str, str, tuple[str, ...]], ...]] = (
    ("PCI DSS 4.0.1", "7.2.4", "access rights are reviewed", ("granted-unused", "access-matrix")),
    (
        "PCI DSS 4.0.1", "7.2.5.1", "rights of applications and systems are reviewed",
        ("granted-unused", "access-matrix"),
    ),
    ("PCI DSS 4.0.1", "10.2.1.1", "each access of a person is on record", ("decisions",)),
    ("PCI DSS 4.0.1", "10.2.1.4", "refused access is on record", ("access-matrix", "decisions")),
    ("PCI DSS 4.0.1", "10.2.1.6", "starts and stops of the record are on record",
     ("policy-changes",)),
    ("PCI DSS 4.0.1", "10.2.2", "who, what, when, where, with what answer", ("decisions",)),
    ("PCI DSS 4.0.1", "10.3.4", "a change of the record is noticed", ("integrity",)),
    ("PCI DSS 4.0.1", "10.4.1.1", "the record is reviewed by machine", ("anonymous-plaintext",)),
    ("ISO 27001:2022", "A.5.15", "access follows rules", ("access-matrix", "policy-changes")),
    ("ISO 27001:2022", "A.5.18", "access rights are reviewed and taken back", ("granted-unused",)),
    ("ISO 27001:2022", "A.8.3", "access to information is restricted", ("access-matrix",)),
    ("ISO 27001:2022", "A.8.15", "events are logged and logs protected",
     ("decisions", "integrity")),
    ("ISO 27001:2022", "A.8.16", "what is unusual is looked at", ("anonymous-plaintext",)),
    ("ISO 27001:2022", "A.8.32", "changes are controlled",
     ("policy-changes", "shadow-exceptions")),
    ("SOC 2", "CC6.1", "access is limited to who is authorized", ("access-matrix",)),
    ("SOC 2", "CC6.3", "least privilege", ("granted-unused",)),
    ("SOC 2", "CC6.6", "access from outside is guarded", ("anonymous-plaintext",)),
    ("SOC 2", "CC7.2", "systems are watched for what is unusual", ("anonymous-plaintext",)),
    ("SOC 2", "CC8.1", "changes are known and tried", ("policy-changes", "shadow-exceptions")),
    ("NIST 800-53", "AC-3", "access is enforced", ("access-matrix",)),
    ("NIST 800-53", "AC-4", "flows between parts are enforced",
     ("access-matrix", "anonymous-plaintext")),
    ("NIST 800-53", "AC-6", "least privilege", ("granted-unused",)),
    ("NIST 800-53", "AU-3", "a record says what, when, where, who and with what end",
     ("decisions",)),
    ("NIST 800-53", "AU-6", "the record is reviewed and reported",
     ("access-matrix", "anonymous-plaintext")),
    ("NIST 800-53", "AU-9", "the record is protected against change", ("integrity",)),
    ("NIST 800-53", "AU-10", "who did something cannot deny it", ("decisions", "integrity")),
    ("NIST 800-53", "CM-3", "changes of configuration are controlled", ("policy-changes",)),
)  # fmt: skip
"""Controls, and the sections that are evidence for them. Evidence is not conformity."""


def controls_of(name: str) -> tuple[str, ...]:
    """Return the controls a section is evidence for, such as `SOC 2 CC6.1`."""
    return tuple(
        f"{framework} {control}" for framework, control, _, sections in CONTROLS if name in sections
    )
