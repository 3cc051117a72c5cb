"""One bundle as one row, after it was verified again. What did not hold is a row too, and is not believed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ucaudit.core.digest import StateManifest, sha256_file
from ucaudit.core.errors import UcauditError
from ucaudit.core.records import Attestation, Floor, Measurement
from ucaudit.core.records.benchmarks import (
    Bound,
    ClaimedBeside,
    ClaimedFigure,
    FloorFigures,
    ModelClass,
    Row,
    Status,
)
from ucaudit.core.stats import Sample, compare_vendor_point
from ucaudit.evidence.archive import bundle_directory
from ucaudit.evidence.bundle import ATTESTATION, OpenBundle, open_bundle
from ucaudit.evidence.checks import Verification
from ucaudit.evidence.claims import ratio_sample
from ucaudit.evidence.trust import Trust, load_trust
from ucaudit.evidence.verify import verify_bundle
from ucaudit.packs.compare import check_files
from ucaudit.report.forest import OUTCOMES

_STATUS: Final[dict[str, Status]] = {
    "pass": "within bound",
    "pass-with-exceptions": "excused",
    "fail": "out of bound",
    "inconclusive": "inconclusive",
}
_FLOOR_STATUS: Final[dict[str, Status]] = {
    "supported": "floor",
    "refuted": "floor refuted",
    "inconclusive": "inconclusive",
}
_STATE_SPACE: Final = ("A_log", "ssm_a", "mixer.A_log", "ssm.D")


@dataclass(frozen=True)
class Found:
    """A row, and what is needed to place it.

    Attributes:
        row: without its table and its place in the given ledger.
        measured: how it was measured; None where nothing may be believed.
        sample: the windows' differences of NLL, of a pack.
        aliases: names by which a published figure may be about this row.
        confidence: of its intervals.
    """

    row: Row
    measured: Measurement | None = None
    sample: Sample | None = None
    aliases: tuple[str, ...] = ()
    confidence: float = 0.95


_state: dict[str, Trust | dict[str, Path]] = {}


def prepare(trust_file: Path, packs: dict[str, Path] | None) -> None:
    """What every worker needs once: the trust file, and where the packs lie (None: nobody asked)."""
    _state.clear()
    _state["trust"] = load_trust(trust_file)
    if packs is not None:
        _state["packs"] = packs


def read_bundle(path: Path, name: str) -> Found:
    """A bundle, verified and told as a row. Never raises for what is wrong with the bundle.

    Args:
        path: the bundle.
        name: what the row calls it.
    """
    trust = _state["trust"]
    assert isinstance(trust, Trust)
    packs = _state.get("packs")
    assert packs is None or isinstance(packs, dict)
    digest = None
    places = [path]
    try:
        with bundle_directory(path) as directory:
            places.append(directory)
            bundle = open_bundle(directory)
            digest = bundle.attestation.digest
            result = verify_bundle(bundle, trust, floors=True)
            pack_files = _compare_pack(bundle, result, packs)
            if not result.authentic or (result.record is None and result.floor is None):
                return Found(_refused(name, digest, [check.detail for check in result.failures], places))
            if result.floor is not None:
                return _floor(bundle, result, result.floor, name)
            assert result.record is not None
            return _pack(bundle, result, result.record, name, pack_files)
    except UcauditError as error:
        return Found(_refused(name, digest or _envelope_at(path), [str(error)], places))


def _envelope_at(path: Path) -> str | None:
    """The digest of the record of a bundle that cannot be opened: which entry of the ledger it would be."""
    try:
        return sha256_file(path / ATTESTATION)
    except UcauditError:
        return None


def _compare_pack(bundle: OpenBundle, result: Verification, packs: dict[str, Path] | None) -> str:
    if packs is None or result.record is None:
        return "not asked"
    place = packs.get(result.record.pack.pack_digest)
    if place is None:
        return "gone"
    check_files(bundle, result.record, place, result)
    return "compared"


def _refused(name: str, digest: str | None, reasons: list[str], places: list[Path]) -> Row:
    """The row of what did not hold. A public page says nothing of where the bundle lay on its maker's machine."""
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    text = " ".join(f"{reasons[0] if reasons else 'no trusted key signed it'}{more}".split())
    for place in places:
        text = text.replace(f"{place}/", "").replace(str(place), name)
    return Row(status="not verified", kind="unknown", bundle=name, envelope=digest, notes=(text[:2000],))


