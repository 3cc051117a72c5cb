"""Synthetic records that look like real ones: for tests of reports, schemas and viewers."""

from __future__ import annotations

import hashlib
import math
from array import array
from random import Random
from typing import Any

from ucaudit.core.digest import FileEntry, FileManifest
from ucaudit.core.records import (
    Attestation,
    BitsPerWeight,
    Calibration,
    Context,
    Corpus,
    Environment,
    LayerError,
    Measurement,
    NamedDigest,
    PackIdentity,
    PlannedClaim,
    PolicyExceptionRecord,
    Reconstruction,
    ReferenceIdentity,
    Statement,
    Subject,
    Tie,
    Tool,
    make_statement,
)
from ucaudit.core.tokenvalues import TokenValues
from ucaudit.evidence.claims import compute_results, determine, draft_claims, judge_all
from ucaudit.evidence.examine import Examined
from ucaudit.lab.limitations import limitations_of

CREATED = "2026-11-24T09:30:00Z"


def digest_of(text: str) -> str:
    """A digest that belongs to a name."""
    return hashlib.sha256(text.encode()).hexdigest()


def make_values(
    *, n: int = 30, tokens: int = 255, drift: float = 0.012, noise: float = 0.006, seed: int = 7
) -> TokenValues:
    """Per-token values whose windows differ by ``drift`` ± ``noise`` nats."""
    random = Random(seed)
    reference, pack, kl, top1 = array("f"), array("f"), array("f"), array("B")
    for _ in range(n):
        level = random.gauss(drift, noise)
        for position in range(tokens):
            value = -random.expovariate(1 / 3.3)
            shift = level * (1 + 0.4 * math.exp(-position / 20)) + random.gauss(0, 0.08)
            reference.append(value)
            pack.append(min(value - shift, 0.0))
            kl.append(random.expovariate(1 / max(drift, 1e-3)))
            top1.append(1 if random.random() < 0.955 else 0)
    windows = tuple(range(3, 3 + 5 * n, 5))
    return TokenValues(windows, tokens, reference, pack, kl, top1).check(subject="synthetic")


def make_attestation(
    *,
    values: TokenValues | None = None,
    ratio_max: float = 1.05,
    kl_max: float = 0.05,
    exceptions: tuple[PolicyExceptionRecord, ...] = (),
    **overrides: Any,
) -> Attestation:
    """A complete record judged from ``values``; ``overrides`` replace whole members at the end."""
    values = values or make_values()
    results = compute_results(values, confidence=0.95, seed=20240229)
    claims = (
        ("ppl-ratio", "pplRatio", "<=", ratio_max),
        ("mean-kl", "meanKl", "<=", kl_max),
        ("top1-agreement", "top1Agreement", ">=", 0.93),
        ("bits-per-weight", "bitsPerWeight", "<=", 6.0),
        ("state-matches-published", "driftedTensors", "==", 0.0),
    )
    planned = tuple(
        PlannedClaim(id=slug, metric=metric, comparator=comparator, threshold=threshold, confidence=0.95)
        for slug, metric, comparator, threshold in claims
    )
    layers = tuple(
        LayerError(
            layer=f"model.layers.{index}",
            relative_error=0.021 + 0.006 * math.sin(index / 3) + 0.0002 * index,
            parameters=3_540_096,
        )
        for index in range(30)
    )
    draft = Attestation(
        created=CREATED,
        tool=Tool(name="ucaudit", version="0.1.0"),
        determination="inconclusive",
        pack=PackIdentity(
            name="smollm2-135m-instruct-ucq5",
            codec="ucq",
            codec_version=1,
            arithmetic_profile="ucq-v1-exact",
            pack_digest=digest_of("pack"),
            files=34,
            bytes=98_765_432,
            bits_per_weight=BitsPerWeight(nominal=5.0, compressed_on_disk=5.2578125, whole_on_disk=6.71),
            license="Apache-2.0",
            unclaimed_files=(),
            excluded=(),
            settings={"bits": 5, "group": 128, "rank": 8, "seed": 1, "klWeight": None},
            calibration=Calibration(
                name="calibration.txt",
                sha256=digest_of("calibration"),
                tokens=65_536,
                sequences=128,
                seq_len=512,
                seed=1,
            ),
        ),
        reference=ReferenceIdentity(
            name="smollm2-135m-instruct-bf16",
            files_digest=digest_of("reference files"),
            state_digest=digest_of("reference state"),
            dtype="BF16",
            arithmetic_profile="identity",
            source="a GGUF file of a published package",
            revision="sha256:" + digest_of("gguf"),
            note="The reference is itself a 4-bit model brought to bf16: its weights lie on a grid of 16 levels, "
            "so compressing it to 5 bits is easier than compressing the original would be.",
        ),
        reconstruction=Reconstruction(
            state_digest=digest_of("state"),
            tensors=272,
            parameters=134_515_008,
            ties=(Tie(name="lm_head.weight", same_as="model.embed_tokens.weight"),),
            matches_published="yes",
            drifted=(),
            device_class="cpu",
            layer_errors=(
                *layers,
                LayerError(layer="outside the layers", relative_error=0.0, parameters=28_311_552),
            ),
        ),
        measurement=Measurement(
            corpus=Corpus(
                name="evaluation.txt",
                sha256=digest_of("corpus"),
                bytes=412_345,
                tokens=98_304,
                windows_available=384,
            ),
            tokenizer_digest=digest_of("tokenizer"),
            tokens_digest=digest_of("tokens"),
            windowing="disjoint windows of 256 tokens, drawn by rank of SHA-256(seed, corpus digest, window index)",
            bos="none",
            n=values.n,
            seq_len=values.tokens + 1,
            seed=42,
            dtype="fp32",
            scored_tokens=values.n * values.tokens,
            tolerance=1e-5,
            calibration_overlap="none-known",
            compute={"attention": "sdpa", "deviceClass": "cpu", "threads": 2, "tf32": False},
            libraries={"torch": "2.13.0", "transformers": "5.23.0"},
            value_files=(
                NamedDigest(name="nll-reference.safetensors", sha256=digest_of("a")),
                NamedDigest(name="nll-pack.safetensors", sha256=digest_of("b")),
                NamedDigest(name="pair.safetensors", sha256=digest_of("c")),
            ),
        ),
        results=results,
        claims=draft_claims(planned),
        limitations=(),
        exceptions=exceptions,
        plan=None,
        policy=NamedDigest(name="policy.toml", sha256=digest_of("policy")),
        context=Context(
            institution="Example Institution",
            model_owner="Model owner of the example",
            intended_use="Drafting of internal summaries, reviewed by a person",
            materiality="low",
            classification="Confidential",
        ),
        environment=Environment(
            python="3.12.3",
            system="Linux",
            machine="x86_64",
            libraries={"torch": "2.13.0", "transformers": "5.23.0"},
        ),
    )
    judged = judge_all(draft, results, values)
    record = draft.model_copy(
        update={"claims": judged, "determination": determine(judged, exceptions, draft.created)}
    )
    record = record.model_copy(update={"limitations": limitations_of(record, on_ledger=True)})
    record = record.model_copy(update=overrides)
    return Attestation.model_validate_json(record.model_dump_json(by_alias=True))


