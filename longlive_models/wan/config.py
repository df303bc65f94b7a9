"""WanConfig, the sizes of the transformer, and its two presets."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from longlive_core.checks import hold_reals, hold_switches, hold_wholes, whole
from longlive_models.schema import build

MOST = 2**20
"""The most channels of a layer: a square matrix of so many has a terabyte."""

MOST_LAYERS = 2**10
"""The most layers: Wan2.2 has 30, and the largest models a few times as many."""

MOST_ROWS = 2**16
"""The most text tokens, and the most frames of a block: attention is over all pairs."""

MOST_PARAMETERS = 2**40
"""The most parameters: two terabytes in bfloat16."""


@dataclass(frozen=True, kw_only=True)
class WanConfig:
    """Sizes of a Wan2.2-style transformer; two models of one config have the same weights.

    ``text_len`` is how many text tokens attention sees, padding included; ``freq_dim`` the width
    of the sinusoid that a timestep becomes; ``frames_per_block`` the latent frames that are
    generated together, which is also one page of the cache. All normalizations share ``eps``.
    """

    dim: int
    ffn_dim: int
    num_heads: int
    num_layers: int
    in_channels: int
    out_channels: int
    text_dim: int
    text_len: int
    freq_dim: int
    patch_size: tuple[int, int, int] = (1, 2, 2)
    eps: float = 1e-6
    rope_theta: float = 10000.0
    frames_per_block: int = 8
    cross_attn_norm: bool = True
    qk_norm: bool = True

    def __post_init__(self) -> None:
        why = "a transformer has one or more of each. Take the sizes from the model's files."
        hold_wholes(self, _COUNTS, at_least=1, at_most=MOST, why=why)
        hold_wholes(self, "num_layers", at_least=1, at_most=MOST_LAYERS, why=why)
        hold_wholes(self, "text_len frames_per_block", at_least=1, at_most=MOST_ROWS, why=why)
        hold_reals(self, "eps", above=0, at_most=1, why="norms add it to a mean square.")
        hold_reals(self, "rope_theta", above=0, why="it is the base of rotary frequencies.")
        hold_switches(self, "cross_attn_norm qk_norm", why="a norm is there or not.")
        if self.dim % self.num_heads or (self.dim // self.num_heads) % 2:
            raise ValueError(
                f"WanConfig needs heads of one even width, got dim={self.dim} over "
                f"num_heads={self.num_heads}: rotary embedding turns pairs of channels. "
                f"Use a dim that is a multiple of {2 * self.num_heads}."
            )
        if self.freq_dim % 2:
            raise ValueError(
                f"WanConfig.freq_dim must be even, got {self.freq_dim}: a timestep becomes as many "
                f"cosines as sines. Use {self.freq_dim + 1}."
            )
        for size in self.patch_size:
            whole(
                "WanConfig.patch_size",
                size,
                at_least=1,
                at_most=MOST_ROWS,
                why="it is in frames, rows and columns of latents.",
            )
        if len(self.patch_size) != 3 or self.patch_size[0] != 1:
            raise ValueError(
                f"WanConfig.patch_size must be (1, rows, columns), got {self.patch_size}: each "
                f"latent frame has a timestep of its own, so a patch cannot span two."
            )

        if self.parameters > MOST_PARAMETERS:
            raise ValueError(
                f"WanConfig has {self.parameters:.3g} parameters, more than "
                f"{MOST_PARAMETERS:.3g}: in two bytes each no machine holds them. Take the sizes "
                f"from the model's files."
            )

    @property
    def parameters(self) -> int:
        """The number of parameters, biases and norms included."""
        dim, patch = self.dim, self.patch_size[1] * self.patch_size[2]
        attentions = 8 * (dim * dim + dim) + (4 * dim if self.qk_norm else 0)
        norms = 2 * dim if self.cross_attn_norm else 0
        feed_forward = 2 * dim * self.ffn_dim + self.ffn_dim + dim
        block = attentions + norms + feed_forward + 6 * dim
        embeddings = (self.in_channels * patch + self.text_dim + self.freq_dim + 2 * dim + 5) * dim
        time_projection = 6 * (dim * dim + dim)
        head = (dim + 1) * self.out_channels * patch + 2 * dim
        return self.num_layers * block + embeddings + time_projection + head

    @property
    def head_dim(self) -> int:
        """The number of channels of an attention head."""
        return self.dim // self.num_heads

    def tokens_per_frame(self, height: int, width: int) -> int:
        """The number of tokens of a latent frame of ``height`` by ``width``."""
        _, rows, columns = self.patch_size
        if height % rows or width % columns:
            raise ValueError(
                f"latents of {height} by {width} do not divide into patches of {rows} by "
                f"{columns}. Choose a height that is a multiple of {rows} and a width that is a "
                f"multiple of {columns}."
            )
        return (height // rows) * (width // columns)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values that JSON can hold."""
        return {**asdict(self), "patch_size": list(self.patch_size)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "WanConfig":
        """The config that ``to_dict`` gave; ValueError for an unknown or a missing field."""
        return build(cls, values, "")


_COUNTS = (
    "dim ffn_dim num_heads num_layers in_channels out_channels text_dim text_len freq_dim "
    "frames_per_block"
)

WAN_5B = WanConfig(
    dim=3072,
    ffn_dim=14336,
    num_heads=24,
    num_layers=30,
    in_channels=48,
    out_channels=48,
    text_dim=4096,
    text_len=512,
    freq_dim=256,
)
"""Wan2.2-TI2V-5B, the model that LongLive-2.0 tunes: 4,999,787,712 parameters."""

POCKET = WanConfig(
    dim=384,
    ffn_dim=896,
    num_heads=8,
    num_layers=7,
    in_channels=24,
    out_channels=24,
    text_dim=192,
    text_len=32,
    freq_dim=64,
)
"""The transformer of the shipped "pocket" model: the same classes, small enough for a CPU."""
