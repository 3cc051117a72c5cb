"""The report of a floor: what was declared, what every attempt gave, the verdict, and who stands behind it.

It is a document of its own: profiles map the evidence of one pack, and a floor is about some twenty. A profile
gives it classification, colours, logo and the kind of PDF, nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ucaudit.core.errors import LedgerInconsistentError
from ucaudit.core.records import Floor, FloorAttempt, FloorRun, parse_time
from ucaudit.evidence.bundle import OpenBundle
from ucaudit.evidence.checks import Verification
from ucaudit.evidence.examine import (
    EndorsementFacts,
    ledger_place,
    raise_first,
    signature_hint,
    unchecked_endorsements,
)
from ucaudit.evidence.floors.contents import check_floor_contents
from ucaudit.evidence.signing import read_statement
from ucaudit.evidence.trust import Trust
from ucaudit.evidence.verify import verify_bundle
from ucaudit.report.charts import Figure
from ucaudit.report.facts import Fact, plan_facts
from ucaudit.report.fonts import without_controls
from ucaudit.report.forest import FloorRow, floor_section
from ucaudit.report.formatting import NOT_ASSESSED, confidence_text, exact, grouped, significant
from ucaudit.report.pdf import Attached, Kind, require_renderer, write_pdf
from ucaudit.report.profiles import Profile, load_profile
from ucaudit.report.render import ATTACHMENT, accented, common_variables, environment
from ucaudit.report.signoff import (
    SignerView,
    ledger_facts,
    separation_words,
    signer_view,
)

TITLE: Final = "Floor of a compression: evidence report"
DETERMINATIONS: Final = {"supported": "pass", "refuted": "fail", "inconclusive": "inconclusive"}
"""Verdict → the style of the box: form, not hue, tells them apart."""


@dataclass(frozen=True, slots=True)
class ArmRow:
    """One arm of the protocol: its settings in words."""

    name: str
    direction: str
    settings: str


@dataclass(frozen=True, slots=True)
class RunRow:
    """One encoding with its digests, whole."""

    arm: str
    seed: int
    bits: str
    pack: str
    state: str
    values: str


@dataclass(frozen=True, slots=True)
class FloorReport:
    """One floor's report, ready to print."""

    profile: Profile
    record: Floor
    style: str
    verdict: str
    reason: str
    meaning: str
    metric: str
    margin: str
    fingerprint: str
    protocol: tuple[Fact, ...]
    identification: tuple[Fact, ...]
    arms: tuple[ArmRow, ...]
    rows: tuple[FloorRow, ...]
    levels: tuple[tuple[str, str, str], ...]
    figure: Figure
    spreads: tuple[tuple[str, str, str], ...]
    deciding: str
    published: tuple[Fact, ...]
    runs: tuple[RunRow, ...]
    plan: tuple[Fact, ...]
    ledger: tuple[Fact, ...]
    signer: SignerView
    endorsements: tuple[EndorsementFacts, ...]
    separation: str

    @property
    def key_note(self) -> str:
        """What every page says of the signature."""
        return self.signer.note

    @property
    def fingerprint_groups(self) -> str:
        """The fingerprint as pages print it."""
        return grouped(self.fingerprint)


def floor_report(bundle: OpenBundle, profile: str, *, trust: Trust | None = None) -> FloorReport:
    """Check a floor's bundle and collect what its report prints.

    Args:
        bundle: opened; its record is a floor.
        profile: for classification, look and kind of PDF.
        trust: whatever verification finds under it is refused; without it the report says that no key was checked.

    Raises:
        VerificationError: the record does not follow from its files, or does not hold under ``trust``.
        NotFoundError, InputError: the profile, or something in the bundle.
    """
    statement = read_statement(bundle.attestation)
    record = statement.predicate
    assert isinstance(record, Floor)
    signer, seen = None, None
    if trust is None:
        result = Verification(envelope_digest=bundle.attestation.digest)
        check_floor_contents(bundle, statement, record, result)
        raise_first(result)
        key_id, endorsements = signature_hint(bundle.attestation), unchecked_endorsements(bundle)
    else:
        result = verify_bundle(bundle, trust, floors=True)
        raise_first(result)
        signer = result.signers[0]
        key_id, seen = signer.key.key_id, result.times.seen(bundle.attestation.digest)
        endorsements = tuple(EndorsementFacts.checked(item) for item in result.endorsements)
    place, _ = ledger_place(bundle, trust)
    if place is not None and record.plan.ledger_index is not None and record.plan.ledger_index >= place.index:
        raise LedgerInconsistentError("the plan is not older in the ledger than the result", subject="plan")
    section = floor_section(record)
    principal = signer.principal if signer else None
    return FloorReport(
        profile=load_profile(profile),
        record=record,
        style=DETERMINATIONS[record.results.verdict],
        verdict=section.verdict,
        reason=section.reason,
        meaning=_meaning(record),
        metric=section.metric,
        margin=section.margin,
        fingerprint=bundle.attestation.digest,
        protocol=_protocol(record),
        identification=_identification(record),
        arms=_arms(record),
        rows=section.rows,
        levels=section.levels,
        figure=section.figure,
        spreads=tuple(_spread(item) for item in record.results.attempts),
        deciding=_deciding(record),
        published=_published(record),
        runs=tuple(_run(run) for run in record.runs),
        plan=plan_facts(record.plan),
        ledger=ledger_facts(place),
        signer=signer_view(
            record.created, key_id, principal, signer.roles if signer else (), str(seen) if seen else None
        ),
        endorsements=endorsements,
        separation=separation_words(key_id, principal, endorsements),
    )


