"""Blocks that run again in the backward pass, with attention and without: the same numbers."""

import subprocess
import sys
import weakref
from collections import Counter

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from longlive_core.attention import AnyMask
from longlive_core.kv_cache import Window
from longlive_core.testing import assert_bitwise_equal
from longlive_models.objectives import shot_anchors, teacher_forcing_mask
from longlive_models.wan import attention as wan_attention
from longlive_models.wan.recomputation import KeptAttention, check_checkpointing, recomputed
from tests.models.wan.tiny import TINY, TOKENS, inputs, tiny_model

FRAMES = 6
LAYERS = TINY.num_layers


@pytest.fixture
def attended(monkeypatch) -> Counter:
    """How often attention has computed."""
    calls: Counter = Counter()

    def counted(run):
        def call(*args, **kwargs):
            calls["calls"] += 1
            return run(*args, **kwargs)

        return call

    for name in ("attention", "masked_attention"):
        monkeypatch.setattr(wan_attention, name, counted(getattr(wan_attention, name)))
    return calls


def a_mask(kind: str) -> AnyMask | None:
    """No mask, the whole past, or a window over shots, whose rule looks things up in tables."""
    if kind == "none":
        return None
    anchors = shot_anchors(FRAMES // TINY.frames_per_block, [1])
    window = {"policy": Window(pages=3, sink=1, shot_sink=1), "shot_starts": anchors}
    policy = window if kind == "window" else {}
    return teacher_forcing_mask(FRAMES, TOKENS, TINY.frames_per_block, **policy)


def step(
    checkpointing: object, kind: str, backend: str = "auto", *, autocast: bool = False
) -> list[Tensor]:
    """The loss and all gradients."""
    model = tiny_model(
        gradient_checkpointing=checkpointing, attention="auto", masked_attention=backend
    ).float()
    latents, timesteps, text = (x.float() for x in inputs(frames=FRAMES, segments=3))
    mask = a_mask(kind)
    clean = inputs(frames=FRAMES, seed=1)[0].float()
    how = {} if mask is None else {"mask": mask, "clean": clean}
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = model(latents, timesteps, text, **how).float().square().mean()
    loss.backward()
    return [loss.detach(), *(parameter.grad for parameter in model.parameters())]


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("kind", ["none", "past", "window"])
def test_gradients_are_the_same_to_the_bit_and_attention_runs_once(attended, kind, autocast):
    plain = step(False, kind, autocast=autocast)
    for checkpointing, times in ((True, 2), ("attention", 1)):
        attended.clear()
        for got, want in zip(step(checkpointing, kind, autocast=autocast), plain, strict=True):
            assert_bitwise_equal(got, want)
        cross_attention = 2 * LAYERS  # it is short, and always runs again
        assert attended["calls"] == times * LAYERS + cross_attention


def test_so_they_are_with_the_reference():
    plain = step(False, "window", "reference")
    for got, want in zip(step("attention", "window", "reference"), plain, strict=True):
        assert_bitwise_equal(got, want)


def operands() -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, 5, 3, 8, requires_grad=True) for _ in range(3)]


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return wan_attention.attention(q, k, v)


def kept_block(made: list[weakref.ref], kept: KeptAttention):
    """Operands that the block computes, which are noted down, and attention that is kept."""

    def block(*given: Tensor) -> Tensor:
        q, k, v = (2 * x for x in given)
        made.extend(weakref.ref(x.untyped_storage()) for x in (q, k, v))
        return kept.attend(attend, q, k, v).sin()

    return block


def test_queries_keys_and_values_are_not_held_until_the_backward_pass():
    made: list[weakref.ref] = []
    kept, given = KeptAttention(), operands()
    out = recomputed(kept_block(made, kept), *given, keep=kept)
    assert len(made) == 3
    assert not any(storage() for storage in made)
    out.sum().backward()
    assert len(made) == 6
    assert not any(storage() for storage in made)


def test_what_is_kept_goes_with_the_graph():
    kept, given = KeptAttention(), operands()
    out = recomputed(kept_block([], kept), *given, keep=kept)
    held = weakref.ref(kept.output(attend, ()).untyped_storage())
    assert held() is not None
    del out, kept
    assert held() is None


@pytest.mark.parametrize("gradients", [(True, False, False), (False, True, True)])
def test_only_what_needs_a_gradient_has_one(gradients):
    found = []
    for keep in (False, True):
        given = [x.detach().requires_grad_(n) for x, n in zip(operands(), gradients, strict=True)]
        kept = KeptAttention()
        run = kept_block([], kept) if keep else (lambda q, k, v: attend(2 * q, 2 * k, 2 * v).sin())
        checkpoint(run, *given, use_reentrant=False).sum().backward()
        found.append([x.grad for x in given])
    assert [grad is not None for grad in found[1]] == list(gradients)
    for got, want in zip(found[1], found[0], strict=True):
        if want is not None:
            assert_bitwise_equal(got, want)


