import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tinymodels import VOCAB, make_model, make_text

from ucaudit.cli.main import main
from ucaudit.core import tokenvalues
from ucaudit.core.errors import (
    CorpusError,
    DeviceUnavailableError,
    InputError,
    ModelError,
    OutputError,
    RefusedError,
    UnavailableError,
)
from ucaudit.lab.measure import Measurement, measure, measurement_record, prepare_output, write_measurement
from ucaudit.lab.measure_memory import Execution, MemoryNeeds, choose_execution
from ucaudit.lab.measure_plan import plan_measurement
from ucaudit.lab.measure_settings import current_settings, pinned_arithmetic, tolerance
from ucaudit.lab.measure_state import StateDirectory, discard_state, state_key
from ucaudit.models.forward import MIN_ROWS, compare_logits, row_slices
from ucaudit.models.runtime import load_model
from ucaudit.packs.codecs import open_source

N, SEQ_LEN = 6, 40


class Models:
    """Paths of a reference, packs and a text."""

    def __init__(self, root: Path):
        self.root = root
        self.reference = make_model(root / "reference")
        self.pack = make_model(root / "pack", noise=0.05)
        self.text = root / "text.txt"
        self.text.write_text(make_text(), encoding="utf-8")

    def measure(
        self, state: Path, *, pack: Path | None = None, reference: Path | None = None, **changes
    ) -> Measurement:
        settings = {"n": N, "seq_len": SEQ_LEN, "seed": 42, "threads": 1, "state_dir": state, **changes}
        text = settings.pop("corpus", self.text)
        with open_source(pack or self.pack) as source, open_source(reference or self.reference) as original:
            return measure(source, original, text, **settings)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return Models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def measured(models, tmp_path_factory):
    return models.measure(tmp_path_factory.mktemp("state"))


def saved(measurement: Measurement, directory: Path) -> dict[str, bytes]:
    directory.mkdir()
    measurement.save_values(directory)
    return {name: (directory / name).read_bytes() for name in tokenvalues.FILES}


# --- the values -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_values_equal_plain_transformers(tmp_path, dtype, bos):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    reference = make_model(tmp_path / "reference", bos=bos)
    pack = make_model(tmp_path / "pack", noise=0.05, bos=bos)
    (tmp_path / "text.txt").write_text(make_text(), encoding="utf-8")
    with open_source(pack) as source, open_source(reference) as original:
        found = measure(
            *(source, original, tmp_path / "text.txt"),
            **{"n": 4, "seq_len": 40, "seed": 1, "dtype": dtype, "state_dir": tmp_path / "s", "threads": 1},
        )
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    tokens = AutoTokenizer.from_pretrained(reference)(make_text(), add_special_tokens=False)["input_ids"]
    logits = {}
    for name, path in (("reference", reference), ("pack", pack)):
        model = AutoModelForCausalLM.from_pretrained(path, dtype=kind).eval()
        rows = []
        for index in found.windows.indexes:
            ids = torch.tensor([[0] * bos + tokens[40 * index : 40 * index + 40]])
            with torch.no_grad():
                rows.append((model(ids).logits[0, :-1].float(), ids[0, 1:]))
        logits[name] = rows
        expected = torch.cat([torch.log_softmax(row, -1).gather(-1, ids[:, None])[:, 0] for row, ids in rows])
        values = torch.tensor(getattr(found.values, name), dtype=torch.float32)
        assert values.shape == (4 * (39 + bos),)
        assert torch.equal(values, expected)
    pairs = list(zip(logits["reference"], logits["pack"], strict=True))
    kl = torch.cat(
        [
            torch.distributions.kl_divergence(
                torch.distributions.Categorical(logits=a.double()),
                torch.distributions.Categorical(logits=b.double()),
            )
            for (a, _), (b, _) in pairs
        ]
    )
    assert torch.allclose(torch.tensor(found.values.kl, dtype=torch.float64), kl, rtol=1e-6, atol=1e-9)
    assert kl.max() > 1e-3
    agree = torch.cat([a.argmax(-1) == b.argmax(-1) for (a, _), (b, _) in pairs])
    assert list(found.values.top1) == agree.int().tolist()
    assert 0 < sum(found.values.top1) < len(agree)


