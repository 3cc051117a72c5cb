"""``verify --spot-check``: lies that re-derive perfectly, and are found by doing a part of the work again.

The models run in this process: importing torch a dozen times would take a minute.
"""

from __future__ import annotations

import json
import shutil
from array import array
from dataclasses import replace

import pytest

from ucaudit.cli.main import main
from ucaudit.core.digest import StateEntry, StateManifest
from ucaudit.core.files import write_bytes
from ucaudit.core.records import NamedDigest, make_statement
from ucaudit.core.tokenvalues import load, save
from ucaudit.evidence import bundle as names
from ucaudit.evidence.bundle import attestation_subjects, close_bundle, open_bundle
from ucaudit.evidence.claims import compute_results, determine, judge_all
from ucaudit.evidence.keys import load_signer
from ucaudit.evidence.registration import register
from ucaudit.evidence.signing import sign
from ucaudit.evidence.spots import SpotDraw
from ucaudit.lab.signed import write_proof
from ucaudit.packs.opened import open_pack

from .conftest import Ran, ucaudit


@pytest.fixture
def verify(desk, capfd):
    """``verify(bundle, …)`` in this process, with the honest pack, reference and text unless others are given."""

    text = desk.root / "text.txt"

    def run(
        bundle, *words, pack=desk.pack, reference=desk.reference, corpus=text, spots=30, form=("--json", "--quiet")
    ):
        command = ["verify", bundle, "--trust", desk.root / "trust.toml", "--pack", pack, "--device", "cpu"]
        if spots is not None:
            command += ["--spot-check", spots, "--reference", reference, "--corpus", corpus]
        capfd.readouterr()
        with pytest.raises(SystemExit) as done:
            main([str(word) for word in (*command, *words, *form, "--threads", 1)])
        out, err = capfd.readouterr()
        return Ran(done.value.code, out, err)

    return run


@pytest.fixture
def resign(desk, tmp_path):
    """A bundle by the same trusted signer over other values, state or pack: consistent in itself, and entered."""

    def make(*, values=lambda v: v, state=lambda s: s, record=lambda r: r, pack=desk.pack):
        bundle = shutil.copytree(desk.bundle, tmp_path / "lie")
        ledger = shutil.copytree(desk.ledger, tmp_path / "ledger")
        signer = load_signer(str(desk.key))
        honest = open_bundle(desk.bundle)
        signed = honest.record
        told = values(load(desk.bundle))
        files = save(bundle, told)
        manifest = open_pack(pack).file_manifest()
        tensors = state(honest.state())
        write_bytes(bundle / names.STATE, tensors.to_bytes())
        write_bytes(bundle / names.PACK_MANIFEST, manifest.to_bytes())
        ratio = signed.results.ratio
        results = compute_results(told, confidence=ratio.confidence, seed=signed.results.bootstrap_seed)
        measured = signed.measurement.model_copy(
            update={"value_files": tuple(NamedDigest(name=n, sha256=files[n]) for n in sorted(files))}
        )
        signed = signed.model_copy(
            update={
                "results": results,
                "measurement": measured,
                "pack": signed.pack.model_copy(update={"pack_digest": manifest.digest}),
                "reconstruction": signed.reconstruction.model_copy(update={"state_digest": tensors.digest}),
            }
        )
        signed = record(signed)
        claims = judge_all(signed, results, told)
        determination = determine(claims, signed.exceptions, signed.created)
        signed = signed.model_copy(update={"claims": claims, "determination": determination})
        statement = make_statement(signed, attestation_subjects(signed, manifest))
        envelope = sign(statement.to_bytes(), signer, subject=names.ATTESTATION)
        names.write_attestation(bundle, envelope, signer.public_key)
        write_proof(bundle, register(ledger, envelope, signer), names.LEDGER_PROOF, names.LEDGER_ENTRY)
        close_bundle(bundle, signer)
        return bundle

    return make


