"""What decoding the 5B's latents takes is what its tensors take, counted without their values."""

import pytest
import torch
from torch import Tensor, nn

from longlive_models.vae import WAN22_VAE, DecodeOptions, WanVAE, decoding
from longlive_models.vae.fused_decoder import FusedDecoder
from longlive_models.vae.layers import CausalConv3d
from longlive_recipes.planning.hardware import GIB, GPUS
from longlive_recipes.planning.memory import Choice, memory_of
from longlive_recipes.planning.sizes import sizes_of
from longlive_recipes.training.live_bytes import LiveBytes, fake_tensors

MADE = {5: torch.channels_last_3d, 4: torch.channels_last}


def norm_silu_pad(
    x: Tensor, gamma: Tensor, past: Tensor, *, bias: Tensor, shortcut: Tensor, keep: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """What the Triton kernel allocates."""
    samples, frames, *rest = x.shape
    padded = x.new_empty(samples, past.shape[1] + frames, *rest)
    return x, padded, x.new_empty(past.shape) if keep else None


def join_phases(phases: Tensor, bias: Tensor, start: Tensor) -> Tensor:
    """What the Triton kernel allocates."""
    samples, frames, tall, wide, four = phases.shape
    return phases.new_empty(samples, frames, 2 * (tall - 1), 2 * (wide - 1), four // 4)


def as_on_a_gpu() -> WanVAE:
    """The 5B's VAE of fake bfloat16 tensors."""
    vae = WanVAE(WAN22_VAE).eval()
    for module in vae.modules():
        for name, held in list(module.named_parameters(recurse=False)):
            made = held.detach().to(torch.bfloat16)
            if held.ndim in MADE:
                made = made.contiguous(memory_format=MADE[held.ndim])
            setattr(module, name, nn.Parameter(made, requires_grad=False))
    return vae


@pytest.mark.parametrize(("latents", "tiles"), [(8, 1), (2, 1), (1, 1), (1, 4)])
def test_the_5bs_decoder_takes_what_is_said(monkeypatch, latents, tiles):
    """At 704 x 1280, by the fused decoder; a tenth more is said, for cuDNN and the allocator.

    Of a block that is decoded one by one, three latents: frames of the others are small.
    """
    monkeypatch.setattr(CausalConv3d, "forward_on_cpu", nn.Conv3d.forward)
    monkeypatch.setattr(
        decoding, "_network", lambda decoder, *_: FusedDecoder(decoder, norm_silu_pad, join_phases)
    )
    with fake_tensors(), torch.no_grad():
        vae = as_on_a_gpu()
        vae.decode_with_(DecodeOptions(latents=latents, tiles=tiles))
        block = torch.empty(1, 48, 8, 44, 80, dtype=torch.bfloat16)
        block = block if latents > 1 else block[:, :, :3]
        state = vae.decode_block(block[:, :, :2])[1]
        live = LiveBytes()
        live.hold(state.history)
        live.start_peak()
        with live:
            state = vae.decode_block(block, state, spend=True)[1]
    choice = Choice(
        weights="bf16",
        kv_cache="bf16",
        steps=4,
        guidance=False,
        vae_latents=latents,
        vae_tiles=tiles,
    )
    said = memory_of(sizes_of(), choice, GPUS["h200"])
    assert state.bytes == said.decoder_state
    took = live.peak - state.bytes
    assert took <= said.decoding < 1.3 * took, (took / GIB, said.decoding / GIB)
