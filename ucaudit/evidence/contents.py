"""What a bundle holds, against what its record says: forms, digests, subjects, and every figure derived again.

None of this needs a key, so a countersigner can ask it of a bundle before anybody is trusted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ucaudit.core.digest import sha256_file
from ucaudit.core.errors import CorpusError, DigestMismatchError, VerificationError
from ucaudit.core.records import Attestation, Statement
from ucaudit.core.windows import draw
from ucaudit.evidence import bundle as names
from ucaudit.evidence.bundle import OpenBundle, cited, closing_differences
from ucaudit.evidence.checks import Verification
from ucaudit.evidence.claims import (
    BOOTSTRAP_SEED,
    compute_results,
    determine,
    differences,
    judge_all,
    least_tolerance,
)

if TYPE_CHECKING:
    from ucaudit.core.tokenvalues import TokenValues


def check_contents(bundle: OpenBundle, statement: Statement, record: Attestation, result: Verification) -> None:
    """Forms, artefacts, subjects and figures, in this order."""
    check_forms(bundle, result)
    _artefacts(bundle, statement, record, result)
    _rederive(bundle, record, result)


def check_closing(
    bundle: OpenBundle,
    closing: Statement,
    files: int,
    digest: str,
    result: Verification,
    *,
    wrong_hints: Sequence[str] = (),
) -> None:
    """Every file of the bundle against the closing statement.

    Args:
        bundle: opened.
        closing: the closing statement.
        files: how many files it says there are.
        digest: the attestation envelope that it says it closes.
        result: gets the check.
        wrong_hints: key hints of its envelope that are not the signer's. Elsewhere they are remarked only; this
            envelope is bound by nothing else, so somebody changed it.
    """
    found = closing_differences(closing, bundle.digests())
    if files != len(closing.subjects):
        found.append(f"it says {files} files and lists {len(closing.subjects)}")
    if digest != bundle.attestation.digest:
        found.append("the closing statement is another attestation's")
    found += [f"{names.CLOSING}: its key hint {hint[:64]} is not the signer's" for hint in wrong_hints]
    problem = None
    if found:
        hint = "files of the bundle were changed, added or removed"
        problem = DigestMismatchError("; ".join(found), hint=hint)
    what = "every file against the closing statement"
    result.add("closing", what, problem, f"{len(closing.subjects)} files agree")


def check_forms(bundle: OpenBundle, result: Verification) -> None:
    """The Sigstore form must hold the same payload and signature, the chain's first line the same bytes."""
    attestation = bundle.attestation
    wrong = f"does not hold the signed record of {names.ATTESTATION}"
    if (sigstore := bundle.envelope(names.SIGSTORE)) is not None:
        made = {item.signature for item in attestation.signatures}
        same = (
            sigstore.payload == attestation.payload
            and sigstore.payload_type == attestation.payload_type
            and {item.signature for item in sigstore.signatures} <= made
        )
        problem = None if same else DigestMismatchError(wrong, subject=names.SIGSTORE)
        what = f"{names.SIGSTORE} against {names.ATTESTATION}"
        result.add("same-record", what, problem, "same payload, same signature")
    if chain := bundle.chain():
        problem = None if chain[0].raw == attestation.raw else DigestMismatchError(wrong, subject=names.CHAIN)
        result.add("same-record", f"{names.CHAIN} against {names.ATTESTATION}", problem, "first line is the record")


