"""A text through one layer in pieces: the same as at once, whatever the threads do, and nobody is left waiting."""

import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
import torch
from families import FAMILIES, SMALL, make_family
from torch import nn
from torch.nn import functional

from ucaudit.lab import compress_pass
from ucaudit.lab.compress_blocks import both, each, even_spans, fixed_blocks, workers
from ucaudit.lab.compress_layer import compress_layer
from ucaudit.lab.compress_layers import Matrix, groups, matrix_of, record_reads, second_moment
from ucaudit.lab.compress_pass import Calls, Replacements, enter, pieces, run_layer
from ucaudit.lab.compress_tensors import TensorSettings
from ucaudit.models.layers import Call, call_layer
from ucaudit.models.streamed import StreamedModel
from ucaudit.packs.codecs import open_source

LENGTH, WIDTH = 8, 16
FIRST, SECOND = Matrix("first.weight"), Matrix("second.weight")


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(compress_pass, "POSITIONS", 2 * LENGTH)


@pytest.fixture(params=[1, 2, 5])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    with fixed_blocks():
        assert workers() == request.param
        yield request.param
    torch.set_num_threads(before)


class Layer(nn.Module):
    """Two weights, one after the other."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        for name in ("first", "second"):
            linear = nn.Linear(WIDTH, WIDTH, bias=False)
            linear.weight.data = torch.randn(WIDTH, WIDTH, generator=generator)
            setattr(self, name, linear)
        self.slow = 0
        self.seen = None

    def forward(self, hidden, sequences):
        assert len(hidden) == sequences
        assert self.seen is None  # what a module keeps of a call is not another piece's
        self.seen = hidden
        if self.slow:
            time.sleep(0.02 * (float(hidden[0, 0, 0]) % 1))  # the pieces overtake one another
        return self.second(torch.tanh(self.first(hidden)))


class Experts(nn.Module):
    """A stack of weights; each position goes to one of them, as the first number says, and none to the last."""

    def __init__(self, count=4):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.stack = nn.Parameter(torch.randn(count, WIDTH, WIDTH, generator=generator))

    def forward(self, hidden):
        flat = hidden.reshape(-1, WIDTH)
        chosen = flat[:, 0].long() % len(self.stack)
        result = torch.zeros_like(flat)
        for expert in range(len(self.stack)):
            here = chosen == expert
            if here.any():
                result[here] = functional.linear(flat[here], self.stack[expert])
        return result.view(hidden.shape)


def text(sequences=7):
    hidden = torch.randn(sequences, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1))
    return hidden, calls_for(hidden)


def calls_for(hidden, **more):
    called = [Call(kwargs={"sequences": span.stop - span.start, **more}) for span in pieces(hidden)]
    return Calls(called[-1], called)


def both_replaced(notes):
    """Each weight is negated, and what was seen in front of it is noted."""

    def replace(members, moment, positions):
        notes.append((members, moment, positions))
        for matrix in members:
            matrix_of(layer, matrix).neg_()

    layer = Layer()
    return layer, Replacements({FIRST, SECOND}, [[FIRST], [SECOND]], replace)


def test_pieces_are_whole_sequences():
    assert pieces(torch.zeros(5, LENGTH, 1)) == [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert pieces(torch.zeros(2, 5 * LENGTH, 1)) == [slice(0, 1), slice(1, 2)]
    assert pieces(torch.zeros(4, 1, 1)) == [slice(0, 4)]


def test_every_piece_uses_the_weight_that_all_of_them_decided(threads):
    hidden, calls = text()
    notes = []
    layer, ways = both_replaced(notes)
    layer.slow = 1
    with torch.no_grad():
        found = run_layer(layer, hidden, calls, ways)
        negated, original = layer, Layer()
        expected = negated.second(torch.tanh(negated.first(hidden)))
        between = torch.tanh(negated.first(hidden))
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.equal(negated.first.weight, -original.first.weight)
    assert [(members, positions) for members, _, positions in notes] == [([FIRST], 56), ([SECOND], 56)]
    for (_, moment, _), seen in zip(notes, (hidden, between), strict=True):
        assert torch.allclose(moment, second_moment([seen])[0], atol=1e-6)


def test_the_bits_do_not_depend_on_threads():
    outcomes = []
    before = torch.get_num_threads()
    for count in (1, 2, 4):
        torch.set_num_threads(count)
        notes = []
        with fixed_blocks():
            layer, ways = both_replaced(notes)
            layer.slow = count
            hidden, calls = text()
            outcomes.append([run_layer(layer, hidden, calls, ways), *(moment for _, moment, _ in notes)])
        torch.set_num_threads(before)
    for outcome in outcomes[1:]:
        assert all(torch.equal(one, other) for one, other in zip(outcomes[0], outcome, strict=True))


def test_weights_that_are_not_wanted_stay(threads):
    hidden, calls = text()
    layer, notes = Layer(), []
    only = Replacements({SECOND}, [], lambda *seen: notes.append(seen))
    with torch.no_grad():
        expected = layer.second(torch.tanh(layer.first(hidden)))
    assert torch.allclose(run_layer(layer, hidden, calls, only), expected, atol=1e-6)
    assert torch.allclose(run_layer(layer, hidden, calls), expected, atol=1e-6)
    assert [members for members, *_ in notes] == [[SECOND]]


def test_experts_wait_for_those_who_skip_some(threads):
    """Pieces reach other experts, in other numbers; each expert sees all that is his, in one go."""
    layer, notes = Experts(), []
    hidden = torch.rand(6, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1))
    chosen = torch.tensor([0, 2, 2, 1, 0, 2])  # of a sequence; the probe, which is the first, knows only expert 0
    hidden[:, :, 0] += chosen[:, None]
    reads = record_reads(layer, hidden[:1], Call())
    wanted = {Matrix("stack", expert) for expert in range(4)}
    together = groups(reads, wanted)
    assert together == [[Matrix("stack", 0)]]

    def replace(members, moment, positions):
        notes.append((members, positions))
        for matrix in members:
            matrix_of(layer, matrix).mul_(0)

    found = run_layer(layer, hidden, Calls(Call(), [Call()] * 3), Replacements(wanted, together, replace))
    assert not found.any()
    assert notes == [([Matrix("stack", 0)], 16), ([Matrix("stack", 1)], 8), ([Matrix("stack", 2)], 24)]
    assert layer.stack[3].any()


def test_stacks_are_replaced_in_the_order_in_which_experts_use_them():
    def order(*used):
        ways = Replacements(set(), [[Matrix(*item)] for item in used], None)
        every = [Matrix(*item) for item in [("q", -1), ("up", 0), ("down", 0), ("up", 1), ("down", 1), ("up", 2)]]
        return [item.parameter + str(item.expert) for item in sorted(every, key=ways.order)]

    one_expert_after_the_other = ["q-1", "up0", "down0", "up1", "down1", "up2"]
    assert order(("q", -1), ("up", 0), ("down", 0), ("up", 2), ("down", 2)) == one_expert_after_the_other
    assert order(("q", -1), ("up", 1), ("down", 1)) == one_expert_after_the_other
    one_stack_after_the_other = ["q-1", "up0", "up1", "up2", "down0", "down1"]
    assert order(("q", -1), ("up", 0), ("up", 2), ("down", 0), ("down", 2)) == one_stack_after_the_other


def test_a_piece_is_called_as_it_was_recorded(threads):
    class Shifting(nn.Module):
        def forward(self, hidden, by):
            return hidden + by

    hidden = torch.zeros(5, LENGTH, WIDTH)
    calls = Calls(Call((9.0,)), [Call((float(number),)) for number in range(3)], alike=False)
    found = run_layer(Shifting(), hidden, calls)
    assert found[:, 0, 0].tolist() == [0.0, 0.0, 1.0, 1.0, 2.0]


def test_few_pieces_leave_their_products_to_the_other_threads(threads):
    seen = set()

    class Asking(nn.Module):
        def forward(self, hidden):
            seen.update(each(lambda _: threading.current_thread().name, range(4)))
            return hidden

    run_layer(Asking(), torch.zeros(1, LENGTH, WIDTH), Calls(Call(), [Call()]))
    assert any(name.startswith("piece") for name in seen) == (threads == 1)


@pytest.mark.parametrize("where", ["layer", "replace"])
@pytest.mark.parametrize("sequences", [1, 6, 7])
def test_what_fails_is_raised_and_no_thread_is_left(threads, where, sequences):
    hidden, calls = text(sequences)
    layer = Layer()

    def replace(members, moment, positions):
        if where == "replace" and members == [SECOND]:
            raise KeyboardInterrupt

    if where == "layer":
        hidden[min(5, sequences - 1)] = torch.nan  # in the third piece, which may be the last or the only one

        def refuse(module, given):
            if given[0].isnan().any():
                raise ZeroDivisionError

        layer.second.register_forward_pre_hook(refuse)
    ways = Replacements({FIRST, SECOND}, [[FIRST], [SECOND]], replace)
    with pytest.raises(ZeroDivisionError if where == "layer" else KeyboardInterrupt):
        run_layer(layer, hidden, calls, ways)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("piece")]


# Odd ones: arguments that depend on the text; layers that keep what they saw.
ODD = {
    "gemma4": (
        "Gemma4TextConfig",
        {
            **SMALL,
            "head_dim": 16,
            "global_head_dim": 16,
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": 320,
            "num_kv_shared_layers": 0,
            "layer_types": ["sliding_attention", "full_attention", "full_attention"],
            "sliding_window": 8,
        },
    ),
    "recurrent-gemma": (
        "RecurrentGemmaConfig",
        {
            **SMALL,
            "lru_width": 64,
            "attention_window_size": 8,
            "block_types": ["recurrent", "attention", "recurrent"],
            "head_dim": 16,
        },
    ),
}


@pytest.mark.parametrize("family", ["llama-tied", "gemma2", "mixtral", "mamba", *ODD])
def test_pieces_of_a_model_are_the_model(monkeypatch, tmp_path, family):
    """Five sequences in pieces of two, two and one, against all at once."""
    monkeypatch.setattr(compress_pass, "POSITIONS", 32)
    monkeypatch.setitem(FAMILIES, family, {**FAMILIES, **ODD}[family])
    make_family(family, tmp_path / "m")
    ids = torch.randint(1, 320, (5, 16), generator=torch.Generator().manual_seed(1))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with open_source(tmp_path / "m") as source, fixed_blocks():
        model = StreamedModel(source, dtype=torch.float32, device="cpu", threads=1)
        with model.front():
            whole = model.enter(ids)
        hidden, calls = enter(model, ids)
        assert torch.equal(hidden, whole.hidden)
        assert {call.alike for call in calls} == {family != "gemma4"}
        for index in range(model.count):
            with model.loaded(index) as layer, torch.no_grad():
                expected = call_layer(layer, hidden, whole.calls[index])
                assert torch.allclose(run_layer(layer, hidden, calls[index]), expected, rtol=1e-4, atol=1e-5)
            hidden = expected
    torch.set_num_threads(before)


IMPATIENT = """
import time
import test_compress_pass as tests
from ucaudit.lab import compress_pass
compress_pass.POSITIONS = 2 * tests.LENGTH
hidden, calls = tests.text()
layer, ways = tests.both_replaced([])
def replace(*_):
    print("replacing", flush=True)
    time.sleep(60)
