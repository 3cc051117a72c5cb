"""A bundle's ledger proofs: that record, plan and seed were entered, in which order, and by when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ucaudit.core.errors import LedgerInconsistentError, UntrustedKeyError, VerificationError
from ucaudit.core.records import Attestation, Plan, SeedReference, parse_time
from ucaudit.evidence import bundle as names
from ucaudit.evidence.authentic import find_signers, judge_keys
from ucaudit.evidence.bundle import OpenBundle
from ucaudit.evidence.checks import Verification
from ucaudit.evidence.ledger import (
    LedgerEntry,
    LedgerProof,
    VerifiedProof,
    VerifierKey,
    entry_for,
    verify_proof,
)
from ucaudit.evidence.signing import Envelope
from ucaudit.evidence.times import TrustedTime
from ucaudit.evidence.trust import Trust, trusted_ledgers, trusted_witnesses

if TYPE_CHECKING:
    from ucaudit.evidence.ledger import WitnessedTime

_PROOFS: Final = {
    "attestation": ("ledger", names.LEDGER_PROOF, names.LEDGER_ENTRY),
    "floor": ("ledger", names.LEDGER_PROOF, names.LEDGER_ENTRY),
    "plan": ("plan-ledger", names.PLAN_PROOF, names.PLAN_ENTRY),
    "floorplan": ("plan-ledger", names.PLAN_PROOF, names.PLAN_ENTRY),
    "seed": ("seed-ledger", names.SEED_PROOF, names.SEED_ENTRY),
}
_MAX_PROOF: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Placed:
    """A proven entry, and the cosignatures of trusted witnesses on the checkpoint that proves it."""

    proof: VerifiedProof
    witnessed: tuple[WitnessedTime, ...]


def check_entry(
    bundle: OpenBundle, envelope: Envelope, kind: str, trust: Trust, result: Verification
) -> Placed | None:
    """Check the ledger proof of a record, a plan or a seed; a witnessed time goes to ``result.times``.

    Args:
        bundle: opened.
        envelope: what must have been entered; its signature held.
        kind: ``attestation``, ``floor``, ``plan``, ``floorplan`` or ``seed``.
        trust: names the ledgers and witnesses to believe.
        result: gets the checks.

    Returns:
        Where it was entered; None if that was not proven.

    Raises:
        MalformedRecordError: proof or entry cannot be read.
    """
    slug, proof, entry = _PROOFS[kind]
    what = f"{kind} entry in the ledger"
    if not bundle.has(proof) or not bundle.has(entry):
        result.remark(slug, "warn", what, "no ledger proof in the bundle")
        return None
    ledgers = trusted_ledgers(trust)
    if not ledgers:
        result.remark(slug, "not-checked", what, "the trust file names no ledger")
        return None
    leaf = bundle.read(entry, 1 << 16)
    parsed = LedgerEntry.parse(leaf, subject=entry)
    problem: VerificationError
    if (different := _entry_differs(parsed, envelope, kind)) is not None:
        problem = LedgerInconsistentError(different, subject=entry)
        result.add(slug, what, problem, "")
        return None
    data = bundle.read(proof, _MAX_PROOF)
    for ledger in ledgers:
        try:
            proven = verify_proof(data, leaf, ledger.vkey, subject=proof)
        except VerificationError as error:
            problem = error
        else:
            note = LedgerProof.parse(data, subject=proof).checkpoint
            witnessed = _witnessed(note, ledger.vkey, proof, slug, envelope.digest, trust, result)
            time = result.times.seen(envelope.digest)
            objection = ledger.validity.objection(
                parse_time(parsed.recorded_at), time.moment if time is not None else None
            )
            if objection is not None:
                late = UntrustedKeyError(f"its key was {objection}", subject=f"ledger {ledger.origin}")
                result.add(slug, what, late, "")
                return None
            result.add(slug, what, None, f"index {proven.index} of {proven.size} in {proven.origin}")
            return Placed(proven, witnessed)
    result.add(slug, what, problem, "")
    return None


def _entry_differs(entry: LedgerEntry, envelope: Envelope, kind: str) -> str | None:
    """Where an entry says something else than the envelope it stands for, or None.

    Exports list entries, not envelopes: a failure entered as a pass would vanish from the population.
    """
    if entry.envelope_sha256 != envelope.digest or entry.kind != kind:
        return f"the proven entry is not about this {kind}"
    expected = entry_for(envelope, entry.recorded_at)
    for member in type(entry).model_fields:
        listed, given = getattr(entry, member), getattr(expected, member)
        if listed != given and (member, listed) != ("key_id", None):  # entries did not always name the key
            return f"the entry's {member.replace('_', ' ')} is {listed}, the {kind} gives {given}"
    return None


def _witnessed(
    note: bytes, vkey: str, subject: str, slug: str, digest: str, trust: Trust, result: Verification
) -> tuple[WitnessedTime, ...]:
    """The trusted witnesses' cosignatures inside their windows; the earliest is a trusted time of the envelope."""
    slug, what = f"{slug}-witness", f"{subject} against the trusted witnesses"
    windows = {item.vkey: item.validity for item in trusted_witnesses(trust)}
    if not windows:
        return ()
    from ucaudit.evidence.ledger import WitnessKey, witnessed_times  # who names no witness need not wait for it

    keys = {text: WitnessKey.parse(text, subject="trust file") for text in windows}
    found: list[WitnessedTime] = []
    for text, key in keys.items():
        try:
            times = witnessed_times(note, VerifierKey.parse(vkey), [key], subject=subject)
        except VerificationError as error:
            result.add(slug, what, error, "")
            continue
        for item in times:
            if (objection := windows[text].outside(item.time)) is not None:
                result.remark(slug, "warn", what, f"{item.witness} at {item.text}: its key was {objection}")
            else:
                found.append(item)
    found.sort(key=lambda item: item.seconds)
    if found:
        result.times.add(TrustedTime(digest, found[0].time, f"witness {found[0].witness}"))
        fine = "; ".join(f"{item.witness} had seen {item.size} entries by {item.text}" for item in found)
        result.add(slug, what, None, fine)
    else:
        result.remark(slug, "warn", what, "none of them cosigned this checkpoint: it shows no time")
    return tuple(found)


