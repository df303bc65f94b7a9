"""A decoder of one's own, run beside whatever makes the next block.

Run: `python examples/decode_beside_denoising.py`
"""

import time

import torch
from torch import Tensor

from longlive_core.async_decode import AsyncDecodeScheduler


def decode(latents: Tensor, last: Tensor | None) -> tuple[Tensor, Tensor]:
    """Twice as many frames, blended across the edge of blocks: the state is the last frame."""
    time.sleep(0.02)  # stands for work that another thread, stream or device can do
    before = latents[:1] if last is None else last
    between = (torch.cat([before, latents[:-1]]) + latents) / 2
    return torch.stack([between, latents], dim=1).flatten(0, 1), latents[-1:]


def denoise(block: int) -> Tensor:
    """Stands for a model: 8 latent frames a block."""
    time.sleep(0.02)
    generator = torch.Generator().manual_seed(block)
    return torch.randn(8, 4, 4, generator=generator)


def main(lane: str, blocks: int = 12) -> tuple[Tensor, float]:
    """All frames, and the seconds they took."""
    frames: list[Tensor] = []
    began = time.perf_counter()
    with AsyncDecodeScheduler(decode, lane=lane, depth=2) as decoder:
        for block in range(blocks):
            decoder.submit(denoise(block))  # waits only while two blocks are in flight
            frames.extend(decoder.ready())  # whatever is decoded by now, in order
        frames.extend(decoder.finish())
    return torch.cat(frames), time.perf_counter() - began


if __name__ == "__main__":
    (inline, slow), (threaded, fast) = main("inline"), main("thread")
    assert torch.equal(inline, threaded)
    print(f"the same {len(inline)} frames: {slow:.2f} s inline, {fast:.2f} s on a thread")
