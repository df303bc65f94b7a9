"""One rank of an attention over two ranks, compiled whole: outputs and gradients of the eager one.

    python -m tests.core.sequence_parallel.compiled_exchange RANK FOLDER

In processes of their own: the shape checks of the tests are Python that nothing compiles.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._dynamo.utils import counters

from longlive_core.float8 import Float8WireCodec
from longlive_core.sequence_parallel import BalancedPartition, BalancedSP, SequenceGroup

HEADS, HEAD_DIM = 5, 16  # three heads on one rank, two on the other


class Block(nn.Module):
    """Attention over ranks, as other people write it."""

    def __init__(self, sp: BalancedSP) -> None:
        super().__init__()
        self.sp = sp
        self.qkv = nn.Linear(HEADS * HEAD_DIM, 3 * HEADS * HEAD_DIM)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, HEAD_DIM)).unbind(2)
        q, k, v = (part.transpose(1, 2) for part in self.sp.to_heads(q, k, v))
        out = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return x + self.sp.to_sequence(out).flatten(2)


def main(rank: int, folder: Path) -> None:
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    group = SequenceGroup.of(dist.group.WORLD)
    partition = BalancedPartition(frames=5, ranks=2, tokens_per_frame=3, copies=1)
    torch.manual_seed(0)
    sp = BalancedSP(group, partition, heads=HEADS)
    block = Block(sp)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    for _ in range(3):
        x = torch.randn(2, partition.tokens_by_rank[rank], HEADS * HEAD_DIM, requires_grad=True)
        parameters = [x, *block.parameters()]
        before = sp.bytes_sent
        want = block(x)
        gradients = torch.autograd.grad(want.square().sum(), parameters)
        sent, before = sp.bytes_sent - before, sp.bytes_sent
        got = compiled(x)
        ours = torch.autograd.grad(got.square().sum(), parameters)
        assert sp.bytes_sent - before == sent > 0
        torch.testing.assert_close(got, want)
        for a, b in zip(ours, gradients, strict=True):
            torch.testing.assert_close(a, b)
    block.sp = BalancedSP(group, partition, heads=HEADS, wire=Float8WireCodec())
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), block(x))
    assert counters["stats"]["unique_graphs"] <= 2
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
