"""A window policy of one's own, for the training mask and for the cache alike.

Run: `python examples/own_window_policy.py`
"""

from dataclasses import dataclass

import torch

from longlive_models.diffusion import FlowSchedule
from longlive_models.objectives import teacher_forcing_loss, teacher_forcing_mask
from longlive_models.wan import WanConfig, WanTransformer

SIZES = {"dim": 32, "ffn_dim": 64, "num_heads": 2, "num_layers": 2, "freq_dim": 16}
TEXT = {"text_dim": 8, "text_len": 4}
CONFIG = WanConfig(**SIZES, **TEXT, in_channels=4, out_channels=4, frames_per_block=2)


@dataclass(frozen=True, kw_only=True)
class Strided:
    """The newest pages, and of the older ones every ``stride``-th, the last ``samples`` of them."""

    recent: int = 2
    stride: int = 3
    samples: int = 2

    @property
    def capacity(self) -> int:  # the most pages at once
        return self.recent + self.samples

    def visible(self, block: int, shot_start: int = 0) -> tuple[int, ...]:
        old = range(max(0, block + 1 - self.recent))
        return (*old[:: self.stride][-self.samples :], *range(len(old), block + 1))

    def retained(self, block: int, shot_start: int = 0) -> tuple[int, ...]:
        return self.visible(block)  # a page is kept from the time it is new, or never seen again


def main(blocks: int = 10, steps: int = 20) -> list[float]:
    """Train a tiny model on one clip under the policy's mask; returns the losses."""
    torch.manual_seed(0)
    model, frames = WanTransformer(CONFIG), blocks * CONFIG.frames_per_block
    mask = teacher_forcing_mask(frames, 1, CONFIG.frames_per_block, policy=Strided())
    video, text = torch.randn(1, 4, frames, 2, 2), torch.randn(1, 1, 4, 8)
    schedule, optimizer = FlowSchedule(), torch.optim.AdamW(model.parameters(), lr=3e-3)
    how = {"noise": torch.randn_like(video), "timesteps": torch.full((1, frames), 500.0)}
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = teacher_forcing_loss(model, video, text, mask=mask, schedule=schedule, **how)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    print(f"block 9 sees pages {Strided().visible(9)}; loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    return losses


if __name__ == "__main__":
    main()