def _artefacts(bundle: OpenBundle, statement: Statement, record: Attestation, result: Verification) -> None:
    values = [item.name for item in record.measurement.value_files]
    if sorted(values) != sorted(names.VALUE_FILES):
        # A file that the record does not bind could be exchanged, and every figure with it.
        unbound = DigestMismatchError(
            f"the record cites {', '.join(values) or 'none'}; expected each of {', '.join(names.VALUE_FILES)} once",
            subject=names.ATTESTATION,
        )
        result.add("artefact", "per-token files that the record binds", unbound, "")
    for name, expected in cited(record).items():
        what = f"{name} against the signed digest"
        if not bundle.has(name):
            result.add(
                "artefact", what, DigestMismatchError("the record cites it, the bundle lacks it", subject=name), ""
            )
            continue
        found = sha256_file(bundle.path / name)
        problem = (
            None
            if found == expected
            else DigestMismatchError(
                f"expected sha-256 {expected[:16]}…, found {found[:16]}…",
                subject=name,
                hint="the file was changed after the record was signed",
            )
        )
        result.add("artefact", what, problem, f"sha-256 {expected[:16]}…")
    for name in (names.PACK_MANIFEST, names.STATE):
        if statement.digest_of(name) != cited(record)[name]:
            problem = DigestMismatchError("the statement's subject and its predicate disagree", subject=name)
            result.add("subjects", f"subject {name} against the predicate", problem, "")
    if not result.failures:
        manifest = bundle.pack_manifest().by_path()
        listed = {
            item.name.removeprefix("pack/"): item.sha256 for item in statement.subjects if item.name[:5] == "pack/"
        }
        wrong = sorted(name for name, digest in listed.items() if manifest.get(name) != digest)
        problem = DigestMismatchError(f"subject {wrong[0]} is not in {names.PACK_MANIFEST}") if wrong else None
        result.add("subjects", "statement subjects against pack.SHA256SUMS", problem, f"{len(listed)} files agree")


def _rederive(bundle: OpenBundle, record: Attestation, result: Verification) -> None:
    """Every figure and verdict again, from the per-token files."""
    if result.found_by("artefact"):
        result.remark("figures", "not-checked", "figures re-derived", "the per-token files are not the signed ones")
        return
    from ucaudit.core.tokenvalues import load

    values = load(bundle.path)
    again = compute_results(values, confidence=record.results.ratio.confidence, seed=record.results.bootstrap_seed)
    changed = differences(record.results, again)
    problem = (
        VerificationError(
            f"{changed[0]}", subject="results", hint="the signed figures do not follow from the signed values"
        )
        if changed
        else None
    )
    chosen = record.results.bootstrap_seed
    if chosen != BOOTSTRAP_SEED:
        # Whoever may pick the resamples may pick the end of an interval.
        free = VerificationError(f"{chosen}, not the fixed {BOOTSTRAP_SEED}", subject="results.bootstrapSeed")
        result.add("bootstrap-seed", "the seed of the resampling", free, "")
    result.values, result.rederived = values, again
    what = "signed figures against the per-token files"
    fine = f"{len(values.windows)} windows re-derived to 12 digits"
    result.add("figures", what, problem, fine, level="re-derivable")
    _sizes(record, values, result)
    _documents(record, values, result)
    least = least_tolerance(record.measurement, values)
    if record.measurement.tolerance < least:
        text = f"{record.measurement.tolerance:g}, {record.measurement.dtype} calls for {least:.3g} at least"
        narrow = VerificationError(text, subject="measurement.tolerance")
        result.add("tolerance", "the numerical tolerance of the verdicts", narrow, "", level="re-derivable")
    _draw(record, values.windows, result)
    claims = judge_all(record, again, values)
    wrong = [
        f"{old.id}: signed {old.verdict}, re-derived {new.verdict}"
        for old, new in zip(record.claims, claims, strict=True)
        if old.verdict != new.verdict or not math.isclose(old.observed, new.observed, rel_tol=1e-12)
    ]
    problem = VerificationError(wrong[0], subject="claims") if wrong else None
    what = "signed verdicts against re-derived ones"
    result.add("claims", what, problem, f"{len(claims)} claims agree", level="re-derivable")
    expected = determine(claims, record.exceptions, record.created)
    problem = (
        None
        if expected == record.determination
        else VerificationError(
            f"signed {record.determination}, its claims give {expected}", subject="determination"
        )
    )
    what = "determination against the claims"
    result.add("determination", what, problem, record.determination, level="re-derivable")


