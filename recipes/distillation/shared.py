"""Networks that the ranks of a sequence share: whole videos in and out, the same on every rank.

A rank computes its own frames and gathers the others'. The gradient of a gathered frame is the sum
of what all ranks ask of it, which is the same: so the gradients of parameters are averaged over
ranks, as everywhere, and then are those of one rank.
"""

from dataclasses import dataclass, field

from longlive_core.sequence_parallel import BalancedPartition, BalancedSP, SequenceGroup
from longlive_models.wan import WanConfig, WanTransformer
from longlive_models.wan.parallel import partition_blocks, share


@dataclass(frozen=True, kw_only=True)
class SharedNetworks:
    """How the ranks of a group make videos of some blocks together, and score them.

    Attributes:
        group: the ranks.
        model: the sizes of all networks.
        blocks: of a video.
        latent_size: (height, width) of latents.
        given_past: whether blocks are scored after a clean past, which makes a second copy.
    """

    group: SequenceGroup
    model: WanConfig
    blocks: int
    latent_size: tuple[int, int]
    given_past: bool
    _made: dict[tuple[int, bool], WanTransformer] = field(default_factory=dict)

    @property
    def partition(self) -> BalancedPartition:
        """Which rank scores which frames. Raises ValueError for more ranks than blocks."""
        size = self.model.frames_per_block
        return BalancedPartition(
            frames=self.blocks * size,
            ranks=self.group.size,
            tokens_per_frame=self.model.tokens_per_frame(*self.latent_size),
            frames_per_block=size,
            copies=2 if self.given_past else 1,
        )

    def maker(self, network: WanTransformer) -> WanTransformer:
        """A network as it makes one block after another."""
        if (key := (id(network), False)) not in self._made:
            sp = partition_blocks(self.model, self.group, self.latent_size)
            self._made[key] = share(network, sp)
        return self._made[key]

    def scorer(self, network: WanTransformer) -> WanTransformer:
        """A network as it scores whole videos."""
        if (key := (id(network), True)) not in self._made:
            sp = BalancedSP(self.group, self.partition, heads=self.model.num_heads)
            self._made[key] = share(network, sp)
        return self._made[key]