def render_floor(
    bundle: OpenBundle,
    profile: str,
    *,
    paper: str = "a4",
    trust: Trust | None = None,
    kind: Kind = "pdf",
) -> bytes:
    """The report of a floor's bundle, as a file's bytes. Arguments and errors as :func:`floor_report`."""
    require_renderer(kind)
    view = floor_report(bundle, profile, trust=trust)
    look = view.profile.look
    made = environment()
    made.filters["drawing"] = accented(look)
    attached = kind == "pdf" and view.profile.attach_record
    text: str = made.get_template("report/floor.html.j2").render(
        **common_variables(paper, kind, look), view=view, title=TITLE, attached=attached
    )
    html = text.lstrip()
    if kind == "html":
        return without_controls(html).encode("utf-8")
    files = [Attached(ATTACHMENT, bundle.attestation.raw, "The signed record (DSSE envelope)", "Source")]
    return write_pdf(
        html,
        variant=view.profile.pdf_variant,
        when=parse_time(view.record.created),
        identifier=bytes.fromhex(view.fingerprint)[:16],
        attached=files if attached else [],
    )


def _meaning(record: Floor) -> str:
    """The verdict in a sentence for somebody who knows no statistics."""
    margin = exact(record.protocol.margin)
    match record.results.verdict:
        case "supported":
            return (
                f"None of the declared attempts improves on the baseline by {margin} nats per token or more: for "
                "each, so large an improvement is ruled out at the declared confidence. Attempts that were not "
                "declared are not ruled out."
            )
        case "refuted":
            return (
                f"At least one declared attempt improves on the baseline by more than {margin} nats per token, and "
                "did so again on windows that no attempt had been measured on. Its level is what to publish."
            )
        case "inconclusive":
            return "The data neither rule out an improvement that matters nor show one."


def _protocol(record: Floor) -> tuple[Fact, ...]:
    made = record.protocol
    return (
        Fact("Protocol", made.name),
        Fact("Metric", "logarithm of the perplexity ratio" if made.metric == "pplRatio" else "mean KL divergence"),
        Fact("Margin δ", f"{exact(made.margin)} nats per token"),
        Fact("Confidence", confidence_text(made.confidence)),
        Fact("Encoder seeds", ", ".join(str(seed) for seed in made.seeds)),
        Fact("Windows", f"{made.n:,} of {made.seq_len:,} tokens; {made.confirm_n:,} fresh ones if an attempt wins"),
        Fact("Seed of the draw of windows", str(made.seed)),
        Fact("Protocol file", grouped(record.protocol_file.sha256), "digest"),
    )


def _identification(record: Floor) -> tuple[Fact, ...]:
    corpus, libraries = record.measurement.corpus, record.measurement.libraries
    return (
        Fact("Reference", record.reference.name),
        Fact("Reference, its files", grouped(record.reference.files_digest), "digest"),
        Fact("Reference, its state", grouped(record.reference.state_digest), "digest"),
        Fact("Note on the reference", record.reference.note or "none"),
        Fact("Evaluation text", f"{corpus.name}, {corpus.tokens:,} tokens"),
        Fact("Evaluation text, SHA-256", grouped(corpus.sha256), "digest"),
        Fact("Calibration text", record.calibration.name),
        Fact("Calibration text, SHA-256", grouped(record.calibration.sha256), "digest"),
        Fact("Tool", f"{record.tool.name} {record.tool.version}"),
        Fact("Libraries", ", ".join(f"{name} {version}" for name, version in sorted(libraries.items()))),
    )


def _arms(record: Floor) -> tuple[ArmRow, ...]:
    def words(settings: object) -> str:
        fields = settings.model_dump() if hasattr(settings, "model_dump") else {}
        return ", ".join(
            f"{name.replace('_', ' ')} {exact(value) if isinstance(value, float) else value}"
            for name, value in fields.items()
        )

    made = record.protocol
    return (
        ArmRow("baseline", "none", words(made.baseline)),
        *(ArmRow(item.name, item.direction, words(item.settings)) for item in made.perturbations),
    )


def _spread(item: FloorAttempt) -> tuple[str, str, str]:
    """An attempt's standard deviations: of windows, of encoder seeds."""
    return item.name, significant(item.from_windows**0.5, 2), significant(item.from_seeds**0.5, 2)


def _deciding(record: Floor) -> str:
    found = record.results.deciding
    if found is None:
        return ""
    parts = []
    if found.windows is not None:
        parts.append(f"about {found.windows:,} windows with these seeds")
    if found.seeds is not None:
        parts.append(f"about {found.seeds:,} seeds with these windows")
    if found.both is not None:
        parts.append(f"about {found.both[0]:,} windows with {found.both[1]:,} seeds")
    if not parts:
        return "No number of windows or seeds would decide, if means and spreads are what they seem."
    return f"What would decide with power 0.9, if means and spreads are what they seem: {'; or '.join(parts)}."


def _published(record: Floor) -> tuple[Fact, ...]:
    claim, found = record.protocol.published, record.published
    if claim is None or found is None:
        return ()
    return (
        Fact("Published for", claim.model),
        Fact("Published ratio", f"{claim.ratio}, on {claim.windows:,} windows"),
        Fact("Source", claim.source or f"{NOT_ASSESSED}: not stated"),
        Fact("Beside this measurement", found.outcome),
        Fact("Why", found.reason),
    )


def _run(run: FloorRun) -> RunRow:
    bits = significant(run.bits_on_disk, 4) if run.bits_on_disk is not None else NOT_ASSESSED
    return RunRow(
        run.arm,
        run.seed,
        bits,
        grouped(run.pack_digest),
        grouped(run.state_digest),
        grouped(run.values.sha256),
    )
