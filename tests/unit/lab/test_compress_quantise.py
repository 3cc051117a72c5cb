import math
from unittest import mock

import pytest
import torch

from ucaudit.core.errors import ModelError
from ucaudit.lab.compress_overlay import fit_overlay
from ucaudit.lab.compress_quantise import (
    DAMPING,
    LARGEST_WEIGHT,
    Grid,
    Metric,
    curved_levels,
    damp,
    factorise,
    fit_grid,
    fit_scales,
    round_nearest,
    round_with_feedback,
    weighted_error,
)
from ucaudit.lab.compress_refine import refine
from ucaudit.lab.compress_tensors import Inputs, TensorSettings, encode_weights
from ucaudit.packs.codecs.ucq_encode import EncodedTensor

BITS, GROUP = 5, 16


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make_metric(moment):
    damped = damp(moment, DAMPING)
    return Metric(damped.float(), *factorise(damped))


@pytest.fixture
def weight():
    return random(24, 48) * 0.05


@pytest.fixture
def moment():
    """Inputs that are strongly correlated and of unequal size."""
    inputs = random(400, 48, seed=1) @ random(48, 48, seed=2) * torch.linspace(0.1, 3, 48)
    return inputs.T @ inputs / len(inputs)


def decoded(codes, scales, grid, group=GROUP):
    spread = scales.float().repeat_interleave(group, 1)[:, : codes.shape[1]]
    return grid.values[codes.long()] * spread


@pytest.mark.parametrize("bits", range(2, 9))
def test_levels_are_distinct_ascending_and_reach_the_end(bits):
    levels = curved_levels(bits).int()
    assert len(levels) == 1 << bits and levels.abs().max() >= 127
    assert (levels[1:] > levels[:-1]).all()


@pytest.mark.parametrize("bits", [2, 3, 5, 8])
def test_the_table_finds_the_nearest_level(bits):
    grid = Grid.of(curved_levels(bits))
    points = torch.cat([random(2000) * 60, torch.tensor([-1e9, -128.0, 127.5, 128.0, 1e9, 0.0])])
    distance = (points.unsqueeze(1) - grid.values).abs()
    found = grid.codes(points.clone())
    assert torch.equal(distance.gather(1, found.unsqueeze(1)).squeeze(1), distance.min(1).values)
    assert grid.bits == bits


def test_fitted_levels_and_scales_beat_plain_rounding(weight):
    ones = torch.ones(48)
    grid = fit_grid(weight, ones, BITS, GROUP)
    scales = fit_scales(weight, ones, grid, GROUP)
    ours = decoded(round_nearest(weight, scales, grid, GROUP), scales, grid) - weight
    cover = (weight.view(24, 3, GROUP).abs().amax(-1) / 15.5).repeat_interleave(GROUP, 1)
    plain = (weight / cover).round().clamp(-16, 15) * cover - weight
    assert ours.square().sum() < 0.8 * plain.square().sum()


def test_important_columns_are_rounded_better(weight):
    importance = torch.ones(48)
    importance[::GROUP] = 1e4
    even, uneven = torch.ones(48), importance
    grid = Grid.of(curved_levels(BITS))
    errors = []
    for metric in (even, uneven):
        scales = fit_scales(weight, metric, grid, GROUP)
        miss = decoded(round_nearest(weight, scales, grid, GROUP), scales, grid) - weight
        errors.append(float(miss[:, ::GROUP].square().sum()))
    assert errors[1] < 0.5 * errors[0]


def test_groups_of_zeros_and_short_last_groups(weight):
    weight[:, :GROUP] = 0
    weight = weight[:, :43]
    grid = Grid.of(curved_levels(BITS))
    scales = fit_scales(weight, torch.ones(43), grid, GROUP)
    assert scales.shape == (24, 3) and scales.dtype == torch.float16
    assert (scales[:, 0] == 0).all() and (scales[:, 1:] > 0).all()
    values = decoded(round_nearest(weight, scales, grid, GROUP), scales, grid)
    assert (values[:, :GROUP] == 0).all()


def test_feedback_lowers_the_weighted_error(weight, moment):
    metric = make_metric(moment)
    grid = fit_grid(weight, metric.importance, BITS, GROUP)
    scales = fit_scales(weight, metric.importance, grid, GROUP)
    nearest = decoded(round_nearest(weight, scales, grid, GROUP), scales, grid) - weight
    codes = round_with_feedback(weight, scales, grid, GROUP, metric)
    fed = decoded(codes, scales, grid) - weight
    assert codes.dtype == torch.uint8 and codes.shape == weight.shape
    assert weighted_error(fed, metric.moment) < 0.6 * weighted_error(nearest, metric.moment)


