"""A pack on disk against the pack that a bundle attests: its files (light), its tensors (needs torch)."""

from __future__ import annotations

from pathlib import Path

from ucaudit.core.digest import FileManifest
from ucaudit.core.errors import (
    DigestMismatchError,
    InputError,
    StateDriftError,
    UnavailableError,
    VerificationError,
)
from ucaudit.core.progress import SILENT, Progress
from ucaudit.core.records import Attestation
from ucaudit.evidence.bundle import OpenBundle
from ucaudit.evidence.verify import Verification
from ucaudit.packs.opened import OpenedPack, open_pack


def check_files(
    bundle: OpenBundle, record: Attestation, pack: Path, result: Verification, progress: Progress = SILENT
) -> None:
    """Compare every file of a pack with ``pack.SHA256SUMS``: each changed, missing or added file is named."""
    opened = open_pack(pack, excludes=record.pack.excluded)
    expected = bundle.pack_manifest().by_path()
    progress.start(opened.total_bytes, "bytes", "hashing the pack")
    files = opened.file_manifest(progress=progress.advance)
    found = files.by_path()
    progress.finish()
    drift = [f"{name}: missing" for name in sorted(expected.keys() - found.keys())]
    drift += [f"{name}: not in the attested pack" for name in sorted(found.keys() - expected.keys())]
    drift += [
        f"{name}: expected sha-256 {expected[name][:16]}…, found {found[name][:16]}…"
        for name in sorted(expected.keys() & found.keys())
        if expected[name] != found[name]
    ]
    problem = (
        DigestMismatchError("; ".join(drift[:10]), subject=pack.name, hint="this is not the pack that was attested")
        if drift
        else None
    )
    fine = f"{len(found)} files agree"
    result.add("pack-files", "the pack's files against pack.SHA256SUMS", problem, fine, level="re-measured")

    if problem is None:
        _check_manifest(opened, files, record, result)


def _check_manifest(opened: OpenedPack, files: FileManifest, record: Attestation, result: Verification) -> None:
    """What the record says of the pack's own manifest is a question of files alone: it is answered again here."""
    from ucaudit.packs.codecs import open_source

    what = "the pack's files against its own manifest"
    try:
        with open_source(opened) as source:
            found = tuple(source.contradicted_claims(files)[:1000])
            says = "no-manifest" if not source.has_manifest else "no" if found else "yes"
    except (InputError, UnavailableError) as error:
        result.remark("pack-manifest", "not-checked", what, f"the pack does not open: {error}")
        return
    signed = (record.pack.matches_manifest, record.pack.contradictions)
    if signed == ("no-manifest", ()) and says == "yes":
        result.remark("pack-manifest", "warn", what, "they agree; the record does not speak of it")
        return
    problem = None
    if signed != (says, found):
        told = found[0] if found else f"found {says}, the record says {record.pack.matches_manifest}"
        problem = VerificationError(f"not what the record says: {told}", subject=opened.name)
    fine = {"yes": "they agree", "no": f"{len(found)} contradicted, as recorded", "no-manifest": "it has none"}
    result.add("pack-manifest", what, problem, fine[says], level="re-measured")


def check_state(bundle: OpenBundle, pack: Path, result: Verification, progress: Progress = SILENT) -> None:
    """Reconstruct a pack and compare every tensor with ``STATE``: each drifted tensor is named."""
    from ucaudit.packs.codecs import open_source
    from ucaudit.packs.state import reconstruct_state

    try:
        with open_source(pack) as source:
            found = reconstruct_state(source, progress=progress)
    except InputError as error:
        # A changed file was found already: that it no longer opens is part of that finding, not a new question.
        if not any(check.slug == "pack-files" for check in result.failures):
            raise
        broken = StateDriftError(f"cannot be reconstructed any more: {error}", subject=pack.name)
        result.add("pack-state", "reconstructed tensors against STATE", broken, "", level="re-measured")
        return
    drift = found.drift_from(bundle.state())
    problem = (
        StateDriftError("; ".join(drift[:10]), subject=pack.name, hint=f"{len(drift)} tensor(s) drifted")
        if drift
        else None
    )
    fine = f"{len(found.entries)} tensors agree"
    result.add("pack-state", "reconstructed tensors against STATE", problem, fine, level="re-measured")