def test_a_graph_that_is_kept_can_go_back_twice():
    kept, given = KeptAttention(), operands()
    loss = recomputed(kept_block([], kept), *given, keep=kept).sum()
    loss.backward(retain_graph=True)
    once = [x.grad.clone() for x in given]
    loss.backward()
    for x, grad in zip(given, once, strict=True):
        assert_bitwise_equal(x.grad, 2 * grad)


def test_operands_that_share_memory_are_told_apart():
    found = []
    for keep in (False, True):
        torch.manual_seed(0)
        x = torch.randn(2, 5, 9, 8, requires_grad=True)
        kept = KeptAttention()

        def block(x: Tensor, kept=kept if keep else None) -> Tensor:
            q, k, v = (2 * x).chunk(3, 2)
            return (attend(q, k, v) if kept is None else kept.attend(attend, q, k, v)).sin()

        recomputed(block, x, keep=kept).sum().backward()
        found.append(x.grad)
    assert_bitwise_equal(found[1], found[0])


@pytest.mark.parametrize("wrong", ["full", 1, None])
def test_another_name_is_refused(wrong):
    with pytest.raises(ValueError, match="checkpointing is true, false or 'attention', got"):
        check_checkpointing("checkpointing", wrong)


WITH_FLEX = """
import sys
from dataclasses import replace
import torch
from functorch.compile import make_boxed_func, min_cut_rematerialization_partition
from torch._dynamo.backends.common import aot_autograd
from torch.nn.attention import flex_attention as flex
from longlive_core import attention_backends
from longlive_core.backends import always
from longlive_core.kv_cache import Window
from longlive_models.objectives import shot_anchors, teacher_forcing_mask
from tests.models.wan.tiny import TINY, TOKENS, inputs, tiny_model

backend = sys.argv[1]
eager = flex.flex_attention
attention_backends._compiled_flex_attention = lambda: eager
flex._validate_device = lambda *tensors: None
for row in attention_backends.MASKED_ATTENTION.backends:
    object.__setattr__(row, "why_not", always)

backward = []

def compiler(graph, given):
    backward.append([str(n.target) for n in graph.graph.nodes if n.op == "call_function"])
    return make_boxed_func(graph.forward)

recording = aot_autograd(
    fw_compiler=lambda graph, given: make_boxed_func(graph.forward),
    bw_compiler=compiler,
    partition_fn=min_cut_rematerialization_partition,
)

def step(checkpointing, compiled):
    config = replace(TINY, dim=32)
    model = tiny_model(config, gradient_checkpointing=checkpointing, masked_attention=backend)
    latents, timesteps, text = inputs(frames=4, segments=2)
    anchors = shot_anchors(2, [1])
    mask = teacher_forcing_mask(
        4, TOKENS, 2, policy=Window(pages=3, sink=1, shot_sink=1), shot_starts=anchors
    )
    mask.flex(latents.device) if backend == "flex" else mask.dense(latents.device)
    run = model.forward
    if compiled:
        torch._dynamo.reset()
        run = torch.compile(run, backend=recording, fullgraph=True, dynamic=False)
    loss = run(latents, timesteps, text, clean=latents, mask=mask).square().mean()
    loss.backward()
    return [loss.detach(), *(p.grad for p in model.parameters())]

want = step(False, False)
for got, value in zip(step("attention", False), want, strict=True):
    assert torch.equal(got, value)
for checkpointing in (False, True, "attention"):
    for got, value in zip(step(checkpointing, True), want, strict=True):
        torch.testing.assert_close(got, value, rtol=1e-10, atol=1e-12)
again = [sum("backward" not in name and "attention" in name for name in one) for one in backward]
print(*again)
"""


@pytest.mark.parametrize("backend", ["sdpa", "flex"])
def test_a_compiled_checkpoint_saves_what_attention_gave(backend):
    """The graph of the backward pass attends again under True alone; gradients are the same.

    So they are in eager mode. FlexAttention on a CPU: torch refuses its gradient there, which its
    parts have. (Checked shapes cannot be traced: a process of its own.)
    """
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITH_FLEX, backend],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    never, again, kept = map(int, result.stdout.split())
    assert (never, kept) == (0, 0)
    assert again >= LAYERS or backend == "sdpa"  # SDPA runs again inside another operation