layer.second.register_forward_pre_hook(lambda *_: time.sleep(3))
tests.run_layer(layer, hidden, calls, tests.Replacements({tests.FIRST}, [], replace))
"""


def test_asked_twice_to_stop_it_stops():
    process = subprocess.Popen(
        [sys.executable, "-c", IMPATIENT],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None and process.stdout.readline() == "replacing\n"
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    _, errors = process.communicate(timeout=20)
    assert process.returncode in {1, -signal.SIGINT} and "KeyboardInterrupt" in errors


def test_blocks_are_even_and_never_too_large():
    for count in (1, 2, 511, 512, 513, 576, 960, 1024, 1025, 3072):
        sizes = [span.stop - span.start for span in even_spans(count)]
        assert sum(sizes) == count and max(sizes) <= 512
        assert max(sizes) - min(sizes) < len(sizes)
    assert even_spans(0) == []


def test_work_inside_work_is_a_plain_loop(threads):
    main = threading.get_ident()

    def inside():
        return set(each(lambda _: threading.get_ident(), range(4)))

    one, two = both(inside, threading.get_ident)
    assert len(one) == 1 and main not in {*one, two}
    assert workers() == threads


class Chosen(nn.Module):
    """Experts that are modules of their own; each position goes to one of them, as the first number says."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))
        for expert in self.experts:
            expert.weight.data = torch.randn(WIDTH, WIDTH, generator=generator).bfloat16().float()

    def forward(self, hidden):
        flat = hidden.reshape(-1, WIDTH)
        chosen = flat[:, 0].long() % len(self.experts)
        result = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            if (here := chosen == number).any():
                result[here] = expert(flat[here])
        return result.view(hidden.shape)


def test_what_only_the_text_uses_is_stored_once():
    """The probe, which is the first sequence, knows one of three; the text two."""
    layer = Chosen()
    hidden = torch.rand(6, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1))
    hidden[:, :, 0] += torch.tensor([0, 0, 2, 2, 0, 2])[:, None]
    stored = {name: parameter.detach().bfloat16() for name, parameter in layer.named_parameters()}
    source = SimpleNamespace(load=stored.get, spec=lambda _: SimpleNamespace(dtype="BF16"))
    made = compress_layer(
        layer,
        {name: name for name in stored},
        source,
        TensorSettings(group=8, rank=0),
        config=SimpleNamespace(),
        probe=(hidden[:1], Call()),
        text=(hidden, Calls(Call(), [Call()] * 3)),
    )
    assert sorted(tensor.name for tensor in made.encoded) == sorted(stored) and not made.raw
    for tensor in made.encoded:
        assert torch.equal(layer.get_parameter(tensor.name), tensor.decode().float())
        assert torch.allclose(tensor.decode().float(), stored[tensor.name].float(), atol=0.3)
