"""The bundles of fixtures/hostile/bundles on disk: a good one, and for each case what differs from it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinypack import tiny_pack

HOSTILE = Path(__file__).parents[1] / "fixtures" / "hostile" / "bundles"
GOOD = HOSTILE / "good"
PACK_FILES = tiny_pack()
SIGSTORE = "application/vnd.dev.sigstore.bundle.v0.3+json"


def load_cases() -> dict[str, dict[str, Any]]:
    """Name → case; the good bundle is a case as well. fixtures/make_hostile_bundles.py says what a case holds."""
    return json.loads((HOSTILE / "cases.json").read_text(encoding="utf-8"))


def derived_forms(envelope: bytes, spki: bytes) -> dict[str, bytes]:
    """The two other files that hold an attestation's envelope, for cases that store it once."""
    document = json.loads(envelope)
    if not document["signatures"]:
        return {"attestations.intoto.jsonl": envelope}
    bundle = {
        "mediaType": SIGSTORE,
        "verificationMaterial": {
            "publicKey": {"hint": base64.b64encode(hashlib.sha256(spki).digest()).decode()},
            "tlogEntries": [],
        },
        "dsseEnvelope": {
            "payload": document["payload"],
            "payloadType": document["payloadType"],
            "signatures": [{"sig": document["signatures"][0]["sig"], "keyid": ""}],
        },
    }
    return {
        "attestation.sigstore.json": json.dumps(bundle, indent=2).encode() + b"\n",
        "attestations.intoto.jsonl": envelope,
    }


@dataclass(frozen=True)
class Laid:
    """A case on disk: the words that follow ``ucaudit``, and where its parts lie."""

    case: dict[str, Any]
    bundle: Path
    trust: Path
    pack: Path
    words: tuple[str, ...]


def lay(name: str, place: Path) -> Laid:
    """Write the case ``name`` below ``place``, which is made."""
    case = load_cases()[name]
    bundle, pack = place / "bundle", place / "pack"
    shutil.copytree(GOOD, bundle)
    for relative, data in (PACK_FILES | {k: v.encode() for k, v in case.get("pack", {}).items()}).items():
        (pack / relative).parent.mkdir(parents=True, exist_ok=True)
        (pack / relative).write_bytes(data)
    for gone in case.get("remove", ()):
        (bundle / gone).unlink()
    overlay = HOSTILE / name
    if overlay.is_dir() and overlay != GOOD:
        shutil.copytree(overlay, bundle, dirs_exist_ok=True)
    if "derive" in case:
        spki = base64.b64decode(case["derive"])
        for file, data in derived_forms((bundle / "attestation.dsse.json").read_bytes(), spki).items():
            (bundle / file).write_bytes(data)
    for link, target in case.get("links", {}).items():
        (bundle / link).unlink(missing_ok=True)
        (bundle / link).symlink_to(target)
    for file, size in case.get("grow", {}).items():
        os.truncate(bundle / file, size)  # sparse: the bytes are zeros that take no disk
    for directory in case.get("directories", ()):
        (bundle / directory).mkdir()
    for fifo in case.get("fifos", ()):
        os.mkfifo(bundle / fifo)
    for index in range(case.get("fill", 0)):
        (bundle / f"report-{index}.pdf").write_bytes(b"")
    evidence = bundle
    if "zip" in case:
        evidence = place / "bundle.zip"
        _zip(bundle, evidence, case["zip"])
    trust = HOSTILE / case.get("trust", "trust.toml")
    words = ["verify", str(evidence), "--trust", str(trust), "--json"]
    if case.get("command") == "gate":
        words = ["gate", str(pack), "--evidence", str(evidence), *words[2:]]
        words += ["--policy", str(HOSTILE / case["policy"])]
    elif "pack" in case:
        words += ["--pack", str(pack)]
    return Laid(case, evidence, trust, pack, tuple(words))


def _zip(bundle: Path, out: Path, how: dict[str, Any]) -> None:
    """The bundle as an archive, made by another program than ours and then spoiled.

    ``members``: further names, each with ``planted`` as its content; ``bomb``: a report of that many zeros,
    compressed; ``link``: a report that is a link to this; ``last_first``: the other order; ``before``, ``behind``:
    bytes around the archive; ``comment``; ``renamed``: the central directory calls the last file this; ``cut``: so
    many bytes are missing at the end.
    """
    files = [(path.name, path.read_bytes()) for path in sorted(bundle.iterdir())]
    files += [(name, b"planted") for name in how.get("members", ())]
    if "bomb" in how:
        files.append(("report-zzz.pdf", bytes(how["bomb"])))
    if "link" in how:
        files.append(("report-zzz.pdf", how["link"].encode()))
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in reversed(files) if "last_first" in how else files:
            item = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            item.external_attr = 0o100644 << 16
            if "link" in how and name == "report-zzz.pdf":
                item.external_attr = 0o120777 << 16
            if "bomb" in how and name == "report-zzz.pdf":
                item.compress_type = zipfile.ZIP_DEFLATED
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a name twice
                archive.writestr(item, data)
        archive.comment = how.get("comment", "").encode()
        if "renamed" in how:
            archive.infolist()[-1].filename = how["renamed"]
    data = how.get("before", "").encode() + out.read_bytes() + how.get("behind", "").encode()
    out.write_bytes(data[: len(data) - how.get("cut", 0)])
