"""ucaudit beside OpenSSF ``model-signing``: what each accepts of a signed directory, and how long it takes.

    python benchmarks/signing.py [--megabytes 512] [--runs 7] [--work build/signing] [--json]

Both are installed into environments of their own below ``--work`` (pip's index is asked). Then, on the same files:

- **answers**: the directory is signed by each, changed in one way, and verified by each;
- **times**: signing and verifying, cold start, in turns, so that a busy moment weighs on both: the best time, and
  the median of processor time;
- **size**: of the two environments, without pip and setuptools;
- **digests**: ucaudit's against ``openssl dgst -sha256``, one core each, and over several files with more cores.

Prints Markdown tables. The two do not do the same: ucaudit's bundle here holds made-up measurements, ledger proofs
and 13 files, and all of them are verified; model-signing signs the directory alone.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from bundles import Setting, make_bundle  # noqa: E402
from cryptography import x509  # noqa: E402
from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec, ed25519  # noqa: E402
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID  # noqa: E402

from ucaudit.evidence.keys import generate, load_signer  # noqa: E402
from ucaudit.evidence.ledger import Ledger  # noqa: E402
from ucaudit.evidence.trust import add_key, add_ledger  # noqa: E402
from ucaudit.evidence.trust.edit import revoke  # noqa: E402
from ucaudit.packs.opened import open_pack  # noqa: E402

MESSAGE = 130
"""Characters of an error message that are shown."""

OTHER = ("model-signing==1.1.1", "pyOpenSSL==26.4.0")
"""pyOpenSSL is imported by model-signing 1.1.1 and not declared: without it, its command does not start."""

SIGN = """
import sys
from pathlib import Path
from ucaudit.core.files import write_bytes
from ucaudit.core.records import BundleClosing, Tool, make_statement, now
from ucaudit.core.records.statement import Subject
from ucaudit.evidence.keys import load_signer
from ucaudit.evidence.signing import sign
from ucaudit.packs.opened import open_pack
files = open_pack(Path(sys.argv[1])).file_manifest()
tool = Tool(name="ucaudit", version="0")
said = BundleClosing(created=now(), tool=tool, attestation_digest=files.digest, files=1)
statement = make_statement(said, [Subject("pack.SHA256SUMS", files.digest)])
write_bytes(Path(sys.argv[3]), sign(statement.to_bytes(), load_signer(sys.argv[2]), subject="x").raw)
"""
"""Hash a directory, sign the digest of its manifest, write the envelope: signing without a measurement."""

HASH = """
import sys, time
from pathlib import Path
from ucaudit.packs.opened import open_pack
pack = open_pack(Path(sys.argv[1]))
began, worked = time.perf_counter(), time.process_time()
pack.file_manifest(threads=int(sys.argv[2]))
print(time.perf_counter() - began, time.process_time() - worked)
"""


@dataclass
class Answer:
    """What a tool says of a directory."""

    accepts: bool | None
    """None: there is no such thing to ask it."""
    says: str

    def __str__(self) -> str:
        if self.accepts is None:
            return f"– ({self.says})"
        return "**accepts**" if self.accepts else f"refuses: {self.says}"


def run(words: list[object]) -> Answer:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    said = next((line for line in lines if "rror" in line or "ailed" in line), lines[-1] if lines else "")
    said = re.sub(r"(?<![\w.])/\S*/", "", said.strip().replace("|", "/").removeprefix("ucaudit: error: "))
    return Answer(done.returncode == 0, said if len(said) <= MESSAGE else said[:MESSAGE] + "…")


class Ours:
    """ucaudit: a bundle, and a trust file that names its key."""

    def __init__(self, environment: Path, place: Path, *, password: str | None = None) -> None:
        self.python, self.program = environment / "bin" / "python", environment / "bin" / "ucaudit"
        self.place = place
        secret = password.encode() if password else None
        private, _, self.key = generate(place / "keys", "signer", password=secret)
        self.private = private
        self.signer = load_signer(str(private), password=secret)
        Ledger.init(place / "ledger", "bench.invalid/log", self.signer)
        self.trust = self.trusting(self.key)

    def trusting(self, key: object, **how: object) -> Path:
        """A trust file for a key."""
        trust = self.place / f"trust-{len(list(self.place.glob('trust-*')))}.toml"
        add_key(trust, key, "signer@bench.invalid", roles=("developer",), **how)  # type: ignore[arg-type]
        ledger = Ledger.open(self.place / "ledger")
        add_ledger(trust, ledger.origin, ledger.vkey)
        return trust

    def sign(self, directory: Path) -> Path:
        """A bundle whose record cites the directory's files."""
        bundle = self.place / f"bundle-{len(list(self.place.glob('bundle-*')))}"
        setting = Setting(self.place, self.signer, self.trust, self.place / "ledger", directory)
        return make_bundle(setting, bundle, manifest=open_pack(directory).file_manifest())

    def verify_words(self, directory: Path, bundle: Path, trust: Path | None = None) -> list[object]:
        return [self.program, "verify", bundle, "--trust", trust or self.trust, "--pack", directory, "--quiet"]

    def sign_words(self, directory: Path) -> list[object]:
        return [self.python, "-c", SIGN, directory, self.private, self.place / "envelope.json"]