def test_a_model_against_itself_has_no_drift(models, tmp_path):
    found = models.measure(tmp_path / "s", pack=models.reference)
    assert found.values.reference == found.values.pack
    assert set(found.values.kl) == {0.0}
    assert set(found.values.top1) == {1}


def test_kl_of_a_known_pair():
    # p = (1/2, 1/2), q = (1/4, 3/4): KL = ln 2 - ln(3)/2 ... = 0.5 ln(4/3)
    p = torch.tensor([[0.5, 0.5], [0.5, 0.5]]).log()
    q = torch.tensor([[0.25, 0.75], [0.5, 0.5]]).log()
    scores = compare_logits(p, q + 7.0, torch.tensor([1]), name="w")
    assert scores.kl.tolist() == pytest.approx([0.14384103622589045], rel=1e-6)
    assert scores.pack.exp().tolist() == pytest.approx([0.75])
    assert scores.reference.dtype == scores.kl.dtype == torch.float32


def test_kl_is_not_lost_in_rounding():
    """Two nearly equal distributions at large logits, where fp32 normalisers would swamp the divergence."""
    generator = torch.Generator().manual_seed(0)
    logits = 20 + 5 * torch.randn(65, 4096, generator=generator)
    other = logits + 1e-4 * torch.randn(65, 4096, generator=generator)
    scores = compare_logits(logits, other, torch.zeros(64, dtype=torch.int64), name="w")
    p, q = (torch.distributions.Categorical(logits=value[:64].double()) for value in (logits, other))
    expected = torch.distributions.kl_divergence(p, q)
    assert expected.max() < 1e-8
    # fp32 storage rounds by 6e-8 of the value; an fp64 normaliser near 20 nats is off by a few 1e-15
    assert torch.allclose(scores.kl.double(), expected, rtol=1e-7, atol=2e-14)


