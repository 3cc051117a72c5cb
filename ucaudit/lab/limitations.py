"""What a reader must know before relying on a record: derived from the record, never left out."""

from __future__ import annotations

from ucaudit.core.records import Attestation, Limitation


def limitations_of(record: Attestation, *, on_ledger: bool) -> tuple[Limitation, ...]:
    """The limitations that apply to a record, the most particular first.

    Args:
        record: complete but for its limitations.
        on_ledger: whether the record will be entered in a ledger.
    """
    measured = record.measurement
    found: list[tuple[str, str]] = []
    if record.reference.note:
        found.append(("reference-origin", record.reference.note))
    if record.pack.unclaimed_files:
        listed = ", ".join(record.pack.unclaimed_files[:5])
        found.append(
            (
                "unclaimed-files",
                f"{len(record.pack.unclaimed_files)} file(s) of the pack are not claimed by its manifest ({listed})"
                " and are unknown; the pack digest covers them.",
            )
        )
    found.append(
        (
            "one-corpus",
            f"The result is about {measured.corpus.name}: {measured.n} of its {measured.corpus.windows_available} "
            f"windows of {measured.seq_len} tokens. Another text gives another ratio, often by more than this "
            "interval's width.",
        )
    )
    found.append(
        (
            "not-task-quality",
            "Perplexity, KL divergence and top-1 agreement compare next-token predictions. Equal perplexity "
            "does not mean equal quality in a task, equal safety behaviour, or equal outcomes.",
        )
    )
    search = measured.overlap_search
    if measured.calibration_overlap == "forced":
        share = ""
        if search is not None:
            share = f" ({search.shared} of {search.ngrams} runs of {search.ngram_words} words)"
        found.append(
            (
                "calibration-overlap",
                f"The evaluation text is the pack's own calibration text or shares passages with it{share}; the "
                "result is flattered.",
            )
        )
    elif search is not None and measured.calibration_overlap == "none-found":
        found.append(
            (
                "calibration-text",
                f"The encoder saw a text that shares no run of {search.ngram_words} words with the measured "
                "windows. Whether it saw others, only the pack's maker knows.",
            )
        )
    elif record.pack.calibration is not None:
        found.append(
            (
                "calibration-text",
                f"The encoder saw {record.pack.calibration.name}, as the pack states it. The evaluation text is "
                "another file; overlap of passages between the two was not searched for.",
            )
        )
    if record.plan is None:
        found.append(
            (
                "not-planned",
                "The measurement was not pre-registered. Somebody may have measured before, and kept the best run.",
            )
        )
    elif record.plan.seed is not None:
        found.append(
            (
                "seed-from-outside",
                f"The seed of the windows follows from what {record.plan.seed.contributor} contributed after the "
                "plan was committed, so these windows could not be tried before. Other windows of the text could.",
            )
        )
    else:
        found.append(
            (
                "planned-privately",
                "The plan was in the ledger before this result. A private measurement before it would not show.",
            )
        )
    time = (
        "The ledger may be run by the signer. Without an outside witness's cosignature it proves consistency with "
        "checkpoints that somebody else kept, not the time."
        if on_ledger
        else "The record is in no ledger, so nothing shows whether other results were left out."
    )
    found.append(("no-trusted-time", f"{time} The time of signing is the signer's own word."))
    found.append(
        (
            "self-reported",
            "The per-token values were computed by the signer. The figures follow from them by recomputation; that "
            "they came from this pack is shown only by measuring again.",
        )
    )
    return tuple(Limitation(id=slug, text=text) for slug, text in found)