def _sizes(record: Attestation, values: TokenValues, result: Verification) -> None:
    """The windows' number and length against the per-token files, and the text's size against both.

    Policies ask for windows of some length; a record that names another one than was scored would answer falsely.
    """
    measured, corpus = record.measurement, record.measurement.corpus
    # Without a BOS token in front, a window's first token has no context and is not scored.
    scored = measured.seq_len - (measured.bos == "none")
    wrong = []
    if values.n != measured.n:
        wrong.append(f"n is {measured.n}, the files hold {values.n}")
    if values.tokens != scored:
        wrong.append(f"windows of {measured.seq_len} tokens score {scored}, the files hold {values.tokens} each")
    if measured.scored_tokens != values.n * values.tokens:
        wrong.append(f"{measured.scored_tokens} scored tokens, the files hold {values.n * values.tokens}")
    problem = VerificationError("; ".join(wrong), subject="measurement") if wrong else None
    what = "number and length of the windows against the per-token files"
    fine = f"{values.n} windows of {values.tokens} scored tokens"
    result.add("sample-size", what, problem, fine, level="re-derivable")

    wrong = []
    if corpus.windows_available != corpus.tokens // measured.seq_len:
        wrong.append(
            f"{corpus.tokens} tokens make {corpus.tokens // measured.seq_len} windows of {measured.seq_len}, "
            f"the record says {corpus.windows_available}"
        )
    if corpus.rows is None and corpus.tokens > corpus.bytes + 1:  # a file with rows may be compressed
        wrong.append(f"{corpus.tokens} tokens in {corpus.bytes} bytes of text")
    problem = VerificationError("; ".join(wrong), subject="measurement.corpus") if wrong else None
    what = "the text's windows against its tokens and bytes"
    fine = f"{corpus.windows_available} windows in {corpus.tokens} tokens"
    result.add("corpus-size", what, problem, fine)


def _documents(record: Attestation, values: TokenValues, result: Verification) -> None:
    """Windows of one document are one unit: whoever leaves the documents out turns a few units into many."""
    corpus, found = record.measurement.corpus, values.documents
    if corpus.documents is None and found is None:
        return
    wrong = None
    if found is None:
        wrong = f"the text has {corpus.documents}, the files do not say which a window comes from"
    elif corpus.documents is None:
        wrong = "the files name some, the record says that the text has none"
    elif len(set(found)) > corpus.documents:
        wrong = f"the files name {len(set(found))}, the text has {corpus.documents}"
    elif corpus.rows is not None:
        first, end = (int(part) for part in corpus.rows.split(":"))
        if not first <= found[0] <= found[-1] < end:
            wrong = f"the files name rows {found[0]} to {found[-1]}, the text's are {corpus.rows}"
    problem = VerificationError(wrong, subject="documents") if wrong else None
    what = "the windows' documents against the text's"
    fine = f"windows of {len(set(found or ()))} among {corpus.documents}"
    result.add("documents", what, problem, fine, level="re-derivable")


def _draw(record: Attestation, windows: Sequence[int], result: Verification) -> None:
    """The windows that were scored must be those that seed and text give, or the seed would mean nothing."""
    measured = record.measurement
    available, seed = measured.corpus.windows_available, measured.seed
    what = "the windows against the draw by seed and text"
    problem: VerificationError | None = None
    try:
        other = sorted(set(windows) ^ set(draw(available, measured.n, seed, measured.corpus.sha256)))
    except CorpusError as error:
        problem = VerificationError(error.message, subject="windows")
    else:
        if other:
            wrong = "scored and not drawn" if other[0] in windows else "drawn and not scored"
            problem = VerificationError(f"window {other[0]} was {wrong} by seed {seed}", subject="windows")
    fine = f"{len(windows)} of {available}, drawn by seed {seed}"
    result.add("draw", what, problem, fine, level="re-derivable")
