"""One pack before a gate: which evidence, whether it is authentic, whether the files are the attested ones, and
whether the gate's own policy is met. Every check that can be made is made, whatever failed before it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ucaudit.core.digest import FileManifest
from ucaudit.core.errors import NotFoundError, UnsignedError, VerificationError
from ucaudit.core.progress import SILENT, Progress
from ucaudit.evidence.archive import SUFFIX, bundle_directory
from ucaudit.evidence.checks import Verification
from ucaudit.evidence.gate import apply_policy
from ucaudit.evidence.policy import Policy
from ucaudit.evidence.trust import Trust
from ucaudit.evidence.verify import verify_bundle
from ucaudit.packs.compare import check_files, check_state
from ucaudit.packs.excluded import check_excluded
from ucaudit.packs.memo import DigestCache, DigestMemo
from ucaudit.packs.reading import PackReading
from ucaudit.packs.selection import Selection, select_bundle

BESIDE = ".evidence"


@dataclass(frozen=True, slots=True)
class Full:
    """How to reconstruct the pack as well.

    Attributes:
        device: where to decode: ``cpu`` or ``cuda``.
        threads: tensors decoded at a time.
        good: a good copy, from which to measure how far each drifted tensor is.
    """

    device: str = "cpu"
    threads: int | None = None
    good: Path | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """What came out.

    Attributes:
        result: every check.
        evidence: the bundle that was judged by; None if there is none.
        files: the digests of the pack's files as they lie there, for whoever signs the verdict.
    """

    result: Verification
    evidence: Path | None = None
    files: FileManifest | None = None


def evidence_beside(pack: Path) -> Path:
    """Where evidence is looked for if nobody says where: ``PACK.evidence``, a directory or a ``.zip``."""
    place, archive = place_beside(pack), place_beside(pack, SUFFIX)
    return archive if archive.exists() and not place.exists() else place


def place_beside(pack: Path, suffix: str = "") -> Path:
    """``PACK.evidence`` and a suffix; of ``.``, beside the working directory."""
    named = pack if pack.name not in ("", "..") else pack.resolve()
    return named.with_name(named.name + BESIDE + suffix)


def judge_pack(
    pack: Path,
    evidence: Path | None,
    policy: Policy,
    trust: Trust,
    *,
    full: Full | None = None,
    memo: DigestMemo | None = None,
    progress: Progress = SILENT,
    threads: int | None = None,
    begun: PackReading | None = None,
) -> Judged:
    """Judge one pack.

    Args:
        pack: a directory or a ``.gguf`` file.
        evidence: a bundle, its ``.zip``, or a directory of bundles; what lies beside the pack by default.
        policy: the gate's own.
        trust: the gate's trust file.
        full: also reconstruct the pack.
        memo: what is known of files already, maybe from an earlier run.
        progress: told about hashed and decoded bytes.
        threads: files hashed at a time.
        begun: the pack, if somebody has begun to hash it, with a memo, progress and threads of its own.

    Raises:
        InputError: pack or evidence is malformed, or changes while it is read: nothing can be said.
        UnavailableError: ``full`` without the libraries or the device for it.
    """
    if not pack.exists():
        raise NotFoundError(
            "no such pack", subject=str(pack), hint="give the directory of the pack, or a .gguf file"
        )
    place = evidence if evidence is not None else evidence_beside(pack)
    exclude = policy.gate.exclude
    with begun or PackReading(pack, memo=memo, progress=progress, threads=threads) as reading:
        reading.begin(exclude)
        if evidence is None and not place.exists():
            missing = UnsignedError("no such directory or .zip", subject=str(place))
            return Judged(_unsigned(missing), None, reading.manifest(exclude))
        with bundle_directory(place) as directory:
            try:
                selection = select_bundle(directory, reading, trust, excludes=exclude)
            except UnsignedError as error:
                return Judged(_unsigned(error), None, reading.manifest(exclude))
            result = _judge(selection, reading, policy, trust, full, progress)
        left_out = result.record.pack.excluded if result.record is not None else exclude
        files = reading.manifest(exclude if result.found_by("excluded-files") else left_out)
    if isinstance(memo, DigestCache) and memo.hits:
        detail = f"{memo.hits} digest(s) were taken from {memo.path.name}, and those files not read"
        result.remark("cache", "warn", "files known from an earlier run", detail)
    return Judged(result, place if directory != place else selection.bundle.path, files)


def _judge(
    selection: Selection,
    reading: PackReading,
    policy: Policy,
    trust: Trust,
    full: Full | None,
    progress: Progress,
) -> Verification:
    bundle, pack = selection.bundle, reading.path
    result = verify_bundle(bundle, trust)
    for name, reason in selection.passed_over:
        result.remark("evidence", "warn", f"{name} beside the bundle", reason)
    record = result.record
    if record is None:
        return result
    if check_excluded(record, pack, result, allowed=policy.gate.exclude):
        check_files(bundle, record, reading, result)
        if full is not None:
            check_state(bundle, pack, result, progress, device=full.device, threads=full.threads, good=full.good)
    apply_policy(result, policy)
    return result


def _unsigned(error: UnsignedError) -> Verification:
    """No evidence is a finding about the pack, not a failure to look."""
    result = Verification()
    problem = VerificationError(error.message, subject=error.subject, hint=error.hint, reason="unsigned")
    result.add("evidence", "evidence for this pack", problem, "")
    return result