class Theirs:
    """model-signing with a bare key: P-256, the kind it makes."""

    def __init__(self, environment: Path, place: Path) -> None:
        self.program, self.place = environment / "bin" / "model_signing", place
        self.private, self.public = write_key(place, "p256", ec.generate_private_key(ec.SECP256R1()))

    def sign_words(self, directory: Path, private: Path | None = None, signature: str = "sig") -> list[object]:
        key = ["--private_key", private or self.private]
        return [self.program, "sign", "key", *key, "--signature", self.place / signature, directory]

    def verify_words(self, directory: Path, public: Path | None = None, signature: str = "sig") -> list[object]:
        key = ["--public_key", public or self.public]
        return [self.program, "verify", "key", *key, "--signature", self.place / signature, directory]


def write_key(place: Path, name: str, key: object, password: bytes | None = None) -> tuple[Path, Path]:
    """Private and public key as PEM."""
    form = serialization
    guard = form.BestAvailableEncryption(password) if password else form.NoEncryption()
    private, public = place / f"{name}.pem", place / f"{name}.pub"
    private.write_bytes(key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, guard))  # type: ignore[attr-defined]
    spki = key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]
    public.write_bytes(spki)
    return private, public


def write_chain(place: Path, *, expired: bool) -> tuple[Path, Path, Path]:
    """A code-signing certificate, its key, and the authority that issued it."""
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("bench ca", "bench signer")]
    made = []
    for index, (key, name) in enumerate(zip(keys, names, strict=True)):
        leaf = index == 1
        end = now - day if leaf and expired else now + 100 * day
        usage = x509.KeyUsage(leaf, False, False, False, False, not leaf, not leaf, False, False)
        builder = (
            x509.CertificateBuilder(names[0], name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - 50 * day)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(not leaf, None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(keys[0].public_key()), critical=False)
        )
        if leaf:
            builder = builder.add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False
            )
        made.append(builder.sign(keys[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    word = "expired" if expired else "valid"
    private, _ = write_key(place, f"leaf-{word}", keys[1])
    ca, leaf_path = place / f"ca-{word}.pem", place / f"leaf-{word}.crt"
    ca.write_bytes(made[0])
    leaf_path.write_bytes(made[1])
    return private, leaf_path, ca


def write_files(directory: Path, megabytes: int, files: int) -> Path:
    """Random bytes under a checkpoint's names."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    (directory / "config.json").write_text('{"model_type": "bench"}\n')
    (directory / "tokenizer.json").write_text("{}\n")
    (directory / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    for index in range(files):
        with (directory / f"model-{index + 1:05}-of-{files:05}.safetensors").open("wb") as handle:
            for _ in range(max(1, megabytes // files)):
                handle.write(os.urandom(1 << 20))
    return directory


def edit(directory: Path) -> None:
    with sorted(directory.glob("model-*"))[0].open("r+b") as handle:
        handle.seek(1000)
        byte = handle.read(1)[0]
        handle.seek(1000)
        handle.write(bytes([byte ^ 1]))


def swap(directory: Path) -> None:
    one, two = sorted(directory.glob("model-*"))[:2]
    one.rename(directory / "aside")
    two.rename(one)
    (directory / "aside").rename(two)


def link(directory: Path) -> None:
    """The same bytes, but elsewhere, where somebody else may change them."""
    file = sorted(directory.glob("model-*"))[0]
    outside = directory.parent / f"{directory.name}-outside"
    file.rename(outside)
    file.symlink_to(outside)


def plant(directory: Path, name: str) -> None:
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")


CHANGES: dict[str, Callable[[Path], object]] = {
    "nothing": lambda d: None,
    "a bit of a weight file flipped": edit,
    "a file added": lambda d: plant(d, "extra.py"),
    "a file added under `.git/hooks/`": lambda d: plant(d, ".git/hooks/post-checkout"),
    "`.gitattributes` changed": lambda d: (d / ".gitattributes").write_text("* filter=evil\n"),
    "a file removed": lambda d: (d / "tokenizer.json").unlink(),
    "a file renamed": lambda d: (d / "tokenizer.json").rename(d / "tokenizer2.json"),
    "the names of two weight files swapped": swap,
    "a weight file replaced by a link to the same bytes elsewhere": link,
}


def answers_on_files(ours: Ours, theirs: Theirs, work: Path) -> list[tuple[str, Answer, Answer]]:
    good = write_files(work / "small", 2, 2)
    bundle = ours.sign(good)
    signed = run(theirs.sign_words(good))
    if not signed.accepts:
        raise SystemExit(f"model-signing does not sign: {signed.says}")
    rows = []
    for name, change in CHANGES.items():
        copy = work / "changed"
        shutil.rmtree(copy, ignore_errors=True)
        (work / "changed-outside").unlink(missing_ok=True)
        shutil.copytree(good, copy)
        change(copy)
        rows.append((name, run(ours.verify_words(copy, bundle)), run(theirs.verify_words(copy))))
    return rows


def answers_on_keys(ours: Ours, theirs: Theirs, work: Path) -> list[tuple[str, Answer, Answer]]:
    """Who signed, with what, and whether it still counts."""
    good = work / "small"
    bundle = ours.sign(good)
    place = work / "keys"
    place.mkdir(exist_ok=True)
    none = Answer(None, "nothing says so of a bare key")
    rows = []

    _, _, stranger = generate(fresh(work / "stranger"), "key", password=None)
    _, other_public = write_key(place, "other", ec.generate_private_key(ec.SECP256R1()))
    rows.append(
        (
            "verifier trusts another key",
            run(ours.verify_words(good, bundle, ours.trusting(stranger))),
            run(theirs.verify_words(good, other_public)),
        )
    )
    old = ours.trusting(ours.key, valid_until="2020-01-01T00:00:00Z")
    private, leaf, ca = write_chain(place, expired=False)
    chain_words: list[object] = ["--signature", place / "chain.sig", "--certificate_chain"]

    def chain(private: Path, leaf: Path, ca: Path) -> Answer:
        how = ["--private_key", private, "--signing_certificate", leaf]
        made = run([theirs.program, "sign", "certificate", *how, *chain_words, ca, good])
        return run([theirs.program, "verify", "certificate", *chain_words, ca, good]) if made.accepts else made

    rows.append(
        ("a certificate that is valid (control)", Answer(None, "takes no certificates"), chain(private, leaf, ca))
    )
    rows.append(("signed after the key expired", run(ours.verify_words(good, bundle, old)), none))
    expired = chain(*write_chain(place, expired=True))
    rows.append(("signed after the certificate expired", Answer(None, "takes no certificates"), expired))
    revoked = ours.trusting(ours.key)
    revoke(revoked, "key", 0, at="2026-01-01T00:00:00Z", reason="stolen")
    rows.append(("the key is revoked", run(ours.verify_words(good, bundle, revoked)), none))

    edwards, edwards_public = write_key(place, "ed25519", ed25519.Ed25519PrivateKey.generate())
    made = run(theirs.sign_words(good, edwards, "ed.sig"))
    theirs_edwards = run(theirs.verify_words(good, edwards_public, "ed.sig")) if made.accepts else made
    rows.append(("signed by an Ed25519 key", run(ours.verify_words(good, bundle)), theirs_edwards))
    refused = run(
        [
            ours.program,
            "countersign",
            bundle,
            "--key",
            theirs.private,
            "--name",
            "X",
            "--role",
            "validator",
            "--meaning",
            "review",
        ]
    )
    rows.append(("signed by a P-256 key", refused, run(theirs.verify_words(good))))
    locked, locked_public = write_key(place, "locked", ec.generate_private_key(ec.SECP256R1()), b"secret words")
    made = run([*theirs.sign_words(good, locked, "locked.sig")[:-1], "--password", "secret words", good])
    opened = run(theirs.verify_words(good, locked_public, "locked.sig")) if made.accepts else made
    encrypted = Ours(ours.python.parent.parent, fresh(work / "locked"), password="secret words")
    rows.append(("signed by an encrypted key", run(encrypted.verify_words(good, encrypted.sign(good))), opened))
    return rows


def fresh(directory: Path) -> Path:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


def environment(place: Path, packages: list[str]) -> Path:
    """A virtual environment with these packages, made once."""
    if not (place / "done").exists():
        shutil.rmtree(place, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        subprocess.run([place / "bin" / "python", "-m", "pip", "install", "-qq", *packages], check=True)
        subprocess.run([place / "bin" / "python", "-m", "compileall", "-q", place], check=False)
        (place / "done").write_text("")
    return place


def megabytes_installed(place: Path) -> float:
    """What was installed, without pip, setuptools and compiled bytecode."""
    skip = ("pip", "setuptools", "pkg_resources", "_distutils_hack", "__pycache__")
    packages = next(place.glob("lib/python*/site-packages"))
    found = [path for path in packages.rglob("*") if path.is_file()]
    kept = [path for path in found if not any(part.startswith(skip) for part in path.relative_to(packages).parts)]
    return sum(path.stat().st_size for path in kept) / 1e6


def packages_installed(place: Path) -> int:
    listed = subprocess.run(
        [place / "bin" / "python", "-m", "pip", "list", "--format=json"], capture_output=True, check=True
    )
    return sum(item["name"] not in ("pip", "setuptools") for item in json.loads(listed.stdout))


def timed(words: list[object]) -> tuple[float, float]:
    """Wall and processor seconds of a command, which must succeed."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([str(word) for word in words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    took, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def in_turns(commands: dict[str, list[object]], runs: int) -> dict[str, list[tuple[float, float]]]:
    """Each command ``runs`` times, one after the other, after one unmeasured run."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for words in commands.values():
        timed(words)
    for _ in range(runs):
        for name, words in commands.items():
            times[name].append(timed(words))
    return times


def dgst(file: Path) -> tuple[float, float]:
    """Wall and processor seconds of ``openssl dgst -sha256``."""
    return timed(["openssl", "dgst", "-sha256", file])


def digest_rows(python: Path, work: Path, megabytes: int, runs: int) -> list[tuple[str, float, float, float]]:
    """GB/s best and median, GB per processor second: openssl (less its start) and ucaudit in turns, on one file;
    then ucaudit on eight files with 1, 2, … cores."""
    single = write_files(work / "single", megabytes, 1)
    several = write_files(work / "several", megabytes, 8)
    file, empty = next(single.glob("model-*")), work / "empty"
    empty.write_bytes(b"")
    size = {place: sum(path.stat().st_size for path in place.iterdir()) / 1e9 for place in (single, several)}
    cores = sorted({1, 2, len(os.sched_getaffinity(0))})
    jobs = [("ucaudit, one file", single, 1)]
    jobs += [(f"ucaudit, 8 files, {count} at a time", several, count) for count in cores]
    theirs = "openssl dgst -sha256, one file"
    times: dict[str, list[tuple[float, float]]] = {theirs: [], **{name: [] for name, _, _ in jobs}}
    for _ in range(runs):
        whole, start = dgst(file), dgst(empty)
        times[theirs].append((whole[0] - start[0], whole[1] - start[1]))
        for name, place, count in jobs:
            words = [str(python), "-c", HASH, str(place), str(count)]
            wall, worked = map(
                float, subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
            )
            times[name].append((wall, worked))
    result = []
    for name, values in times.items():
        total = size[several if "8 files" in name else single]
        walls, works = zip(*values, strict=True)
        result.append(
            (name, total / min(walls), total / statistics.median(walls), total / statistics.median(works))
        )
    return result


def main() -> int:
    """Run everything and print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=512)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "signing")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    work = options.work.resolve()
    us = environment(work / "ucaudit", [str(ROOT)])
    them = environment(work / "model-signing", list(OTHER))
    ours, theirs = Ours(us, fresh(work / "ours")), Theirs(them, fresh(work / "theirs"))
    on_files, on_keys = answers_on_files(ours, theirs, work), answers_on_keys(ours, theirs, work)

    small, large = work / "small", write_files(work / "large", options.megabytes, 4)
    run(theirs.sign_words(small, signature="small"))
    run(theirs.sign_words(large, signature="large"))
    bundle, small_bundle = ours.sign(large), ours.sign(small)
    size = f"{options.megabytes} MiB in 4 files"
    times = in_turns(
        {
            f"sign {size}/ucaudit": ours.sign_words(large),
            f"sign {size}/model-signing": theirs.sign_words(large, signature="again"),
            f"verify {size}/ucaudit": ours.verify_words(large, bundle),
            f"verify {size}/model-signing": theirs.verify_words(large, signature="large"),
            "verify 2 MiB (start-up)/ucaudit": ours.verify_words(small, small_bundle),
            "verify 2 MiB (start-up)/model-signing": theirs.verify_words(small, signature="small"),
            "--help/ucaudit": [ours.program, "--help"],
            "--help/model-signing": [theirs.program, "--help"],
        },
        options.runs,
    )
    digests = digest_rows(ours.python, work, options.megabytes, options.runs)
    installed = {
        name: (megabytes_installed(place), packages_installed(place))
        for name, place in (("ucaudit", us), ("model-signing", them))
    }
    if options.json:
        answers = [(name, str(a), str(b)) for name, a, b in on_files + on_keys]
        print(json.dumps({"answers": answers, "seconds": times, "digests": digests, "installed": installed}))
        return 0
    for title, rows in (("changed after signing", on_files), ("key", on_keys)):
        print(f"\n| {title} | ucaudit | model-signing |\n|---|---|---|")
        for name, a, b in rows:
            print(f"| {name} | {a} | {b} |")
    print("\n| seconds, best; processor seconds, median | ucaudit | model-signing |\n|---|---|---|")
    for name in dict.fromkeys(name.rpartition("/")[0] for name in times):
        cells = []
        for tool in ("ucaudit", "model-signing"):
            walls, works = zip(*times[f"{name}/{tool}"], strict=True)
            cells.append(f"{min(walls):.2f}; {statistics.median(works):.2f}")
        print(f"| {name} | " + " | ".join(cells) + " |")
    shown = [f"{size:.0f} MB, {count} packages" for size, count in installed.values()]
    print("| installed | " + " | ".join(shown) + " |")
    print("\n| SHA-256 | GB/s, best | median | GB per processor second, median |\n|---|---|---|---|")
    for name, best, median, worked in digests:
        print(f"| {name} | {best:.2f} | {median:.2f} | {worked:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
