"""Gradients of loops over positions, without a tensor of the whole size for each position."""

import threading

import pytest
import torch

from ucaudit.models.picks import picks_apart

LENGTH = 12


def recurrence(inputs, decay):
    """The shape of a state space model's scan: [batch, channels, length, states]."""
    state, seen = torch.zeros_like(inputs[:, :, 0]), []
    for index in range(inputs.shape[2]):
        state = decay[:, :, index] * state + inputs[:, :, index]
        seen.append(state)
    return torch.stack(seen, 2).square().sum()


def arrays():
    generator = torch.Generator().manual_seed(4)
    return [torch.rand(1, 3, LENGTH, 2, generator=generator).requires_grad_() for _ in range(2)]


def nodes_of(loss):
    """The names of all nodes of a graph."""
    found, waiting, known = [], [loss.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in known:
            continue
        known.add(node)
        found.append(type(node).__name__)
        waiting += [after for after, _ in node.next_functions]
    return found


def test_values_and_gradients_are_the_same_numbers():
    leaves = arrays()
    plain = recurrence(*leaves)
    expected = torch.autograd.grad(plain, leaves)
    with picks_apart():
        found = recurrence(*leaves)
        gradients = torch.autograd.grad(found, leaves)
    assert torch.equal(found, plain)
    assert all(map(torch.equal, gradients, expected))


def test_each_tensor_is_taken_apart_once():
    leaves = arrays()
    with picks_apart():
        nodes = nodes_of(recurrence(*leaves))
    assert nodes.count("UnbindBackward0") == 2
    assert "SelectBackward0" not in nodes
    assert nodes_of(recurrence(*leaves)).count("SelectBackward0") > LENGTH


@pytest.mark.parametrize(
    "index",
    [
        0,
        (0,),
        (slice(None), -1),
        (slice(None), 2, slice(None)),
        (slice(None), slice(1, 3), 0),
        (slice(None), 1, slice(0, 2)),
        (..., 1),
        (slice(None), None, 1),
        (slice(None), True),
        (slice(None), torch.tensor([1, 0]), 0),
        (slice(None), slice(None), 1),
        slice(1, None),
    ],
)
def test_every_index_gives_what_torch_gives(index):
    tensor = torch.arange(24.0).view(2, 3, 4).requires_grad_()
    expected = tensor[index]
    (slope,) = torch.autograd.grad(expected.square().sum(), tensor)
    with picks_apart():
        found = tensor[index]
        (gradient,) = torch.autograd.grad(found.square().sum(), tensor)
    assert torch.equal(found, expected) and torch.equal(gradient, slope)


@pytest.mark.parametrize("index", [(slice(None), 3), (slice(None), 0, slice(None))])
def test_what_torch_refuses_is_still_refused(index):
    tensor = torch.zeros(2, 3, requires_grad=True)
    with picks_apart(), pytest.raises(IndexError):
        tensor[index]


def test_what_a_gradient_does_not_reach_is_left_alone():
    tensor = torch.zeros(2, 3)
    with picks_apart():
        tensor[:, 1].add_(1)
    assert tensor[:, 1].tolist() == [1, 1]


def test_other_threads_are_left_alone():
    tensor, seen = torch.zeros(2, 3, requires_grad=True), []
    with picks_apart():
        thread = threading.Thread(target=lambda: seen.append(type(tensor[:, 1].grad_fn).__name__))
        thread.start()
        thread.join()
    assert seen == ["SelectBackward0"]


def test_a_change_in_place_between_two_picks_is_seen():
    leaf = torch.arange(6.0).view(2, 3).requires_grad_()

    def loss():
        tensor = leaf * 2
        first = tensor[:, 0].clone()
        tensor[:, 1] = first * 3
        return (tensor[:, 1] * tensor[:, 2]).sum()

    plain = loss()
    (expected,) = torch.autograd.grad(plain, leaf)
    with picks_apart():
        found = loss()
        (gradient,) = torch.autograd.grad(found, leaf)
    assert torch.equal(found, plain) and torch.equal(gradient, expected)


def test_a_change_in_place_while_a_pick_is_used_is_an_error_never_another_number():
    leaf = torch.ones(2, 3, requires_grad=True)
    with picks_apart(), pytest.raises(RuntimeError, match="modified inplace"):
        tensor = leaf * 2
        first = tensor[:, 0]
        tensor[:, 1] = 5
        first * tensor[:, 1]


def test_picked_twice_and_used_whole():
    leaf = arrays()[0]

    def loss():
        return (leaf[:, :, 1] * leaf[:, :, 1] + leaf[:, :, 0]).sum() + leaf.square().sum()

    (expected,) = torch.autograd.grad(loss(), leaf)
    with picks_apart():
        (found,) = torch.autograd.grad(loss(), leaf)
    assert torch.allclose(found, expected)
