"""A video over many ranks in an attention layer of one's own: the loss and gradients of one rank.

Run: `python examples/sequence_over_ranks.py`
or:  `torchrun --nproc-per-node 2 examples/sequence_over_ranks.py`
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from longlive_core.attention import attention
from longlive_core.sequence_parallel import BalancedPartition, BalancedSP, SequenceGroup

FRAMES, TOKENS, HEADS, HEAD_DIM = 8, 6, 4, 16


class MyAttention(nn.Module):
    """Attention over the whole sequence, in which each rank has its own frames alone."""

    def __init__(self, sp: BalancedSP) -> None:
        super().__init__()
        self.sp = sp
        self.qkv = nn.Linear(HEADS * HEAD_DIM, 3 * HEADS * HEAD_DIM)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, HEAD_DIM)).unbind(2)
        q, k, v = self.sp.to_heads(q, k, v)  # all tokens, this rank's heads
        return self.sp.to_sequence(attention(q, k, v)).flatten(2)  # this rank's tokens, all heads


def main(group: SequenceGroup) -> tuple[float, float]:
    """One step; the loss and the size of the gradient, whatever the number of ranks."""
    partition = BalancedPartition(
        frames=FRAMES, ranks=group.size, tokens_per_frame=TOKENS, copies=1
    )
    sp = BalancedSP(group, partition, heads=HEADS)
    torch.manual_seed(0)  # the same weights and video on every rank
    layer = MyAttention(sp)
    video = torch.randn(1, FRAMES, TOKENS, HEADS * HEAD_DIM)
    x = sp.shard(video, dim=1).flatten(1, 2)
    losses = (layer(x) - x).square().mean(-1)
    loss = sp.masked_mean(losses)  # over all ranks
    loss.backward()
    assert layer.qkv.weight.grad is not None
    gradient = group.sum(layer.qkv.weight.grad) / group.size  # what DDP and FSDP do
    if group.rank == 0:
        print(f"{group.size} ranks: loss {loss:.6f}, gradient {gradient.norm():.6f}")
        print(f"rank 0 held frames {sp.frames} and sent {sp.bytes_sent} bytes")
    return float(loss.detach()), float(gradient.norm())


if __name__ == "__main__":
    if dist.is_torchelastic_launched():
        dist.init_process_group("gloo")
        main(SequenceGroup.of(dist.group.WORLD))
        dist.destroy_process_group()
    else:
        main(SequenceGroup())