def _pack(bundle: OpenBundle, result: Verification, record: Attestation, name: str, pack_files: str) -> Found:
    measured, results = record.measurement, record.results
    bounds = tuple(
        Bound(claim=claim.id, comparator=claim.comparator, threshold=claim.threshold, verdict=claim.verdict)
        for claim in record.claims
    )
    notes = [f"deviates from its plan: {item}" for item in (record.plan.deviations if record.plan else ())]
    if record.plan is None:
        notes.append("not planned in a ledger beforehand")
    if pack_files == "gone":
        notes.append("its pack was not found: the pack's files could not be compared")
    row = Row(
        status=_STATUS[record.determination],
        kind="pack",
        model=record.reference.name,
        pack=record.pack.name,
        model_class=class_of(bundle.state()),
        codec=record.pack.codec,
        bits_on_disk=record.pack.bits_per_weight.compressed_on_disk,
        ratio=results.ratio,
        kl=results.kl,
        n=measured.n,
        seq_len=measured.seq_len,
        bounds=bounds,
        signed_by=tuple(entry.principal for entry in result.signers),
        created=record.created,
        pack_digest=record.pack.pack_digest,
        envelope=bundle.attestation.digest,
        bundle=name,
        pack_files="compared" if pack_files == "compared" else "gone" if pack_files == "gone" else "not asked",
        notes=tuple(notes),
    )
    assert result.values is not None
    aliases = (record.reference.name, *([record.reference.source] if record.reference.source else []))
    return Found(row, measured, ratio_sample(result.values), aliases, results.ratio.confidence)


def _floor(bundle: OpenBundle, result: Verification, record: Floor, name: str) -> Found:
    results, protocol = record.results, record.protocol
    level = results.floor or results.levels[0]
    fresh = results.confirmation if results.verdict == "refuted" else None
    bits = [run.bits_on_disk for run in record.runs if run.arm == level.arm and run.bits_on_disk is not None]
    row = Row(
        status=_FLOOR_STATUS[results.verdict],
        kind="floor",
        model=record.reference.name,
        pack=f"{level.arm}, {len(protocol.seeds)} seeds",
        model_class=class_of(bundle.state()),
        codec="ucq",
        bits_on_disk=sum(bits) / len(bits) if bits else None,
        ratio=level.ratio,
        kl=level.kl,
        n=fresh.windows if fresh is not None else results.windows,
        seq_len=protocol.seq_len,
        floor=FloorFigures(
            name=protocol.name,
            metric=protocol.metric,
            margin=protocol.margin,
            attempts=tuple(
                f"{item.name} ({item.direction}): {OUTCOMES[item.outcome]}" for item in results.attempts
            ),
            seeds=len(protocol.seeds),
            reason=results.reason,
        ),
        signed_by=tuple(entry.principal for entry in result.signers),
        created=record.created,
        envelope=bundle.attestation.digest,
        bundle=name,
        claimed=_published(record),
    )
    measured = record.confirmation if fresh is not None and record.confirmation is not None else record.measurement
    return Found(row, measured, None, (record.reference.name,), protocol.confidence)


def _published(record: Floor) -> ClaimedBeside | None:
    published, found = record.protocol.published, record.published
    if published is None or found is None:
        return None
    figure = ClaimedFigure(
        model=published.model,
        ratio=published.ratio,
        windows=published.windows,
        seq_len=published.seq_len,
        source=published.source,
        floor=True,
    )
    return ClaimedBeside(figure=figure, outcome=found.outcome, reason=found.reason)


def class_of(state: StateManifest) -> ModelClass:
    """Dense, mixture of experts or state-space, by the names of the tensors."""
    names = [entry.name for entry in state.entries]
    if not names:
        return "unknown"
    if any(name.rsplit(".", 1)[-1] in _STATE_SPACE or ".A_log" in name for name in names):
        return "SSM"
    if any(".experts." in name or name.endswith("_exps.weight") for name in names):
        return "MoE"
    return "dense"


def beside(found: Found, figure: ClaimedFigure, *, claimed_corpus: str | None) -> ClaimedBeside:
    """A published figure beside a measured row.

    Args:
        found: the row.
        figure: what was published for its model.
        claimed_corpus: SHA-256 of the text that it was measured on, if somebody vouches for that.
    """
    mismatch = None
    if found.sample is None or found.measured is None:
        mismatch = "the row is a floor; its protocol names what it is compared with"
    elif claimed_corpus is None:
        mismatch = "nothing says that it was measured on this text"
    elif claimed_corpus != found.measured.corpus.sha256:
        mismatch = "it was measured on another text"
    elif figure.seq_len is not None and figure.seq_len != found.measured.seq_len:
        mismatch = f"it was measured on windows of {figure.seq_len} tokens, this on {found.measured.seq_len}"
    elif figure.windows is None:
        mismatch = "it does not say on how many windows it was measured"
    if mismatch is not None or found.sample is None:
        return ClaimedBeside(figure=figure, outcome="not comparable", reason=mismatch or "no sample")
    compared = compare_vendor_point(
        found.sample,
        float(figure.ratio),
        decimals=len(figure.ratio.partition(".")[2]),
        vendor_windows=figure.windows or 1,
        confidence=found.confidence,
    )
    return ClaimedBeside(figure=figure, outcome=compared.outcome, reason=compared.reason)