def make_attestation_statement(record: Attestation, *, files: int = 34) -> Statement:
    """The statement of a record, with ``files`` pack files among its subjects."""
    subjects = [
        Subject("pack.SHA256SUMS", record.pack.pack_digest),
        Subject("STATE", record.reconstruction.state_digest),
        *(Subject(f"pack/layer-{index:02d}.safetensors", digest_of(f"file {index}")) for index in range(files - 1)),
        Subject("pack/ucq.json", digest_of("manifest")),
    ]
    return make_statement(record, subjects)


def make_examined(record: Attestation, **changes: Any) -> Examined:
    """What is known of a bundle with this record, its signer's key not checked."""
    statement = make_attestation_statement(record)
    pack = [item for item in statement.subjects if item.name.startswith("pack/")]
    known: dict[str, Any] = {
        "statement": statement,
        "record": record,
        "envelope_digest": digest_of("envelope"),
        "payload_digest": digest_of("payload"),
        "manifest": FileManifest.build(FileEntry(item.name.removeprefix("pack/"), item.sha256) for item in pack),
        "key_id": digest_of("key"),
        "signer": None,
        "seen": None,
        "endorsements": (),
        "values": None,
        "ledger": None,
        "checkpoint": None,
    }
    return Examined(**(known | changes))


HOSTILE = (
    "x\n---\n- [a](javascript:1) <script>&amp; {{ insert: param, p }} \u2028\u202e\u200f\x07 # \"'\\ 山 😀 *b* null"
)
"""Text that is markup, code or the end of a line in some format."""


def make_outcomes() -> dict[str, Examined]:
    """One record for every determination, and one whose free text is hostile, wherever text is free."""
    excuses = tuple(
        PolicyExceptionRecord(claim=claim, owner="Owner", rationale="pilot", expires="2027-01-31T00:00:00Z")
        for claim in ("ppl-ratio", "mean-kl")
    )
    cases: dict[str, Any] = {
        "pass": {"drift": 0.012},
        "fail": {"drift": 0.06},
        "inconclusive": {"drift": 0.047, "noise": 0.012},
        "pass-with-exceptions": {"drift": 0.06, "exceptions": excuses},
    }
    found = {}
    for name, options in cases.items():
        exceptions = options.pop("exceptions", ())
        record = make_attestation(values=make_values(**options), kl_max=0.055, exceptions=exceptions)
        assert record.determination == name
        found[name] = make_examined(record)
    failed = found["pass-with-exceptions"].record
    text = dict.fromkeys(Context.model_fields, HOSTILE)
    claims = tuple(item.model_copy(update={"reason": HOSTILE, "text": HOSTILE}) for item in failed.claims)
    renamed = failed.pack.model_copy(update={"name": HOSTILE, "license": HOSTILE, "excluded": (HOSTILE,)})
    corpus = failed.measurement.corpus.model_copy(update={"name": HOSTILE})
    hostile = failed.model_copy(
        update={
            "context": Context(**text),
            "claims": claims,
            "pack": renamed,
            "reference": failed.reference.model_copy(
                update={"name": HOSTILE, "note": HOSTILE, "source": HOSTILE, "revision": HOSTILE * 30}
            ),
            "measurement": failed.measurement.model_copy(update={"corpus": corpus}),
            "policy": NamedDigest(name=HOSTILE, sha256=digest_of("policy")),
            "exceptions": tuple(
                item.model_copy(update={"owner": HOSTILE, "rationale": HOSTILE}) for item in failed.exceptions
            ),
            "tool": Tool(name=HOSTILE, version=HOSTILE),
        }
    )
    found["hostile"] = make_examined(hostile)
    return found
