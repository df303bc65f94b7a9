"""Every backend computes the reference's attention, gradients included; the choice is right."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longlive_core.attention import (
    ATTENTION,
    MASKED_ATTENTION,
    AttentionMask,
    attention,
    attention_request,
    masked_attention,
)
from longlive_core.backends import BackendUnavailable, Request

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
FASTER = [b.name for b in ATTENTION.backends if b.name != "reference" and b.quality == "lossless"]
MASKED = [b.name for b in MASKED_ATTENTION.backends if b.name != "reference"]


def operands(batch, queries, keys, heads, head_dim, dtype=torch.float32, grad=False):
    return tuple(
        torch.randn(batch, tokens, heads, head_dim, device=DEVICE).to(dtype).requires_grad_(grad)
        for tokens in (queries, keys, keys)
    )


def banded(queries: int, keys: int, width: int) -> AttentionMask:
    """Each query sees itself and the keys of a band, looked up in a table."""
    table = (torch.arange(keys) % width) < (width + 1) // 2

    def mask_mod(b, h, q, kv, table):
        return (q == kv) | (table[kv] & (kv <= q + width)) | (kv == 0)

    return AttentionMask(mask_mod, queries, keys, (table,))


def test_the_reference_is_softmax_attention():
    q, k, v = operands(2, 3, 5, 2, 4)
    got = attention(q, k, v, scale=0.7, backend="reference")
    for b in range(2):
        for h in range(2):
            weights = torch.softmax(0.7 * q[b, :, h] @ k[b, :, h].T, dim=-1)
            torch.testing.assert_close(got[b, :, h], weights @ v[b, :, h])


@given(
    queries=st.integers(1, 20),
    keys=st.integers(1, 40),
    head_dim=st.sampled_from([4, 48, 64]),
    scale=st.sampled_from([None, 0.3]),
)
def test_sdpa_matches_the_reference(queries, keys, head_dim, scale):
    q, k, v = operands(2, queries, keys, 3, head_dim)
    want = attention(q, k, v, scale=scale, backend="reference")
    torch.testing.assert_close(attention(q, k, v, scale=scale, backend="sdpa"), want)


@pytest.mark.parametrize("head_dim", [48, 64, 128])
@pytest.mark.parametrize("grad", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("backend", FASTER)
def test_every_backend_matches_the_reference(backend, grad, head_dim):
    q, k, v = operands(2, 200, 330, 3, head_dim, torch.bfloat16, grad)
    why = ATTENTION.explain(attention_request(q, k, v))[backend]
    if not why.startswith("usable"):
        pytest.skip(why)
    got = attention(q, k, v, backend=backend)
    want = attention(*(x.detach().float() for x in (q, k, v)), backend="reference")
    torch.testing.assert_close(got.float(), want, rtol=2e-2, atol=1e-2)
    if grad:
        compare_gradients(got, attention(q, k, v, backend="reference"), (q, k, v), 2e-2)


@pytest.mark.parametrize("head_dim", [48, 64])
@pytest.mark.parametrize("tokens", [64, 300])
@pytest.mark.parametrize("backend", MASKED)
def test_every_masked_backend_matches_the_reference(backend, tokens, head_dim):
    mask = banded(tokens, tokens, 90)
    q, k, v = operands(2, tokens, tokens, 3, head_dim, grad=True)
    why = MASKED_ATTENTION.explain(attention_request(q, k, v))[backend]
    if not why.startswith("usable"):
        pytest.skip(why)
    got = masked_attention(q, k, v, mask, backend=backend)
    want = masked_attention(q, k, v, mask, backend="reference")
    tolerance = 1e-5 if DEVICE.type == "cpu" else 1e-2  # TF32 in the compiled kernel
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)
    compare_gradients(got, want, (q, k, v), tolerance)


def compare_gradients(got, want, inputs, tolerance):
    upstream = torch.randn_like(want)
    pairs = zip(
        torch.autograd.grad(got, inputs, upstream.to(got.dtype)),
        torch.autograd.grad(want, inputs, upstream),
        strict=True,
    )
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("key_heads", [1, 2, 6])
@pytest.mark.parametrize("backend", [b.name for b in ATTENTION.backends])
def test_grouped_heads_are_key_heads_repeated(backend, key_heads):
    q, k, v = (operands(2, 70, 70, n, 64, torch.bfloat16, True)[0] for n in (6, *[key_heads] * 2))
    why = ATTENTION.explain(attention_request(q, k, v))[backend]
    if not why.startswith("usable"):
        pytest.skip(why)
    got = attention(q, k, v, backend=backend)
    repeated = [x.repeat_interleave(6 // key_heads, 2) for x in (k, v)]
    want = attention(*(x.float() for x in (q, *repeated)), backend="reference")
    torch.testing.assert_close(got.float(), want, rtol=2e-2, atol=1e-2)
    compare_gradients(got, want, (q, k, v), 2e-2)


@pytest.mark.parametrize("backend", [b.name for b in MASKED_ATTENTION.backends])
def test_grouped_heads_under_a_mask_of_each_head(backend):
    q, k, v = (operands(2, 140, 140, n, 64, grad=True)[0] for n in (6, 2, 2))
    why = MASKED_ATTENTION.explain(attention_request(q, k, v))[backend]
    if not why.startswith("usable"):
        pytest.skip(why)
    mask = AttentionMask(lambda b, h, q, kv: (kv <= q) & (kv >= q - 20 * h - b), 140, 140)
    got = masked_attention(q, k, v, mask, scale=0.1, backend=backend)
    repeated = [x.repeat_interleave(3, 2) for x in (k, v)]
    want = masked_attention(q, *repeated, mask, scale=0.1, backend="reference")
    tolerance = 1e-5 if DEVICE.type == "cpu" else 1e-2
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)
    compare_gradients(got, want, (q, k, v), tolerance)


def test_heads_that_are_no_multiple_are_refused():
    q, k, v = operands(1, 3, 3, 4, 8)
    with pytest.raises(ValueError, match=r"multiple of key heads, got \[1, 3, 4, 8\], \[1, 3, 3"):
        attention(q, k[:, :, :3], v[:, :, :3])


def test_a_kernel_for_equal_heads_says_so(monkeypatch):
    pretend_gpu(monkeypatch, (9, 0), ("xformers.ops",))
    request = Request(
        device=torch.device("cuda", 0), dtype=torch.bfloat16, head_dim=128, grouped=True
    )
    standing = ATTENTION.explain(request)
    for name in ("xformers", "cudnn"):
        assert "as many key heads as query heads" in standing[name]
    assert ATTENTION.receipt(request).backend == "sdpa"


def test_a_hidden_key_changes_nothing_and_gets_no_gradient():
    q, k, v = operands(1, 6, 6, 2, 8, grad=True)
    causal = AttentionMask(lambda b, h, q, kv: kv <= q, 6, 6)
    out = masked_attention(q, k, v, causal)
    moved = masked_attention(
        q, torch.cat([k[:, :5], k[:, 5:] + 9], 1), torch.cat([v[:, :5], v[:, 5:] + 9], 1), causal
    )
    torch.testing.assert_close(moved[:, :5], out[:, :5])
    (gradient,) = torch.autograd.grad(out[:, :5].sum(), v)
    assert (gradient[:, 5] == 0).all()


def test_a_mask_that_shows_everything_is_attention():
    q, k, v = operands(2, 7, 9, 2, 8)
    everything = AttentionMask(lambda b, h, q, kv: (q >= 0) & (kv >= 0), 7, 9)
    torch.testing.assert_close(masked_attention(q, k, v, everything), attention(q, k, v))


@pytest.mark.skipif(DEVICE.type != "cpu", reason="what the CPU picks")
def test_auto_on_a_cpu_is_sdpa():
    q, k, v = operands(1, 2, 2, 1, 16, torch.bfloat16)
    assert ATTENTION.receipt(attention_request(q, k, v)).backend == "sdpa"
    assert MASKED_ATTENTION.receipt(attention_request(q, k, v)).backend == "sdpa"


def pretend_gpu(monkeypatch, capability, modules=()):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(
        "longlive_core.backends.find_function",
        lambda *places: (print, ()) if places[0][0] in modules else (None, ("absent",)),
    )


@pytest.mark.parametrize(
    ("capability", "modules", "grad", "dtype", "choice"),
    [
        ((9, 0), ("flash_attn_interface",), False, torch.bfloat16, "fa3"),
        ((9, 0), ("flash_attn_interface",), True, torch.bfloat16, "cudnn"),
        ((9, 0), ("flash_attn.cute", "flash_attn", "xformers.ops"), False, torch.bfloat16, "cudnn"),
        ((9, 0), (), False, torch.bfloat16, "cudnn"),
        ((9, 0), (), False, torch.float32, "sdpa"),
        ((8, 0), ("flash_attn", "xformers.ops"), False, torch.bfloat16, "sdpa"),
        ((10, 0), ("flash_attn.cute", "flash_attn_interface"), True, torch.bfloat16, "fa4"),
        ((10, 0), ("flash_attn_interface",), False, torch.bfloat16, "cudnn"),
    ],
)
def test_auto_on_a_gpu(monkeypatch, capability, modules, grad, dtype, choice):
    pretend_gpu(monkeypatch, capability, modules)
    request = Request(device=torch.device("cuda", 0), dtype=dtype, head_dim=128, needs_grad=grad)
    assert ATTENTION.receipt(request).backend == choice


def test_a_forward_only_kernel_refuses_gradients_and_says_so(monkeypatch):
    pretend_gpu(monkeypatch, (9, 0), ("flash_attn_interface",))
    request = Request(
        device=torch.device("cuda", 0), dtype=torch.bfloat16, head_dim=128, needs_grad=True
    )
    with pytest.raises(BackendUnavailable, match="'fa3' on cuda:0: it has no backward"):
        ATTENTION.select(request, "fa3")


def test_a_request_asks_for_a_gradient_only_where_one_can_flow():
    q, k, v = operands(1, 2, 2, 1, 8)
    assert not attention_request(q, k, v).needs_grad
    assert attention_request(q, k, v.requires_grad_()).needs_grad
    with torch.no_grad():
        assert not attention_request(q, k, v).needs_grad


@pytest.mark.skipif(DEVICE.type != "cpu", reason="the names are usable on a GPU")
@pytest.mark.parametrize("backend", ["fa4", "fa3", "cudnn", "fa2", "xformers"])
def test_a_gpu_kernel_named_on_a_cpu_says_why_not(backend):
    q, k, v = operands(1, 2, 2, 1, 8)
    with pytest.raises(BackendUnavailable, match=f"'{backend}' on cpu: it needs a CUDA device"):
        attention(q, k, v, backend=backend)


def test_a_mask_for_other_lengths_is_refused():
    q, k, v = operands(1, 3, 4, 1, 8)
    mask = AttentionMask(lambda b, h, q, kv: q >= kv, 4, 4)
    with pytest.raises(ValueError, match="3 queries and 4 keys, but the mask is for 4 queries"):
        masked_attention(q, k, v, mask)


COMPILED = """
import sys
import torch
from longlive_core.attention import AttentionMask, attention, masked_attention

assert "torch._dynamo" not in sys.modules, "importing attention imports the compiler"

q, k, v = (torch.randn(1, 8, 2, 16, requires_grad=True) for _ in range(3))
mask = AttentionMask(lambda b, h, q, kv: q >= kv, 8, 8)
mask.prepare(q.device)

def both(q, k, v):
    return masked_attention(q, attention(q, k, v), v, mask)

compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
got, want = compiled(q, k, v), both(q, k, v)
torch.testing.assert_close(got, want)
for ours, theirs in zip(*(torch.autograd.grad(x.sum(), (q, k, v)) for x in (got, want))):
    torch.testing.assert_close(ours, theirs)
with torch.no_grad():
    torch.testing.assert_close(compiled(q, k, v), want)
"""


def test_both_attentions_compile_without_a_graph_break():
    """In a process of its own: the shape checks of this one are Python that nothing compiles."""
    run = subprocess.run(
        [sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
