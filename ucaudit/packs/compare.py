"""A pack on disk against the pack that a bundle attests: its files (light), its tensors (needs torch)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Final

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
from ucaudit.packs.excluded import TENSOR_SUFFIXES
from ucaudit.packs.opened import OpenedPack
from ucaudit.packs.reading import PackReading

if TYPE_CHECKING:
    from ucaudit.packs.codecs import TensorSource

_NAMED: Final = 10
_OWN_FILES: Final = frozenset({"STATE", "manifest.json", "model.safetensors.index.json"})
_FORMAT: Final = "codec and bits a weight against the pack"


def check_files(
    bundle: OpenBundle,
    record: Attestation,
    pack: Path | PackReading,
    result: Verification,
    progress: Progress = SILENT,
) -> None:
    """Compare every file of a pack with ``pack.SHA256SUMS``: each changed, missing or added file is named.

    If they agree, what the record says of the pack's format, size, manifest and published state is compared too.

    Args:
        bundle, record: the evidence.
        pack: where it lies, or one whose hashing has begun.
        result: gets the checks.
        progress: told about hashed bytes, unless ``pack`` has a progress of its own.

    Raises:
        InputError: the files are the attested ones, and are no well-formed pack.
    """
    reading = pack if isinstance(pack, PackReading) else PackReading(pack, progress=progress)
    opened = reading.opened(record.pack.excluded)
    expected = bundle.pack_manifest().by_path()
    files = reading.manifest(record.pack.excluded)
    found = files.by_path()
    _check_subject(expected, found, record, opened.name, result)
    drift = [f"{name}: missing" for name in sorted(expected.keys() - found.keys())]
    drift += [f"{name}: not in the attested pack" for name in sorted(found.keys() - expected.keys())]
    drift += [
        f"{name}: expected sha-256 {expected[name][:16]}…, found {found[name][:16]}…"
        for name in sorted(expected.keys() & found.keys())
        if expected[name] != found[name]
    ]
    problem = (
        DigestMismatchError(
            _some(drift), subject=opened.name, hint="this is not the pack that was attested", reason="file-drift"
        )
        if drift
        else None
    )
    fine = f"{len(found)} files agree"
    what = "the pack's files against pack.SHA256SUMS"
    result.add("pack-files", what, problem, fine, level="re-measured", items=tuple(drift))
    if problem is None:
        _check_content(opened, files, bundle, record, result)


def _check_subject(
    expected: dict[str, str], found: dict[str, str], record: Attestation, name: str, result: Verification
) -> None:
    """Whether the evidence is about this pack at all, by the digests of what makes a pack; names do not matter.

    Two packs share a tokenizer and a licence easily, but no tensor file and no manifest. If none of those is an
    attested one, somebody showed the evidence of another pack. (A pack of one such file may have drifted as well.)
    """
    own = {
        path: digest
        for path, digest in expected.items()
        if path[path.rfind(".") :].lower() in TENSOR_SUFFIXES or path in _OWN_FILES
    } or expected
    here = set(own.values()) & set(found.values())
    what, several = "whether the evidence is about this pack", len(set(own.values()))
    if not here and several == 1 and next(iter(own)) in found:
        result.remark(
            "pack-subject", "not-checked", what, "its one tensor file is another: drifted, or another pack's"
        )
        return
    problem = None
    if not here:
        told = f"the evidence is about {record.pack.name}: none of its {several} tensor files and manifests is here"
        hint = "ask for the evidence of this pack"
        problem = DigestMismatchError(told, subject=name, hint=hint, reason="replayed-evidence")
    called = "" if record.pack.name == name else f"; attested as {record.pack.name}, matched by digest"
    fine = f"{len(here)} of {several} tensor files and manifests are attested ones{called}"
    result.add("pack-subject", what, problem, fine, level="re-measured")


def _some(sentences: list[str]) -> str:
    """The first ten, and how many more there are."""
    more = len(sentences) - _NAMED
    return "; ".join([*sentences[:_NAMED], *([f"and {more} more"] if more > 0 else [])])


def _check_content(
    opened: OpenedPack, files: FileManifest, bundle: OpenBundle, record: Attestation, result: Verification
) -> None:
    """What the pack's files alone can answer is not taken from the record: it is answered again here."""
    from ucaudit.packs.codecs import open_source

    try:
        source = open_source(opened)
    except UnavailableError as error:
        result.remark("pack-format", "not-checked", _FORMAT, f"the pack cannot be opened here: {error}")
        return
    with source:
        _use_recorded_profile(source, record)
        _check_format(source, record, result)
        _check_manifest(source, files, record, result)
        _check_published(source, bundle, record, result)


def _use_recorded_profile(source: TensorSource, record: Attestation) -> None:
    """Decode as the record says it was decoded; a profile that the codec lacks is found to differ."""
    if record.pack.arithmetic_profile in source.profiles:
        source.use_profile(record.pack.arithmetic_profile)