def test_feedback_is_rounding_column_by_column(weight, moment):
    """Against the method written out: round the most active column, project its error on the others, repeat."""
    metric = make_metric(moment)
    grid = fit_grid(weight, metric.importance, BITS, GROUP)
    scales = fit_scales(weight, metric.importance, grid, GROUP)
    left = weight.double().clone()
    inverse = torch.linalg.inv(metric.moment.double())
    spread = scales.double().repeat_interleave(GROUP, 1)
    expected = torch.empty(weight.shape, dtype=torch.uint8)
    for column in metric.order.tolist():
        ratio = left[:, column] / spread[:, column]
        expected[:, column] = (ratio.unsqueeze(1) - grid.values.double()).abs().argmin(1).to(torch.uint8)
        error = left[:, column] - grid.values.double()[expected[:, column].long()] * spread[:, column]
        left -= torch.outer(error / inverse[column, column], inverse[column])
        inverse -= torch.outer(inverse[:, column], inverse[column]) / inverse[column, column]
        inverse[column, column] = math.inf  # done: it takes no more part
        inverse[column, :column] = inverse[column, column + 1 :] = 0
        inverse[:column, column] = inverse[column + 1 :, column] = 0
    found = round_with_feedback(weight, scales, grid, GROUP, metric)
    assert (found != expected).float().mean() < 0.01  # float32 against float64: near ties may fall either way


def test_the_metrics_factor_is_the_upper_one_of_the_inverse(moment):
    metric = make_metric(moment)
    ordered = metric.moment[metric.order][:, metric.order].double()
    factor = metric.factor.double()
    assert torch.equal(factor, factor.triu()) and bool((factor.diagonal() > 0).all())
    assert torch.allclose(factor.T @ factor @ ordered, torch.eye(len(ordered)).double(), atol=1e-4)


def test_a_metric_of_silent_or_infinite_inputs():
    metric = make_metric(torch.zeros(8, 8))
    assert torch.equal(metric.moment, torch.eye(8))
    broken = torch.eye(8)
    broken[0, 0] = math.inf
    with pytest.raises(ModelError, match="infinite or not a number"):
        make_metric(broken)


@pytest.mark.parametrize("shape", [(24, 48), (64, 20), (3, 40)])
def test_overlay_is_near_the_best_approximation(shape):
    difference = random(*shape) * 0.01
    inputs = random(300, shape[1], seed=3) * torch.linspace(0.2, 2, shape[1])
    moment = inputs.T @ inputs / 300
    overlay = fit_overlay(difference, moment, 4)
    left = weighted_error(difference - overlay.decode(), moment)
    singular = torch.linalg.svdvals(difference.double() @ torch.linalg.cholesky(moment.double()))
    best = float(singular[4:].square().sum())
    whole = float(singular.square().sum())
    assert overlay.rank == min(4, *shape)  # more would be zeros
    assert left - best < 0.02 * whole
    for factor in (overlay.u, overlay.v):
        assert factor.dtype == torch.int8 and factor.abs().max() <= 127 and (factor != -128).all()


def test_overlay_of_nothing_is_nothing():
    overlay = fit_overlay(torch.zeros(6, 8), torch.eye(8), 2)
    assert (overlay.decode() == 0).all() and overlay.rows.isfinite().all() and overlay.cols.isfinite().all()


def test_damping_grows_where_little_was_seen(moment):
    assert Inputs(moment, 12_288).damping == 0.01
    assert Inputs(moment, 64).damping == 0.5
    assert Inputs(moment, 1).damping > 0.98


@pytest.mark.parametrize("rank", [0, 2])
def test_what_is_stored_in_the_end_is_refined(weight, moment, rank):
    settings, inputs = TensorSettings(bits=3, group=GROUP, rank=rank), Inputs(moment, 10_000)
    errors = []
    for rounds in (0, 2):
        with mock.patch("ucaudit.lab.compress_refine.ROUNDS", rounds):
            (made,) = encode_weights({"w": weight}, inputs, settings)
        errors.append(weighted_error(made.decode().float() - weight, moment))
    assert errors[1] < 0.97 * errors[0]


