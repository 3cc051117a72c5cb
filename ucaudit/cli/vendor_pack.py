"""What ``ucaudit inspect`` prints about a vendor's pack, whose payload cannot be decoded here. Light."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ucaudit.cli.common import Output, printable, table
from ucaudit.core.errors import EXIT_FAIL, EXIT_PASS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ucaudit.packs.opened import OpenedPack


def inspect_vendor(pack: OpenedPack, registry: Path | None, out: Output) -> Sequence[str]:
    """Print structure, digests, fingerprint and claims; returns what contradicts the pack's own claims."""
    from ucaudit.packs.codecs import available
    from ucaudit.packs.detect import VENDOR
    from ucaudit.packs.vendor import names_of, read_vendor_pack, registry_claims

    progress = out.progress
    progress.start(pack.total_bytes, "bytes", "hashing the pack")
    files = pack.file_manifest(progress=progress.advance)
    progress.finish()
    found = read_vendor_pack(pack, files)
    published = registry_claims(registry, names_of(pack, found)) if registry is not None else []
    code = EXIT_FAIL if found.contradictions else EXIT_PASS
    decodable = VENDOR in available()
    document: dict[str, Any] = {
        "name": pack.name,
        "codec": VENDOR,
        "decodable": decodable,
        "packDigest": files.digest,
        "files": len(pack.files),
        "bytes": pack.total_bytes,
        "vendorFingerprint": found.fingerprint,
        "fingerprintCovers": list(found.covered),
        "outsideFingerprint": list(found.outside),
        "declaredLayers": found.declared_layers,
        "layerFiles": len(found.layers),
        "claims": found.claims,
        "publishedClaims": published,
        "contradictions": list(found.contradictions),
        "notes": list(found.notes),
    }
    rows = [
        ("pack", pack.name),
        ("codec", f"{VENDOR} ({'a plug-in decodes it' if decodable else 'its payload cannot be decoded here'})"),
        ("files", f"{len(pack.files)}, {pack.total_bytes:,} bytes"),
        ("layers", f"{len(found.layers)} files, {found.declared_layers} declared"),
        *((f"claims {key}", str(value)) for key, value in found.claims.items()),
        *(("published", _published(record)) for record in published),
        ("pack digest", files.digest),
        (
            "fingerprint",
            f"{found.fingerprint} (the vendor's, over {len(found.covered)} of {len(files.entries)} files)",
        ),
        *(("outside it", path) for path in found.outside),
        *(("note", sentence) for sentence in found.notes),
        *(("contradiction", sentence) for sentence in found.contradictions),
    ]
    if registry is not None and not published:
        rows.insert(4, ("published", f"nothing about this pack in {registry.name}"))
    width = max(80, shutil.get_terminal_size((80, 24)).columns)
    out.result(document, table([(label, printable(value)) for label, value in rows], wrap=width), code=code)
    return found.contradictions


def _published(record: dict[str, Any]) -> str:
    asked = ", ".join(f"{key} {record[key]}" for key in ("n", "seq_len", "seed") if key in record)
    return (
        f"ratio {record['ppl_ratio']} for {record.get('model', record.get('hf'))} ({asked}); a claim, not checked"
    )