def _check_format(source: TensorSource, record: Attestation, result: Verification) -> None:
    said, counted = record.pack, source.bits_per_weight()
    facts: list[tuple[str, str | int | float | None, str | int | float | None]] = [
        ("codec", said.codec, source.codec),
        ("codec version", said.codec_version, source.codec_version),
        ("arithmetic profile", said.arithmetic_profile, source.arithmetic_profile),
        ("bytes", said.bytes, source.pack.total_bytes),
    ]
    facts += [
        (f"bits a weight, {name.replace('_', ' ')}", getattr(said.bits_per_weight, name), getattr(counted, name))
        for name in type(counted).model_fields
    ]
    wrong = [
        f"{name}: the record says {signed}, the pack has {found}"
        for name, signed, found in facts
        if signed != found
        and not (isinstance(signed, float) and isinstance(found, float) and math.isclose(signed, found))
    ]
    problem = VerificationError("; ".join(wrong), subject=source.pack.name) if wrong else None
    fine = f"{source.codec}, profile {source.arithmetic_profile}, {counted.whole_on_disk:.4g} bits a weight in all"
    result.add("pack-format", _FORMAT, problem, fine, level="re-measured")


def _check_manifest(source: TensorSource, files: FileManifest, record: Attestation, result: Verification) -> None:
    what = "the pack's files against its own manifest"
    found = tuple(source.contradicted_claims(files)[:1000])
    says = "no-manifest" if not source.has_manifest else "no" if found else "yes"
    signed = (record.pack.matches_manifest, record.pack.contradictions)
    if signed == ("no-manifest", ()) and says == "yes":
        result.remark("pack-manifest", "warn", what, "they agree; the record does not speak of it")
        return
    problem = None
    if signed != (says, found):
        told = found[0] if found else f"found {says}, the record says {record.pack.matches_manifest}"
        problem = VerificationError(f"not what the record says: {told}", subject=source.pack.name)
    fine = {"yes": "they agree", "no": f"{len(found)} contradicted, as recorded", "no-manifest": "it has none"}
    result.add("pack-manifest", what, problem, fine[says], level="re-measured")


def _check_published(source: TensorSource, bundle: OpenBundle, record: Attestation, result: Verification) -> None:
    """The state that the pack publishes against ``STATE``, which ``--full`` compares with the tensors."""
    what = "the state that the pack publishes against the record"
    if result.found_by("artefact"):
        result.remark("published-state", "not-checked", what, "the bundle's files are not the signed ones")
        return
    published, said = source.published_state(), record.reconstruction
    drift = bundle.state().drift_from(published) if published is not None else []
    says = "none-published" if published is None else "no" if drift else "yes"
    names = tuple(line.split(":")[0] for line in drift[:1000])
    problem = None
    if (said.matches_published, said.drifted) != (says, names):
        told = f"{drift[0]}" if drift else f"found {says}, the record says {said.matches_published}"
        problem = VerificationError(f"not what the record says: {told}", subject=source.pack.name)
    fine = {
        "yes": "they agree",
        "no": f"{len(drift)} tensor(s) drifted, as recorded",
        "none-published": "it publishes none",
    }
    result.add("published-state", what, problem, fine[says], level="re-measured")


def check_state(
    bundle: OpenBundle,
    pack: Path,
    result: Verification,
    progress: Progress = SILENT,
    *,
    device: str = "cpu",
    threads: int | None = None,
    good: Path | None = None,
) -> None:
    """Reconstruct a pack and compare every tensor with ``STATE``: each drifted tensor is named.

    Args:
        bundle: with its ``STATE``.
        pack: the pack on disk.
        result: gets the check.
        progress: told about decoded bytes.
        device: where to decode.
        threads: tensors decoded at a time.
        good: a copy of the attested pack, or a checkpoint that was reconstructed from it: then it is also said how
            far each drifted tensor is from it. A digest alone says only that it drifted.

    Raises:
        InputError: the files are the attested ones and do not decode, or ``good`` is no pack.
    """
    from ucaudit.packs.codecs import open_source
    from ucaudit.packs.drift import measure_drift
    from ucaudit.packs.state import reconstruct_state

    what = "reconstructed tensors against STATE"
    expected = bundle.state()
    try:
        with open_source(pack) as source:
            _use_recorded_profile(source, bundle.record)
            found = reconstruct_state(source, device=device, progress=progress, threads=threads)
            drift = found.drift_from(expected)
            if drift and good is not None:
                far = measure_drift(source, found, expected, good, device=device)
                drift = [line + far.get(line.rpartition(": ")[0], "") for line in drift]
    except InputError as error:
        # A changed file was found already: that it no longer opens is part of that finding, not a new question.
        if not result.found_by("pack-files"):
            raise
        broken = StateDriftError(f"cannot be reconstructed any more: {error}", subject=pack.name)
        result.add("pack-state", what, broken, "", level="re-measured")
        return
    problem = None
    if drift:
        hint = f"{len(drift)} tensor(s) drifted"
        if good is None:
            hint += "; a good copy of the pack tells how far"
        problem = StateDriftError(_some(drift), subject=pack.name, hint=hint)
    fine = f"{len(found.entries)} tensors agree"
    result.add("pack-state", what, problem, fine, level="re-measured", items=tuple(drift))