@pytest.mark.parametrize("rows", [1, 15, 16, 31, 32, 255, 256, 1023])
@pytest.mark.parametrize("vocabulary", [10, 49_152, 152_064, 1 << 22])
def test_slices_cover_all_rows_and_are_never_short(rows, vocabulary):
    slices = row_slices(rows, 8 * vocabulary, 16 << 20)
    assert [row for begin, end in slices for row in range(begin, end)] == list(range(rows))
    assert all(end - begin >= min(rows, MIN_ROWS) for begin, end in slices)
    assert max(end - begin for begin, end in slices) < 2 * max(MIN_ROWS, (16 << 20) // (8 * vocabulary))


def test_slicing_changes_no_bit(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 200, 1000, generator=generator)
    targets = torch.randint(0, 1000, (199,), generator=generator)
    whole = compare_logits(a, b, targets, name="w")
    monkeypatch.setattr("ucaudit.models.forward._SLICE_BYTES", 1)
    assert len(row_slices(199, 8 * 1000, 1)) == 12
    sliced = compare_logits(a, b, targets, name="w")
    for name in ("reference", "pack", "kl", "top1"):
        assert torch.equal(getattr(whole, name), getattr(sliced, name))


# --- resuming ---------------------------------------------------------------------------------------------
class Stop:
    """A progress reporter that interrupts after a number of windows."""

    def __init__(self, after: int | None):
        self.left = after
        self.notes: list[str] = []
        self.unit = ""
        self.measured = 0

    def start(self, total, unit, label):
        self.unit = unit

    def advance(self, amount=1):
        if self.unit == "windows":
            self.measured += amount
            if self.left is not None and self.measured >= self.left:
                raise KeyboardInterrupt

    def note(self, text):
        self.notes.append(text)

    def finish(self):
        pass


def test_interrupted_at_any_window_it_ends_in_the_same_bytes(models, measured, tmp_path):
    whole = saved(measured, tmp_path / "whole")
    for after in range(1, N + 1):
        state = tmp_path / f"s{after}"
        with pytest.raises(KeyboardInterrupt):
            models.measure(state, progress=Stop(after))
        second = Stop(None)
        again = models.measure(state, progress=second)
        assert (again.resumed, second.measured) == (after, N - after)
        assert saved(again, tmp_path / f"again{after}") == whole


def test_interrupted_again_and_again(models, measured, tmp_path):
    for _ in range(N):
        with pytest.raises(KeyboardInterrupt):
            models.measure(tmp_path / "s", progress=Stop(1))
    last = models.measure(tmp_path / "s", progress=Stop(1))
    assert last.resumed == N
    assert saved(last, tmp_path / "a") == saved(measured, tmp_path / "b")


@pytest.mark.parametrize("damage", ["flip", "truncate", "extend", "empty", "swap", "directory"])
def test_a_damaged_window_is_measured_again(models, measured, tmp_path, damage):
    models.measure(tmp_path / "s")
    first, second = sorted((tmp_path / "s").glob("*/window-*.values"))[:2]
    data = first.read_bytes()
    if damage == "flip":
        first.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "truncate":
        first.write_bytes(data[:-1])
    elif damage == "extend":
        first.write_bytes(data + b"\0")
    elif damage == "empty":
        first.write_bytes(b"")
    elif damage == "swap":
        first.write_bytes(second.read_bytes())
    else:
        first.unlink()
        first.mkdir()
    progress = Stop(None)
    if damage == "directory":
        with pytest.raises(OutputError, match="is a directory"):
            models.measure(tmp_path / "s", progress=progress)
        assert progress.notes[0].startswith("window ")
        return
    again = models.measure(tmp_path / "s", progress=progress)
    assert (again.resumed, progress.measured) == (N - 1, 1)
    index = measured.windows.indexes[0]
    assert progress.notes[0] == f"window {index}: its saved values are damaged, it is measured again"
    assert saved(again, tmp_path / "a") == saved(measured, tmp_path / "b")


@pytest.mark.parametrize("change", [{"dtype": "bf16"}, {"seq_len": 41}, {"threads": 2}])
def test_other_settings_do_not_reuse_windows(models, tmp_path, change):
    models.measure(tmp_path / "s")
    assert models.measure(tmp_path / "s", **change).resumed == 0


def test_another_pack_or_text_does_not_reuse_windows(models, tmp_path):
    models.measure(tmp_path / "s")
    assert models.measure(tmp_path / "s", pack=models.reference).resumed == 0
    text = tmp_path / "text.txt"
    text.write_text(make_text() + "One more.", encoding="utf-8")
    assert models.measure(tmp_path / "s", corpus=text).resumed == 0


def test_more_windows_take_over_those_that_are_there(models, tmp_path):
    models.measure(tmp_path / "s", n=3)
    assert models.measure(tmp_path / "s", n=5).resumed == 3


def test_discarding_removes_only_what_was_saved(tmp_path):
    state = StateDirectory(tmp_path / "s", state_key({"a": 1}), 2)
    state.prepare()
    state.save(3, b"ids", b"x" * 26)
    assert state.load(3, b"ids") == (b"x" * 26, False)
    assert state.load(3, b"other ids") == (None, True)
    assert state.load(4, b"ids") == (None, False)
    (tmp_path / "s" / "notes.txt").write_text("mine", encoding="utf-8")
    (tmp_path / "s" / "folder").mkdir()
    discard_state(tmp_path / "s")
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == ["folder", "notes.txt"]
    discard_state(tmp_path / "none")


# --- bad input --------------------------------------------------------------------------------------------
def test_a_vocabulary_mismatch(models, tmp_path):
    wider = make_model(tmp_path / "wider", vocab_size=VOCAB + 1)
    with pytest.raises(ModelError, match="the reference has 320 tokens, the pack 321"):
        models.measure(tmp_path / "s", pack=wider)
    with pytest.raises(ModelError, match="the reference has 5 logits, the pack 6"):
        compare_logits(torch.zeros(3, 5), torch.zeros(3, 6), torch.tensor([0, 1]), name="w")


def test_another_tokenizer(models, tmp_path):
    other = make_model(tmp_path / "other", bos=True)
    with pytest.raises(ModelError, match=r"tokenizer.json differs from reference"):
        models.measure(tmp_path / "s", pack=other)


@pytest.mark.parametrize(("which", "value"), [("pack", float("nan")), ("reference", float("inf"))])
def test_logits_that_are_not_finite_name_model_and_window(models, measured, tmp_path, which, value):
    broken = make_model(tmp_path / "broken")
    state = load_file(broken / "model.safetensors")
    state["model.norm.weight"][3] = value
    save_file(state, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ModelError, match=f"the {which} gives logits that are not finite, first at position 0"
    ) as caught:
        models.measure(tmp_path / "s", **{which: broken})
    assert caught.value.subject == f"window {measured.windows.indexes[0]}"


def test_a_position_that_is_not_finite_is_named(monkeypatch):
    monkeypatch.setattr("ucaudit.models.forward._SLICE_BYTES", 1)
    logits = torch.zeros(100, 50)
    logits[70, 5] = float("-inf")
    with pytest.raises(ModelError, match="the pack gives logits that are not finite, first at position 70"):
        compare_logits(torch.zeros(100, 50), logits, torch.zeros(99, dtype=torch.int64), name="w")


def test_models_of_two_kinds_are_refused(models, tmp_path):
    changed = make_model(tmp_path / "mistral")
    config = json.loads((changed / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "mistral", "architectures": ["MistralForCausalLM"]}
    (changed / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ModelError, match="reference runs with modelClass LlamaForCausalLM, the pack with Mistral"):
        models.measure(tmp_path / "s", pack=changed)


def test_bad_requests(models, tmp_path):
    with pytest.raises(InputError, match="dtype must be one of fp32, bf16, found 'fp16'"):
        models.measure(tmp_path / "s", dtype="fp16")
    with pytest.raises(DeviceUnavailableError, match="measuring is done on cpu or cuda"):
        models.measure(tmp_path / "s", device="mps")
    with pytest.raises(CorpusError, match="too short"):
        models.measure(tmp_path / "s", n=10**6)
    assert not (tmp_path / "s").exists()


def test_an_unwritable_state_directory(models, tmp_path):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(OutputError):
        models.measure(tmp_path / "file")


def test_narrow_onednn_arithmetic_is_refused(models, tmp_path, monkeypatch):
    monkeypatch.setenv("DNNL_DEFAULT_FPMATH_MODE", "BF16")
    with pytest.raises(UnavailableError, match="DNNL_DEFAULT_FPMATH_MODE is 'BF16'"):
        models.measure(tmp_path / "s")
    monkeypatch.setenv("DNNL_DEFAULT_FPMATH_MODE", "STRICT")
    settings = models.measure(tmp_path / "s", n=2).settings
    assert settings.dnnl_default_fpmath_mode == "STRICT"


# --- what is recorded -------------------------------------------------------------------------------------
def test_the_record(measured, tmp_path):
    record = measurement_record(measured)
    assert record == measurement_record(measured, measured.save_values(tmp_path))
    assert (record.n, record.seq_len, record.seed, record.bos, record.dtype) == (N, SEQ_LEN, 42, "none", "fp32")
    assert record.scored_tokens == N * (SEQ_LEN - 1)
    assert record.corpus.windows_available == record.corpus.tokens // SEQ_LEN
    assert record.tolerance == 1e-5
    assert record.calibration_overlap == "not-checked"
    assert record.compute["deviceClass"].startswith("cpu ")
    assert record.compute["tf32"] is False
    assert record.compute["deterministicAlgorithms"] is True
    assert record.compute["attention"] == "sdpa"
    assert set(record.libraries) == {"torch", "transformers", "tokenizers", "safetensors", "numpy"}
    assert os.uname().nodename not in record.model_dump_json()


def test_settings_are_put_back(models):
    def switches():
        return (
            torch.get_num_threads(),
            torch.get_float32_matmul_precision(),
            torch.backends.cudnn.allow_tf32,
            torch.backends.cudnn.benchmark,
            torch.are_deterministic_algorithms_enabled(),
            torch.utils.deterministic.fill_uninitialized_memory,
        )

    torch.set_float32_matmul_precision("high")
    before = switches()
    with pytest.raises(KeyboardInterrupt), pinned_arithmetic("fp32", "cpu", 1):
        settings = current_settings(
            "fp32", "cpu", attention="sdpa", experts="eager", model_class="X", execution="whole"
        )
        assert (settings.float32_matmul_precision, settings.threads) == ("highest", 1)
        raise KeyboardInterrupt
    assert switches() == before
    torch.set_float32_matmul_precision("highest")


def test_tolerance(measured):
    assert tolerance(measured.settings, 10_000, same_stack=True) == 0.0
    assert tolerance(measured.settings, 10_000) == 1e-5
    bf16 = replace(measured.settings, dtype="bf16")
    assert tolerance(bf16, 51_200) == pytest.approx(0.00086, abs=5e-6)
    assert tolerance(bf16, 51_200, same_stack=True) == 0.0


def test_the_plan_counts_without_reading_a_tensor(models, measured):
    class Sealed:
        def __init__(self, source):
            self._source = source

        def __getattr__(self, name):
            assert name not in ("load", "stream"), "the plan read a tensor"
            return getattr(self._source, name)

    with open_source(models.pack) as pack, open_source(models.reference) as reference:
        plan = plan_measurement(Sealed(pack), Sealed(reference), models.text, n=N, seq_len=SEQ_LEN, seed=42)
    assert plan.windows.indexes == measured.windows.indexes
    assert plan.windows.digest == measured.windows.digest
    assert plan.scored_tokens == N * (SEQ_LEN - 1)
    assert plan.parameters == VOCAB * 32 + 2 * (32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 64 + 2 * 32) + 32
    # 2 · n · T · (matrices + 2 · T · hidden · layers)
    matrices = VOCAB * 32 + 2 * (32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 64)
    assert plan.operations == 2 * N * SEQ_LEN * (matrices + 2 * SEQ_LEN * 32 * 2)
    assert plan.memory.whole > 8 * plan.parameters
    assert plan.seconds() > 0


def test_too_little_memory_is_said_beforehand(models, monkeypatch):
    with open_source(models.pack) as pack, open_source(models.reference) as reference:
        plan = plan_measurement(pack, reference, models.text, n=N, seq_len=SEQ_LEN, seed=42)
    assert choose_execution(plan.memory, "cpu").mode == "whole"
    monkeypatch.setattr("ucaudit.lab.measure_memory.available_memory", lambda: 1000)
    monkeypatch.setattr("ucaudit.lab.measure_memory.resident_memory", lambda: 0)
    with pytest.raises(UnavailableError, match=r"a layer at a time takes about .* 0\.00 GB may be used"):
        choose_execution(plan.memory, "cpu")


def test_the_fastest_way_that_fits():
    needs = MemoryNeeds(whole=100, layers=40, hidden_states=20)
    for budget, mode, spill, peak in (
        (100, "whole", False, 100),
        (99, "layers", False, 60),
        (60, "layers", False, 60),
        (59, "layers", True, 40),
        (40, "layers", True, 40),
    ):
        assert choose_execution(needs, "cpu", budget=budget) == Execution(mode, spill, peak)
    with pytest.raises(UnavailableError):
        choose_execution(needs, "cpu", budget=39)


# --- output and command -----------------------------------------------------------------------------------
def test_the_output_directory(models, measured, tmp_path):
    out = tmp_path / "out"
    state = prepare_output(out)
    again = models.measure(state)
    results, document = write_measurement(again, out)
    assert sorted(path.name for path in out.iterdir()) == sorted([*tokenvalues.FILES, "measurement.json"])
    assert json.loads((out / "measurement.json").read_text(encoding="utf-8")) == document
    assert tokenvalues.load(out) == measured.values
    assert document["results"]["ratio"]["estimate"] == results.ratio.estimate
    assert document["measurement"]["tokensDigest"] == measured.windows.digest
    with pytest.raises(RefusedError, match="holds a finished measurement"):
        prepare_output(out)


def words(models, out, *more):
    given = ["measure", models.pack, "--reference", models.reference, "--corpus", models.text, "--n", N]
    given += ["--seq-len", SEQ_LEN, "--threads", 1, "--device", "cpu", "--out", out, *more]
    return [str(word) for word in given]


def ucaudit(capsys, given):
    """Run the command in this process: its exit code, stdout and stderr."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(given)
    return caught.value.code, *capsys.readouterr()


def test_the_command(models, measured, tmp_path, capsys):
    code, printed, errors = ucaudit(capsys, words(models, tmp_path / "o", "--json"))
    assert code == 0, errors
    document = json.loads(printed)
    assert document["measurement"]["tokensDigest"] == measured.windows.digest
    expected = saved(measured, tmp_path / "w")
    assert {name: (tmp_path / "o" / name).read_bytes() for name in expected} == expected
    code, printed, errors = ucaudit(capsys, words(models, tmp_path / "o"))
    assert (code, printed) == (3, "")
    assert errors.splitlines()[0] == f"ucaudit: error: {tmp_path / 'o'}: holds a finished measurement"
    code, printed, errors = ucaudit(capsys, words(models, tmp_path / "p"))
    assert code == 0
    assert [line.split("  ")[0] for line in printed.splitlines() if line[:1] != " "] == [
        "perplexity ratio",
        "perplexity",
        "KL divergence",
        "top-1 agreement",
        "windows, tokens",
        "values",
    ]


def test_the_command_says_what_is_wrong(models, tmp_path, capsys):
    (tmp_path / "empty.txt").touch()
    wrong = words(models, tmp_path / "o", "--corpus", tmp_path / "empty.txt", "--json")
    code, printed, errors = ucaudit(capsys, wrong)
    assert code == 3
    assert json.loads(printed)["error"]["code"] == "unusable-corpus"
    assert errors.splitlines()[0] == f"ucaudit: error: {tmp_path / 'empty.txt'}: the text is empty"
    code, _, errors = ucaudit(capsys, words(models, tmp_path / "o", "--n", 1))
    assert code == 2
    assert "'--n'" in errors


def test_control_c_exits_130_and_the_same_command_resumes(models, tmp_path, capsys):
    out = tmp_path / "o"
    given = words(models, out, "--n", 60)
    process = subprocess.Popen(
        [sys.executable, "-m", "ucaudit", *given], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not list(out.glob(".measure-state/*/window-*")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=60)
    assert (process.returncode, printed) == (130, ""), errors
    assert "ucaudit: error: interrupted" in errors
    assert "Traceback" not in errors
    assert not (out / "measurement.json").exists()
    kept = len(list(out.glob(".measure-state/*/window-*.values")))
    assert 0 < kept < 60
    code, _, errors = ucaudit(capsys, given)
    assert code == 0, errors
    assert f"{kept} of 60 windows are there from an earlier run" in errors
    files = saved(models.measure(tmp_path / "s", n=60), tmp_path / "w")
    assert {name: (out / name).read_bytes() for name in files} == files
    assert not (out / ".measure-state").exists()


def test_models_are_loaded_in_the_dtype_asked_for(models):
    with open_source(models.reference) as source:
        model = load_model(source, dtype=torch.bfloat16, device="cpu")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
