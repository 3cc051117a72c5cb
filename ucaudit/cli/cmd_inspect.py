"""``ucaudit inspect``: what a pack is and what it claims, without torch."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ucaudit.cli.common import Output, arithmetic_option, output_options, printable, table
from ucaudit.cli.paths import PATH
from ucaudit.core.errors import EXIT_FAIL, EXIT_PASS, DigestMismatchError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ucaudit.packs.codecs import TensorSource
    from ucaudit.packs.inspection import Inspection


@click.command()
@click.argument("pack", type=PATH)
@click.option("--tensors", "list_tensors", is_flag=True, help="List every tensor.")
@click.option("--no-hash", is_flag=True, help="Do not hash the files.")
@click.option("--registry", type=PATH, help="For a vendor's pack: a copy of its published claims.")
@arithmetic_option
@output_options
def inspect(
    pack: Path, list_tensors: bool, no_hash: bool, registry: Path | None, arithmetic: str | None, out: Output
) -> int:
    """Say what a PACK is and what it claims.

    PACK is a directory or a .gguf file. Files are hashed and compared with the
    pack's own manifest; no tensor is decoded. Exits 1 if the pack contradicts
    its manifest.
    """
    from ucaudit.packs.codecs import open_source
    from ucaudit.packs.detect import VENDOR, detect_format
    from ucaudit.packs.inspection import inspect_source
    from ucaudit.packs.opened import open_pack

    opened = open_pack(pack)
    contradictions: Sequence[str]
    if detect_format(opened).name == VENDOR:
        from ucaudit.cli.vendor_pack import inspect_vendor

        contradictions = inspect_vendor(opened, registry, out)
    else:
        with open_source(opened, profile=arithmetic) as source:
            found = inspect_source(source, hash_files=not no_hash, progress=out.progress)
            contradictions = found.contradictions
            code = EXIT_FAIL if contradictions else EXIT_PASS
            out.result(_document(source, found), _text(source, found, list_tensors), code=code)
    if not contradictions:
        return EXIT_PASS
    more = len(contradictions) - 1
    out.finding(
        DigestMismatchError(
            contradictions[0] + (f" (and {more} more)" if more else ""),
            subject=pack.name,
            hint="the pack was changed after it was made, or is damaged: compare it with where it came from",
        )
    )
    return EXIT_FAIL


def _document(source: TensorSource, found: Inspection) -> dict[str, Any]:
    published = found.published
    return {
        "name": source.pack.name,
        "codec": source.codec,
        "codecVersion": source.codec_version,
        "arithmeticProfile": source.arithmetic_profile,
        "arithmeticProfiles": list(source.profiles or (source.arithmetic_profile,)),
        "packDigest": found.files.digest if found.files else None,
        "files": len(source.pack.files),
        "bytes": source.pack.total_bytes,
        "parameters": source.parameters,
        "bitsPerWeight": source.bits_per_weight().model_dump(by_alias=True),
        "license": found.provenance.license,
        "source": found.provenance.source,
        "settings": found.provenance.settings,
        "publishedState": published.digest if published else None,
        "ties": [list(tie) for tie in source.ties],
        "unclaimedFiles": list(source.unclaimed()),
        "contradictions": found.contradictions,
        "tensors": [{"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)} for spec in source.specs],
    }


def _text(source: TensorSource, found: Inspection, list_tensors: bool) -> str:
    bits = source.bits_per_weight()
    numbers = [f"{bits.whole_on_disk:.3f} on disk in all"]
    if bits.compressed_on_disk is not None:
        numbers.insert(0, f"{bits.compressed_on_disk:.3f} for compressed tensors")
    if bits.nominal is not None:
        numbers.insert(0, f"{bits.nominal:g} nominal")
    dtypes = Counter(spec.dtype for spec in source.specs)
    rows = [
        ("pack", source.pack.name),
        ("codec", f"{source.codec} {source.codec_version}"),
        ("profile", _profiles(source)),
        ("files", f"{len(source.pack.files)}, {source.pack.total_bytes:,} bytes"),
        (
            "tensors",
            f"{len(source.specs)} ({', '.join(f'{count} {name}' for name, count in sorted(dtypes.items()))})",
        ),
        ("parameters", f"{source.parameters:,}"),
        ("bits/weight", ", ".join(numbers)),
        ("licence", found.provenance.license or "not stated"),
    ]
    rows += [("source", found.provenance.source)] if found.provenance.source else []
    rows += [("tied", f"{alias} = {stored}") for alias, stored in source.ties]
    if found.files is not None:
        rows.append(("pack digest", found.files.digest))
    rows.append(("published", found.published.digest if found.published else "none"))
    rows += [("unclaimed", path) for path in source.unclaimed()]
    rows += [("contradiction", sentence) for sentence in found.contradictions]
    width = max(80, shutil.get_terminal_size((80, 24)).columns)
    lines = [table([(label, printable(value)) for label, value in rows], wrap=width)]
    if list_tensors:
        shapes = [(spec.dtype, "x".join(map(str, spec.shape)) or "scalar", spec.name) for spec in source.specs]
        lines.append(table(shapes, header=("dtype", "shape", "tensor")))
    return "\n\n".join(lines)


def _profiles(source: TensorSource) -> str:
    others = [name for name in source.profiles if name != source.arithmetic_profile]
    return source.arithmetic_profile + (f" (also: {', '.join(others)})" if others else "")