def rows(ran):
    return {check["slug"]: check for check in ran.json["checks"]}


def nonce_that(bundle, kind, items, count, *, draws):
    """A nonce whose draw holds, or does not hold, the last of the items."""
    digest = open_bundle(bundle).attestation.digest
    for number in range(1000):
        nonce = f"{number:04x}"
        if (items[-1] in SpotDraw.make(digest, nonce).pick(kind, items, count)) is draws:
            return nonce
    raise AssertionError("no such nonce")


def test_an_honest_bundle(desk, verify):
    ran = verify(desk.bundle, spots=3)
    assert ran.code == 0, ran.err
    found = rows(ran)
    for slug in ("reference-files", "corpus", "tokens", "spot-tensors", "spot-windows"):
        assert (found[slug]["status"], found[slug]["level"]) == ("pass", "re-measured"), found[slug]
    assert "3 of 20 tensors" in found["spot-tensors"]["detail"] and "15.0%" in found["spot-tensors"]["detail"]
    assert "3 of 30 windows agree to the bit" in found["spot-windows"]["detail"]
    assert "10.0%" in found["spot-windows"]["detail"]
    spots = ran.json["spotCheck"]
    assert len(spots["nonce"]) == 64 and spots["nonceGiven"] is False
    assert len(spots["tensors"]) == len(spots["windows"]) == 3
    again = verify(desk.bundle, "--nonce", spots["nonce"], spots=3).json["spotCheck"]
    assert again == spots | {"nonceGiven": True}
    assert verify(desk.bundle, spots=3).json["spotCheck"]["nonce"] != spots["nonce"]


def test_what_people_read(desk, verify):
    ran = verify(desk.bundle, spots=2, form=())
    assert ran.code == 0, ran.err
    assert max(map(len, ran.out.splitlines())) <= 80
    nonce = ran.out.splitlines()[-1].split()
    assert nonce[0] == "nonce" and f"spot check by nonce {nonce[1]}" in ran.err
    assert "drawn now; --nonce repeats it" in ran.out


@pytest.mark.slow
def test_another_instruction_set_is_within_the_tolerance(desk):
    """The same machine without its vector extensions: other last digits, and no accusation."""
    plain = {
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
    }
    words = ("--pack", desk.pack, "--reference", desk.reference, "--corpus", desk.root / "text.txt")
    ran = ucaudit(
        "verify", desk.bundle, "--trust", desk.root / "trust.toml", *words, "--spot-check", 30, "--json", **plain
    )
    assert ran.code == 0, ran.err
    detail = rows(ran)["spot-windows"]["detail"]
    assert "agree within the tolerance of 1e-05 on ln ratio" in detail or "agree to the bit" in detail


def flattered(values):
    """The last window's pack scored better than it did; everything else as measured."""
    pack = array("f", values.pack)
    for token in range(values.tokens * (values.n - 1), values.tokens * values.n):
        pack[token] += 0.002
    return replace(values, pack=pack)


def test_values_that_the_signer_changed_and_signed_again(desk, verify, resign):
    bundle = resign(values=flattered)
    ran = verify(bundle, spots=None)
    assert ran.code == 0 and ran.json["authentic"], ran.err
    windows = load(bundle).windows
    draws = nonce_that(bundle, "window", windows, 4, draws=True)
    ran = verify(bundle, "--nonce", draws, spots=4)
    assert ran.code == 1 and not ran.json["authentic"]
    assert rows(ran)["spot-windows"]["status"] == "fail"
    assert f"window {windows[-1]}: mean pack's log-probability" in ran.err
    assert rows(ran)["spot-tensors"]["status"] == "pass"
    # Luck: a draw without the false window finds nothing, and says how likely that was.
    misses = nonce_that(bundle, "window", windows, 4, draws=False)
    ran = verify(bundle, "--nonce", misses, spots=4)
    assert ran.code == 0 and "a single false window is found with a chance of 13.3%" in ran.out


