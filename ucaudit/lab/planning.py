"""Drafting a plan: which pack, which reference, which text, how much of it, and what will be judged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ucaudit import __version__
from ucaudit.core.digest import FileManifest, sha256_file
from ucaudit.core.errors import CorpusError, RefusedError
from ucaudit.core.progress import SILENT, Progress
from ucaudit.core.records import Plan, PlannedPack, Tool, now
from ucaudit.evidence.policy import LoadedPolicy
from ucaudit.lab.texts import Corpus, load_corpus
from ucaudit.packs.codecs import open_source
from ucaudit.packs.opened import OpenedPack, open_pack


def resolve_corpus(policy: LoadedPolicy, corpus: Path | None) -> Path:
    """The evaluation text: the one given, else the policy's. Its digest must be the policy's, if that pins one.

    Raises:
        CorpusError: none is named, or it is another text than the policy pins.
        NotFoundError: there is no such file.
    """
    path = corpus or policy.corpus_path()
    if path is None:
        raise CorpusError(
            "no evaluation text", subject=str(policy.path), hint="give --corpus or [measurement] corpus"
        )
    pinned = policy.policy.measurement.corpus_sha256
    found = sha256_file(path)
    if pinned is not None and pinned != found:
        raise CorpusError(f"the policy pins sha-256 {pinned}, found {found}", subject=str(path))
    return path


def evaluation_text(policy: LoadedPolicy, corpus: Path | None) -> Corpus:
    """The evaluation text as the policy has it read: which column, which rows.

    Raises:
        CorpusError, InputError, UnavailableError: as :func:`resolve_corpus` and ``load_corpus``.
    """
    rules = policy.policy.measurement
    return load_corpus(resolve_corpus(policy, corpus), column=rules.text_column, rows=rules.rows)


def require_distinct(pack: OpenedPack, reference: OpenedPack) -> None:
    """Refuse one directory given twice, before a byte is hashed. Raises RefusedError."""
    if (pack.root, pack.files) == (reference.root, reference.files):
        raise _same(pack.name)


def require_other_files(pack: FileManifest, reference: FileManifest, *, subject: str) -> None:
    """Refuse a pack that is its own reference: a ratio of 1 that means nothing. Raises RefusedError."""
    if pack.digest == reference.digest:
        raise _same(subject)


def _same(subject: str) -> RefusedError:
    return RefusedError(
        "pack and reference are the same files", subject=subject, hint="give the uncompressed model as --reference"
    )


def draft_plan(
    pack: Path,
    reference: Path,
    policy: LoadedPolicy,
    corpus: Path | None,
    *,
    perturbations: Sequence[str] = (),
    outside_seed: bool = False,
    progress: Progress = SILENT,
) -> Plan:
    """Digest what will be measured, and fix how.

    Args:
        pack, reference: directories, or a ``.gguf`` file.
        policy: sample size, claims and exclusions come from it.
        corpus: the evaluation text, by default the policy's.
        perturbations: what else will be measured on the same windows, in words.
        outside_seed: an outside party fixes the seed once the plan is in the ledger; the policy's is not used.
        progress: told about the bytes hashed.

    Raises:
        InputError, UnavailableError: see :func:`ucaudit.packs.codecs.open_source`.
    """
    text = resolve_corpus(policy, corpus)
    rules = policy.policy.measurement
    opened = open_pack(pack, excludes=policy.policy.gate.exclude)
    with open_source(opened) as source:
        progress.start(opened.total_bytes, "bytes", "hashing the pack")
        pack_files = opened.file_manifest(progress=progress.advance)
        progress.finish()
        profile = source.arithmetic_profile
        publishes_state = source.published_state() is not None
        has_manifest = source.has_manifest
    with open_pack(reference) as original:
        progress.start(original.total_bytes, "bytes", "hashing the reference")
        reference_files = original.file_manifest(progress=progress.advance)
        progress.finish()
    require_other_files(pack_files, reference_files, subject=str(pack))
    return Plan(
        created=now(),
        tool=Tool(name="ucaudit", version=__version__),
        pack=PlannedPack(name=opened.name, pack_digest=pack_files.digest, arithmetic_profile=profile),
        reference_name=original.name,
        reference_files_digest=reference_files.digest,
        corpus_name=text.name,
        corpus_sha256=sha256_file(text),
        n=rules.n,
        seq_len=rules.seq_len,
        seed=rules.seed,
        dtype=rules.dtype,
        claims=policy.policy.planned_claims(publishes_state=publishes_state, has_manifest=has_manifest),
        perturbations=tuple(perturbations),
        policy_sha256=policy.sha256,
        outside_seed=outside_seed,
    )
