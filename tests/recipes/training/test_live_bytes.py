"""Bytes that are alive at a time, of tensors without values."""

import torch
from torch import nn

from longlive_recipes.training.live_bytes import (
    LiveBytes,
    fake_tensors,
    kept_when_compiled,
    norms_as_on_gpu,
)

MIB = 1 << 20


def test_each_piece_of_memory_counts_once_while_a_tensor_is_in_it():
    with fake_tensors(), LiveBytes() as live:
        a = torch.zeros(MIB // 4, dtype=torch.float32)
        assert live.now == MIB
        views = a.view(2, -1).t(), a[5:].detach()
        a.add_(1)
        assert live.now == MIB
        b = a + 1
        assert (live.now, live.peak) == (2 * MIB, 2 * MIB)
        del a
        assert live.now == 2 * MIB  # the views hold it
        del views
        assert (live.now, live.peak) == (MIB, 2 * MIB)
        live.start_peak()
        assert live.peak == MIB
        del b
        assert live.now == 0


def test_what_was_made_before_counts_when_it_is_held_and_a_note_is_taken_at_the_peak():
    notes = [7]
    with fake_tensors():
        before = nn.Linear(4, 4, bias=False)
        live = LiveBytes(noted=lambda: notes[-1])
        with live:
            assert live.now == 0
            live.hold(before.parameters())
            assert live.now == 64
            big = torch.empty(100, dtype=torch.uint8)
            notes.append(9)
            del big
            small = torch.empty(50, dtype=torch.uint8)
        assert (live.peak, live.at_peak, live.now) == (164, 7, 64 + len(small))


def test_a_model_too_large_for_any_machine_is_counted():
    with fake_tensors(), LiveBytes() as live:
        model = nn.Linear(1 << 20, 1 << 20, bias=False)
        assert live.now == 1 << 42
        del model


def test_a_compiler_keeps_less_than_each_operation_would():
    def chain(x, weight):
        y = x @ weight
        for _ in range(5):
            y = (y.sin() * 1.5).exp()
        return y

    def kept_eagerly(x, weight):
        live = LiveBytes()
        with live:
            y = chain(x, weight)
            assert y.requires_grad
            return live.now

    with fake_tensors():
        x = torch.zeros(64, 32, dtype=torch.float32, requires_grad=True)
        weight = torch.zeros(32, 32, dtype=torch.float32, requires_grad=True)
        matrix = 64 * 32 * 4
        assert kept_eagerly(x, weight) == 6 * matrix  # each exp, which sin is given next
        assert kept_when_compiled(chain, x, weight) <= 2 * matrix  # of a chain, the rest is redone


def test_a_norm_of_a_gpu_keeps_its_input_and_a_float_a_row():
    own = nn.functional.rms_norm
    with fake_tensors():
        norm = nn.RMSNorm(512, dtype=torch.bfloat16)
        x = torch.zeros(1024, 512, dtype=torch.bfloat16, requires_grad=True)
        with LiveBytes() as live, norms_as_on_gpu():
            live.hold([x])
            y = norm(x)
            assert live.now == 2 * MIB + 4 * 1024  # x, y, and a float a row
            y.sum().backward()
        assert x.grad.shape == x.shape
        assert norm.weight.grad.dtype == torch.bfloat16
    assert nn.functional.rms_norm is own