def test_a_generous_tolerance_does_not_help_the_signer(verify, resign):
    def generous(record):
        return record.model_copy(update={"measurement": record.measurement.model_copy(update={"tolerance": 0.02})})

    bundle = resign(values=flattered, record=generous)
    assert verify(bundle, spots=None).code == 0
    assert rows(verify(bundle))["spot-windows"]["status"] == "fail"


def test_top1_and_divergence_that_the_signer_changed(verify, resign):
    bundle = resign(values=lambda v: replace(v, top1=array("B", [0] * len(v.top1)), kl=array("f", [1] * len(v.kl))))
    ran = verify(bundle)
    assert ran.code == 1 and "kl divergence" in rows(ran)["spot-windows"]["detail"]
    assert "top-1 agreement" in rows(ran)["spot-windows"]["detail"]


def test_a_line_of_state_that_the_signer_made_up(desk, verify, resign):
    def wrong(state):
        last = state.entries[-1]
        return StateManifest.build([*state.entries[:-1], StateEntry(last.name, last.dtype, last.shape, "0" * 64)])

    bundle = resign(state=wrong)
    # This pack publishes its state, so the files show it; a spot check would as well.
    assert rows(verify(bundle, spots=None))["published-state"]["status"] == "fail"
    drawn = [entry.name for entry in open_bundle(bundle).state().entries]
    ran = verify(bundle, "--nonce", nonce_that(bundle, "tensor", drawn, 2, draws=True), spots=2)
    assert ran.code == 1 and f"{drawn[-1]}: expected 0000000000000000…" in rows(ran)["spot-tensors"]["detail"]
    ran = verify(bundle, "--nonce", nonce_that(bundle, "tensor", drawn, 2, draws=False), spots=2)
    assert rows(ran)["spot-tensors"]["status"] == "pass"
    assert "a single false line is found with a chance of 10.0%" in rows(ran)["spot-tensors"]["detail"]
    assert verify(bundle, "--full", spots=None).code == 1


def test_a_shape_is_compared_whatever_is_drawn(verify, resign):
    def wrong(state):
        last = state.entries[-1]
        return StateManifest.build([*state.entries[:-1], StateEntry(last.name, "F16", last.shape, last.digest)])

    ran = verify(resign(state=wrong), spots=1)
    assert ran.code == 1 and "other dtype or shape" in rows(ran)["spot-tensors"]["detail"]


def test_a_drifted_pack(desk, verify, pack_copy):
    """One tensor of one file: the files show it at once, the draw by chance; windows would say nothing more."""
    layer = pack_copy / "layer-00001.safetensors"
    data = bytearray(layer.read_bytes())
    data[-100] ^= 0x10
    layer.write_bytes(data)
    ran = verify(desk.bundle, pack=pack_copy, spots=20)
    assert ran.code == 1
    found = rows(ran)
    assert "layer-00001.safetensors" in found["pack-files"]["detail"]
    assert found["spot-tensors"]["detail"].count("expected") == 1 and "model.layers.1." in ran.out
    assert found["spot-windows"]["status"] == "not-checked"
    layer.write_bytes(b"\0" * 100)
    ran = verify(desk.bundle, pack=pack_copy, spots=2)
    assert ran.code == 1 and "cannot be decoded any more" in rows(ran)["spot-tensors"]["detail"]


def test_a_pack_of_something_else(desk, verify):
    ran = verify(desk.bundle, pack=desk.reference, spots=1)
    assert ran.code == 1 and rows(ran)["pack-files"]["status"] == "fail"
    assert rows(ran)["spot-windows"]["status"] == "not-checked"