def test_weights_that_share_an_input_are_encoded_together(weight, moment):
    both = {"q": weight, "k": random(8, 48, seed=9) * 0.05}
    encoded = encode_weights(both, Inputs(moment, 10**6), TensorSettings(group=GROUP, rank=2))
    assert [tensor.name for tensor in encoded] == ["q", "k"]
    assert [tuple(tensor.decode().shape) for tensor in encoded] == [(24, 48), (8, 48)]
    damped = make_metric(moment).moment
    plain = encode_weights(both, Inputs(moment, 10**6), TensorSettings(group=GROUP, rank=0))
    for with_overlay, without, matrix in zip(encoded, plain, both.values(), strict=True):
        errors = [weighted_error(matrix - tensor.decode().float(), damped) for tensor in (with_overlay, without)]
        assert errors[0] < errors[1]
        assert with_overlay.overlay.rank == 2 and without.overlay is None


def test_a_text_helps(weight, moment):
    settings = TensorSettings(group=GROUP, rank=0)
    errors = [
        weighted_error(encode_weights({"w": weight}, known, settings)[0].decode().float() - weight, moment)
        for known in (Inputs(moment, 10**6), None)
    ]
    assert errors[0] < 0.7 * errors[1]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_weight_that_is_not_finite_is_named(weight, value):
    weight[3, 5] = value
    with pytest.raises(ModelError, match=r"model\.w: NaN or infinity"):
        encode_weights({"model.w": weight}, None, TensorSettings())


@pytest.mark.parametrize("inputs", [None, "known"])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_weight_that_cannot_be_stored_is_refused_and_the_largest_is_kept(weight, moment, inputs, sign):
    known = None if inputs is None else Inputs(moment, 10**6)
    largest = LARGEST_WEIGHT * sign
    weight[3, 5] = largest
    (tensor,) = encode_weights({"model.w": weight}, known, TensorSettings(group=GROUP, rank=0))
    assert float(tensor.decode()[3, 5]) == pytest.approx(largest, rel=0.01)
    weight[3, 5] = largest * 1.01
    with pytest.raises(ModelError, match=r"model\.w: a weight of size 8\.4e\+06, and the largest") as caught:
        encode_weights({"model.w": weight}, known, TensorSettings())
    assert "checkpoint" in caught.value.hint


@pytest.mark.parametrize("rank", [0, 7])
@pytest.mark.parametrize("shape", [(40, 64), (33, 71)])
def test_bits_on_disk_are_those_stored(rank, shape):
    settings = TensorSettings(group=32, rank=rank)
    (tensor,) = encode_weights({"w": random(*shape)}, None, settings)
    stored = 8 * sum(len(data) for _, _, data in tensor.parts().values())
    assert settings.bits_on_disk(*shape) == pytest.approx(stored / (shape[0] * shape[1]), rel=1e-12)


@pytest.mark.parametrize("group", [16, 20])
def test_refining_never_makes_a_row_worse_and_finds_what_feedback_left(weight, moment, group):
    metric = make_metric(moment)
    grid = fit_grid(weight, metric.importance, 3, group)
    scales = fit_scales(weight, metric.importance, grid, group)
    codes = round_with_feedback(weight, scales, grid, group, metric)

    def errors(codes, scales):
        tensor = EncodedTensor("w", (24, 48), 3, group, codes, grid.levels, scales)
        left = weight.double() - tensor.decode().double()  # bfloat16: the last rounding counts too
        return (left @ metric.moment.double() * left).sum(1)

    better_codes, better_scales = refine(weight, codes, scales, grid, group, metric)
    before, after = errors(codes, scales), errors(better_codes, better_scales)
    assert float(after.sum()) < 0.97 * float(before.sum())
    assert bool((after <= before * 1.01).all())
    assert better_scales.dtype == torch.float16 and bool((better_scales >= 0).all())
    assert int(better_codes.max()) < 8


def test_refining_what_is_exact_changes_nothing(moment):
    metric = make_metric(moment)
    grid = Grid.of(curved_levels(3))
    codes = torch.randint(0, 8, (24, 48), generator=torch.Generator().manual_seed(2)).to(torch.uint8)
    scales = torch.full((24, 3), 0.125, dtype=torch.float16)
    exact = grid.values[codes.long()] * 0.125
    found, steps = refine(exact, codes, scales, grid, GROUP, metric)
    assert torch.equal(found, codes) and torch.allclose(steps.float(), scales.float(), rtol=1e-3)


def test_refining_zeros(moment):
    """Groups of zeros have a scale of zero, for which no code matters."""
    metric = make_metric(moment)
    grid = Grid.of(curved_levels(3))
    nothing = torch.zeros(24, 48)
    scales = torch.zeros((24, 3), dtype=torch.float16)
    codes, steps = refine(nothing, torch.zeros((24, 48), dtype=torch.uint8), scales, grid, GROUP, metric)
    assert not EncodedTensor("w", (24, 48), 3, GROUP, codes, grid.levels, steps).decode().any()
