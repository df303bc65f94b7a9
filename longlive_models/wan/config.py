"""Sizes of the transformer, and the two presets."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from longlive_models.schema import build


@dataclass(frozen=True, kw_only=True)
class WanConfig:
    """Sizes of a Wan2.2-style transformer; two models of one config have the same weights.

    ``text_len`` is how many text tokens attention sees, padding included; ``freq_dim`` the width
    of the sinusoid that a timestep becomes; ``frames_per_block`` the latent frames that are
    generated together, which is also one page of the cache. All normalisations share ``eps``.
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
        for name in (*_COUNTS, "eps", "rope_theta"):
            if getattr(self, name) <= 0:
                raise ValueError(f"WanConfig.{name} must be positive, got {getattr(self, name)}.")
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
        if len(self.patch_size) != 3 or self.patch_size[0] != 1 or min(self.patch_size) < 1:
            raise ValueError(
                f"WanConfig.patch_size must be (1, rows, columns), got {self.patch_size}: each "
                f"latent frame has a timestep of its own, so a patch cannot span two."
            )

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.dim // self.num_heads

    def tokens_per_frame(self, height: int, width: int) -> int:
        """Tokens that a latent frame of ``height`` by ``width`` becomes."""
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


_REQUIRED = (
    "dim",
    "ffn_dim",
    "num_heads",
    "num_layers",
    "in_channels",
    "out_channels",
    "text_dim",
    "text_len",
    "freq_dim",
)
_COUNTS = (*_REQUIRED, "frames_per_block")

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
    in_channels=16,
    out_channels=16,
    text_dim=192,
    text_len=32,
    freq_dim=64,
)
"""The embedded model's transformer: the same classes, small enough for a CPU."""
