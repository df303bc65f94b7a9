"""What is shared by ranks in ``balanced_sp``: the sizes of one video, one model and one VAE."""

from dataclasses import dataclass, field, replace
from typing import cast

import torch

from longlive_core.sequence_parallel import BalancedPartition
from longlive_models.vae import POCKET_VAE, WAN22_VAE, VAEConfig
from longlive_models.wan import WAN_5B, WanConfig, WanTransformer
from longlive_models.wan.block import WanBlock
from longlive_recipes.bench.checks import require
from longlive_recipes.bench.options import BalancedSPOptions, TrainingStepOptions

CPU_MODEL = WanConfig(
    dim=256,
    ffn_dim=512,
    num_heads=4,
    num_layers=2,
    in_channels=POCKET_VAE.latent_channels,
    out_channels=POCKET_VAE.latent_channels,
    text_dim=32,
    text_len=16,
    freq_dim=32,
)
"""Small, with heads as wide as four bits need to be worth their scales."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """One video over ranks, and the model that it goes through.

    Attributes:
        model: of the transformer.
        vae: of the encoder.
        latent_frames: of the video that is trained on.
        height, width: of its frames, in pixels.
        pages: blocks that a generated block sees, its own among them: a full window.
        steps: denoising steps of a generated block; a clean pass follows them.
        repeats: how often a thing is timed.
        video_model: what makes ``video_seconds`` of video, by name or folder.
    """

    model: WanConfig = field(default_factory=lambda: CPU_MODEL)
    vae: VAEConfig = field(default_factory=lambda: POCKET_VAE)
    latent_frames: int = 96
    height: int = 64
    width: int = 64
    pages: int = 4
    steps: int = 4
    repeats: int = 3
    video_model: str = "pocket"
    video_seconds: float = 4.0

    def __post_init__(self) -> None:
        for name in ("latent_frames", "height", "width", "steps", "repeats", "video_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}.")
        if self.pages < 3:
            raise ValueError(
                f"pages must be 3 or more, got {self.pages}: two are sinks, one is the block's own."
            )
        if self.latent_frames % self.model.frames_per_block:
            raise ValueError(
                f"latent_frames must be whole blocks of {self.model.frames_per_block}, got "
                f"{self.latent_frames}."
            )
        self.model.tokens_per_frame(*self.latent_size)

    @classmethod
    def of(cls, device: str) -> "Sizes":
        """The defaults of a device: layers of the 5B, but four of its thirty, or a small model."""
        if device == "cpu":
            return cls()
        model = replace(WAN_5B, num_layers=4)
        return cls(model=model, vae=WAN22_VAE, height=704, width=1280)

    @property
    def latent_size(self) -> tuple[int, int]:
        """(height, width) of a latent frame, in latent pixels."""
        return self.height // self.vae.spatial_stride, self.width // self.vae.spatial_stride

    @property
    def pixel_frames(self) -> int:
        """Frames of the video that is encoded."""
        return self.vae.pixel_frames(self.latent_frames)

    def balanced(self, ranks: int) -> BalancedPartition:
        """Both copies of the same frames on a rank: arXiv 2605.18739, Balanced SP."""
        return self._partition(self.latent_frames, ranks, copies=2)

    def unbalanced(self, ranks: int) -> BalancedPartition:
        """All clean frames, then all noisy ones, dealt out in that order."""
        return self._partition(2 * self.latent_frames, ranks, copies=1)

    def _partition(self, frames: int, ranks: int, *, copies: int) -> BalancedPartition:
        return BalancedPartition(
            frames=frames,
            ranks=ranks,
            tokens_per_frame=self.model.tokens_per_frame(*self.latent_size),
            frames_per_block=self.model.frames_per_block,
            copies=copies,
        )


def sizes_of_training(options: BalancedSPOptions | TrainingStepOptions) -> Sizes:
    """The sizes of the options' device, with those of a training step that the options name.

    Raises:
        ValueError: sizes that do not go together.
    """
    usual = Sizes.of(options.device)
    heads = given_or(options.heads, usual.model.num_heads)
    model = replace(
        usual.model,
        num_layers=given_or(options.layers, usual.model.num_layers),
        num_heads=heads,
        dim=heads * given_or(options.head_dim, usual.model.head_dim),
        ffn_dim=given_or(options.ffn, usual.model.ffn_dim),
    )
    return replace(
        usual,
        model=model,
        latent_frames=given_or(options.latent_frames, usual.latent_frames),
        height=given_or(options.height, usual.height),
        width=given_or(options.width, usual.width),
        repeats=given_or(options.repeats, usual.repeats),
    )


def given_or(given: int | None, usual: int) -> int:
    """A number that an option gives, or the usual one."""
    return usual if given is None else given


def note_on_layers(sizes: Sizes) -> str:
    """That layers are those of the 5B but not all of them, where that is so."""
    if replace(sizes.model, num_layers=WAN_5B.num_layers) != WAN_5B:
        return ""
    return f" Layers are the 5B's, {sizes.model.num_layers} of its {WAN_5B.num_layers}."


def randomize_zero_layers(model: WanTransformer) -> None:
    """Draw the modulations and the head, which are zero or near it in a new model.

    Its output would be zero otherwise, whatever a wire or a layout does to the layers before.
    """
    for block in model.blocks:
        torch.nn.init.normal_(cast(WanBlock, block).modulation, std=0.5)
    torch.nn.init.normal_(model.head.head.weight, std=model.config.dim**-0.5)


TOLERANCE = {"cpu": 1e-5, "cuda": 5e-2}
"""How far a result may be from one rank's, relative: float32 on a CPU, bfloat16 on a GPU."""


def check_as_one_rank(what: str, got: torch.Tensor, expected: torch.Tensor, most: float) -> None:
    """Raise AssertionError where a result differs from one rank's by more than ``most``."""
    error = relative_error(got, expected)
    require(error <= most, f"{what}: {error:.1e} from that of one rank, more than {most:g}")


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    """The norm of the difference over the norm of what was expected; NaN is infinite."""
    got, expected = got.double().cpu(), expected.double().cpu()
    error = float((got - expected).norm() / expected.norm())
    return error if error == error else float("inf")