def check_order(earlier: Placed | None, later: Placed | None, kinds: tuple[str, str], result: Verification) -> None:
    """One entry must come before another in the same ledger; nothing is said if either was not proven.

    Args:
        earlier, later: what was proven of the two.
        kinds: what they are, ``("plan", "result")``.
        result: gets the check.
    """
    if earlier is None or later is None:
        return
    first, second = earlier.proof, later.proof
    before, after = kinds
    problem = None
    if first.origin != second.origin:
        problem = LedgerInconsistentError(f"{before} in {first.origin}, {after} in {second.origin}", subject=before)
    elif first.index >= second.index:
        late = f"the {before} is entry {first.index}, the {after} {second.index}: "
        late += "planned after the fact" if before == "plan" else "added after the fact"
        problem = LedgerInconsistentError(late, subject=before)
    what = f"the {before}'s ledger entry against the {after}'s"
    # "plan-order" is the plan's before the result: the seed's place in between has a name of its own.
    slug = "plan-seed-order" if kinds == ("plan", "seed") else f"{before}-order"
    result.add(slug, what, problem, f"{first.index} before {second.index}")


def check_seed(
    bundle: OpenBundle,
    record: Attestation,
    plan: Plan,
    envelope: Envelope,
    planned: Placed | None,
    trust: Trust,
    result: Verification,
) -> Placed | None:
    """Check the outside party's part in the seed, if the plan left the seed to one.

    Args:
        bundle, record: the bundle and its record, which has a plan.
        plan, envelope: that plan and its envelope, whose signature held.
        planned: where the plan was entered.
        trust: says who an outside party may be, and which witnesses.
        result: gets the checks.

    Returns:
        Where the contribution was entered, if that was proven.

    Raises:
        InputError: the contribution is malformed.
    """
    reference = record.plan.seed if record.plan is not None else None
    what = "the windows' seed against the outside party's part"
    if not plan.outside_seed:
        if reference is not None:
            problem = VerificationError("the plan fixed its own seed, the record names another's", subject="seed")
            result.add("seed", what, problem, "")
        return None
    if reference is None:
        result.remark("seed", "warn", what, "the plan left the seed to an outside party; none contributed")
        return None
    contribution = bundle.envelope(names.SEED)
    if contribution is None:
        return None  # the artefact check says that it is missing
    signers = find_signers(contribution, trust, result, "seed")
    if not signers:
        return None
    from ucaudit.evidence.seed import effective_seed, read_contribution  # most plans have a seed of their own

    said = read_contribution(contribution, envelope.digest)
    # A cosignature speaks for itself: whoever may plan may bring it along.
    carried = ("plan",) if said.source == "witness" else ()
    judge_keys(signers, contribution, trust, "seed", said.created, result, also=carried)
    _seed_value(record, effective_seed(envelope.digest, said.value), what, result)
    if (said.source, said.contributor, said.value) != (reference.source, reference.contributor, reference.value):
        differs = VerificationError("the record cites another contribution than it holds", subject=names.SEED)
        result.add("seed-reference", "the record's words on the seed", differs, "")
    what = "who fixed the seed"
    if said.source == "nonce":
        made = (*envelope.signers(trust.public_keys), *bundle.attestation.signers(trust.public_keys))
        own = {trust.entry(key).person for key in made} & {trust.entry(key).person for key in signers}
        insider = UntrustedKeyError(
            "the seed was contributed by a principal that made the plan or the record: no outside party",
            subject=names.SEED,
        )
        fine = f"{said.contributor}, by a principal that made neither plan nor record"
        result.add("seed-source", what, insider if own else None, fine)
    else:
        _seed_from_witness(reference, planned, what, result)
    return check_entry(bundle, contribution, "seed", trust, result)


def _seed_value(record: Attestation, expected: int, what: str, result: Verification) -> None:
    done = record.measurement.seed
    if done == expected:
        result.add("seed", what, None, f"{done} follows from it and the plan", level="re-derivable")
    elif record.plan is not None and any(item.startswith("seed: ") for item in record.plan.deviations):
        result.remark("seed", "warn", what, f"measured with seed {done}, {expected} follows: a declared deviation")
    else:
        problem = VerificationError(f"measured with seed {done}, {expected} follows", subject="seed")
        result.add("seed", what, problem, "", level="re-derivable")


def _seed_from_witness(reference: SeedReference, planned: Placed | None, what: str, result: Verification) -> None:
    if planned is None:
        result.remark("seed-source", "not-checked", what, "the plan's ledger entry was not proven")
        return
    match = [item for item in planned.witnessed if item.digest == reference.value]
    if not match:
        result.remark("seed-source", "warn", what, "no trusted witness made the cosignature that it is said to be")
    elif planned.proof.size != planned.proof.index + 1:
        problem = LedgerInconsistentError(
            f"the cosigned checkpoint has {planned.proof.size} entries and does not end with the plan, entry "
            f"{planned.proof.index}: others could have been tried",
            subject=names.PLAN_PROOF,
        )
        result.add("seed-source", what, problem, "")
    else:
        result.add("seed-source", what, None, f"{match[0].witness}, cosigning the plan at {match[0].text}")