def test_a_record_of_a_pack_that_gives_no_numbers(desk, verify, resign, tmp_path):
    """NaN weights under a signed record with finite values: a finding, not an unreadable input."""
    import torch
    from safetensors.torch import load_file, save_file

    pack = shutil.copytree(desk.reference, tmp_path / "nan")
    tensors = load_file(pack / "model.safetensors")
    tensors["model.norm.weight"][3] = torch.nan
    save_file(tensors, pack / "model.safetensors", metadata={"format": "pt"})
    from ucaudit.packs.codecs import open_source
    from ucaudit.packs.state import reconstruct_state

    with open_source(pack) as source:
        state = reconstruct_state(source)

    def no_manifest(record):
        return record.model_copy(
            update={"pack": record.pack.model_copy(update={"matches_manifest": "no-manifest"})}
        )

    bundle = resign(state=lambda _: state, pack=pack, record=no_manifest)
    ran = verify(bundle, pack=pack, spots=2)
    assert ran.code == 1
    assert rows(ran)["spot-tensors"]["status"] == "pass"
    detail = rows(ran)["spot-windows"]["detail"]
    assert "cannot be measured as recorded" in detail and "not finite" in detail


def test_another_reference_or_text(desk, verify, tmp_path):
    ran = verify(desk.bundle, reference=desk.pack, spots=1)
    assert ran.code == 1 and rows(ran)["reference-files"]["status"] == "fail"
    assert rows(ran)["spot-windows"]["status"] == "not-checked"
    ran = verify(desk.bundle, corpus=desk.root / "calibration.txt", spots=1)
    assert ran.code == 1 and rows(ran)["corpus"]["status"] == "fail"
    assert rows(ran)["spot-windows"]["status"] == "not-checked"


def test_changed_value_files_are_not_asked(desk, verify, bundle_copy):
    save(bundle_copy, flattered(load(bundle_copy)))
    ran = verify(bundle_copy)
    assert ran.code == 1 and rows(ran)["artefact"]["status"] in ("fail", "pass")
    assert rows(ran)["spot-check"]["status"] == "not-checked" and "spot-windows" not in rows(ran)


@pytest.mark.parametrize(
    ("words", "changed", "code", "says"),
    [
        ([], {"spots": 31}, 3, "30 windows"),
        ([], {"spots": 0}, 2, "0 is not in the range"),
        (["--nonce", "xyz"], {}, 3, "not a nonce"),
        (["--nonce", "00"], {"spots": None}, 2, "--nonce is for --spot-check"),
        ([], {"reference": "nowhere"}, 3, "nowhere"),
        ([], {"corpus": "nowhere.txt"}, 3, "nowhere.txt"),
    ],
)
def test_wrong_input(desk, verify, words, changed, code, says):
    ran = verify(desk.bundle, *words, **changed)
    assert ran.code == code and says in ran.err, ran.err
    assert ran.json["exitCode"] == code


@pytest.mark.parametrize("left", [{}, {"--pack": "p"}, {"--pack": "p", "--reference": "r"}])
def test_inputs_that_are_missing(desk, left):
    words = [word for pair in left.items() for word in pair]
    ran = ucaudit("verify", desk.bundle, "--trust", desk.root / "trust.toml", "--spot-check", 1, *words)
    assert ran.code == 2 and "--spot-check needs --pack, --reference and --corpus" in ran.err


def test_without_torch(desk, tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here', name='torch')\n")
    words = ("verify", desk.bundle, "--trust", desk.root / "trust.toml", "--pack", desk.pack)
    more = ("--reference", desk.reference, "--corpus", desk.root / "text.txt", "--spot-check", 1)
    ran = ucaudit(*words, *more, PYTHONPATH=str(tmp_path))
    assert ran.code == 4 and "ucaudit[measure]" in ran.err
    assert ucaudit(*words, PYTHONPATH=str(tmp_path)).code == 0


def test_json_is_one_object(desk, verify):
    assert len(verify(desk.bundle, spots=1).out.splitlines()) == 1
    assert json.loads(verify(desk.bundle, spots=1).out)["authentic"] is True
