"""The check list: what was compared with what, at which level, and with which outcome."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ucaudit.core.errors import EXIT_FAIL, EXIT_PASS, PolicyViolationError, VerificationError
from ucaudit.core.records import Attestation, Floor, Results
from ucaudit.evidence.times import TrustedTime, TrustedTimes
from ucaudit.evidence.trust import TrustedKey

if TYPE_CHECKING:
    from ucaudit.core.tokenvalues import TokenValues

Status = Literal["pass", "fail", "warn", "not-checked"]
Level = Literal["recorded", "re-derivable", "re-measured"]
"""How far a check reaches. ``recorded``: who said it, and that it is unchanged; the content is the signer's word.
``re-derivable``: computed again here from the bundle's own files. ``re-measured``: computed again here from the
pack or the models themselves."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was compared with one other thing."""

    slug: str
    status: Status
    what: str
    detail: str
    error: VerificationError | None = None
    level: Level = "recorded"
    items: tuple[str, ...] = ()
    """Every file or tensor that the check found wrong, where ``detail`` names only the first."""

    @property
    def reason(self) -> str | None:
        """Why it failed, as a slug finer than the check's; None for a check that did not fail."""
        return self.error.reason if self.error else None

    def as_json(self) -> dict[str, Any]:
        """The check as ``--json`` prints it."""
        return {
            "slug": self.slug,
            "status": self.status,
            "what": self.what,
            "detail": self.detail,
            "level": self.level,
            "reason": self.reason,
            **({"items": list(self.items)} if self.items else {}),
        }


@dataclass(frozen=True, slots=True)
class Endorsed:
    """An endorsement that counts: its signature, key, role and binding all held."""

    digest: str
    """SHA-256 of the endorsement's envelope, hex."""
    entry: TrustedKey
    printed_name: str
    role: str
    meaning: str
    created: str
    """The endorser's own word."""
    seen: TrustedTime | None

    def as_json(self) -> dict[str, Any]:
        """The endorsement as ``--json`` prints it."""
        return {
            "digest": self.digest,
            "printedName": self.printed_name,
            "role": self.role,
            "meaning": self.meaning,
            "created": self.created,
            "seenBy": str(self.seen) if self.seen else None,
            "principal": self.entry.principal,
            "keyId": self.entry.key.key_id,
        }


@dataclass
class Verification:
    """What came out: every check, and the record they are about."""

    checks: list[Check] = field(default_factory=list)
    record: Attestation | None = None
    floor: Floor | None = None
    """The record, where the bundle holds a floor protocol's outcome."""
    envelope_digest: str = ""
    values: TokenValues | None = None
    """The per-token values, as read and compared with the signed digests."""
    rederived: Results | None = None
    """Every figure again from ``values``, at the record's confidence and with its seed of the resampling."""
    signers: tuple[TrustedKey, ...] = ()
    """The keys that made the record and count."""
    closers: tuple[TrustedKey, ...] = ()
    """The keys that closed the bundle and count: not always those that made the record."""
    endorsements: list[Endorsed] = field(default_factory=list)
    times: TrustedTimes = field(default_factory=TrustedTimes)

    def add(
        self,
        slug: str,
        what: str,
        problem: VerificationError | None,
        fine: str,
        *,
        level: Level = "recorded",
        items: tuple[str, ...] = (),
    ) -> bool:
        """Record a check; True if it passed."""
        status: Status = "fail" if problem else "pass"
        self.checks.append(Check(slug, status, what, str(problem) if problem else fine, problem, level, items))
        return problem is None

    def remark(self, slug: str, status: Status, what: str, detail: str, *, level: Level = "recorded") -> None:
        """Record something that is neither passed nor failed."""
        self.checks.append(Check(slug, status, what, detail, level=level))

    def found_by(self, slug: str) -> bool:
        """Whether a check of this name failed."""
        return any(check.slug == slug for check in self.failures)

    @property
    def failures(self) -> list[Check]:
        """The checks that failed."""
        return [check for check in self.checks if check.status == "fail"]

    @property
    def authentic(self) -> bool:
        """Whether the evidence held. It says nothing of the determination inside, nor of what a policy demands."""
        return all(isinstance(check.error, PolicyViolationError) for check in self.failures)

    @property
    def admitted(self) -> bool:
        """Whether nothing failed at all: neither the evidence nor, if one was applied, the policy."""
        return not self.failures

    @property
    def exit_code(self) -> int:
        """0 if nothing failed; 5 if nothing but claims that could not be decided; else 1."""
        codes = {check.error.exit_code if check.error else EXIT_FAIL for check in self.failures}
        return EXIT_PASS if not codes else codes.pop() if len(codes) == 1 else EXIT_FAIL
