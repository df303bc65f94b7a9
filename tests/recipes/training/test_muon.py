"""Muon beside torch's, and AdamW for the rest, in one optimizer that is stored and loaded."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from longlive_recipes.training.muon import BUFFER, MuonAdamW, orthogonal
from longlive_recipes.training.optimizers import Optimization


def gradients(parameters: list[nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def weights(*shapes: tuple[int, ...]) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(9)
    return [nn.Parameter(0.3 * torch.randn(shape, generator=generator)) for shape in shapes]


def test_matrices_move_as_torchs_muon_moves_them_and_the_rest_as_adamw():
    own = weights((12, 8), (8, 12), (12, 8), (8,), (5, 8))
    theirs = copy.deepcopy(own)
    optimizer = MuonAdamW(own, own[:3], rate=3e-2, lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1)
    muon = torch.optim.Muon(theirs[:3], lr=3e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(theirs[3:], lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1)
    for step in range(4):
        gradients(own, step)
        gradients(theirs, step)
        for one in (optimizer, muon, adamw):
            one.step()
        for group in (*optimizer.param_groups, *muon.param_groups, *adamw.param_groups):
            group["lr"] *= 0.7  # as a curve of learning rates does
    for a, b in zip(own[:3], theirs[:3], strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=0)  # products of bfloat16
        assert (a - weights(a.shape)[0]).abs().max() > 1e-2
    assert all(torch.equal(a, b) for a, b in zip(own[3:], theirs[3:], strict=True))


@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_singular_values_become_alike_and_vectors_stay(count, rows, columns, seed):
    x = torch.randn(count, rows, columns, generator=torch.Generator().manual_seed(seed))
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    if (s < 0.05 * s.amax(1, keepdim=True)).any():
        return  # five steps do not lift what is almost nothing
    got = u.mT @ orthogonal(x).float() @ v.mT
    diagonal = got.diagonal(dim1=1, dim2=2)
    assert diagonal.min() > 0.5
    assert diagonal.max() < 1.35
    assert (got - torch.diag_embed(diagonal)).abs().max() < 0.15
    assert not orthogonal(torch.zeros_like(x)).any()


def test_a_convolution_is_a_matrix_of_its_outputs():
    [kernel], [flat] = weights((6, 4, 3, 1)), weights((6, 4, 3, 1))
    flat = nn.Parameter(flat.detach().flatten(1))
    for one in (kernel, flat):
        optimizer = MuonAdamW([one], [one], rate=1e-2, lr=1e-2)
        gradients([one], 3)
        optimizer.step()
    assert torch.equal(kernel.flatten(1), flat)


def test_a_parameter_without_a_gradient_stays():
    own = weights((4, 4), (4, 4), (3,))
    before = copy.deepcopy(own)
    optimizer = MuonAdamW(own, own[:2], rate=1e-2, lr=1e-2)
    gradients(own[:1], 0)
    optimizer.step()
    assert not torch.equal(own[0], before[0])
    assert torch.equal(own[1], before[1])
    assert torch.equal(own[2], before[2])


def test_a_stored_state_goes_on_number_for_number():
    own = weights((6, 4), (4,))
    optimizer = MuonAdamW(own, own[:1], rate=1e-2, lr=1e-2)
    gradients(own, 0)
    optimizer.step()
    assert optimizer.state[own[0]].keys() == {"step", BUFFER}
    other = copy.deepcopy(own)
    fresh = MuonAdamW(other, other[:1], rate=1e-2, lr=1e-2)
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for parameters, one in ((own, optimizer), (other, fresh)):
        gradients(parameters, 1)
        one.step()
    assert all(torch.equal(a, b) for a, b in zip(own, other, strict=True))


def test_what_muon_moves_is_checked():
    with pytest.raises(ValueError, match="Optimization.muon is a tuple of str"):
        Optimization(muon=(3,))
    with pytest.raises(ValueError, match="muon_rate"):
        Optimization(muon_rate=0.0)
