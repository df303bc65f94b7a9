"""What the benchmarks of ``longlive bench --preset`` and ``--invariance`` may be told; no torch."""

from dataclasses import dataclass
from pathlib import Path

from longlive_core.checks import shown, switch, whole
from longlive_core.names import did_you_mean
from longlive_models.choices import QUALITIES
from longlive_recipes.generation.inputs import Named, require_inputs

PRESETS = ("pocket", "5b", "tiny")
MOST = 2**20
MOST_RANKS = 8


def _choice(name: str, value: str, known: tuple[str, ...]) -> None:
    """Raise ValueError unless ``value`` is one of ``known``."""
    if value not in known:
        raise ValueError(
            f"{name} is one of {', '.join(known)}, got {shown(value)}{did_you_mean(value, known)}"
            f"Use one of them."
        )


@dataclass(frozen=True, kw_only=True)
class _OfPreset:
    """Options of what is measured at a preset's sizes.

    Attributes:
        preset: "5b" (LongLive-2.0-5B, random weights), "pocket", or "tiny", which shows that
            everything runs.
        device: "cpu", "cuda" or "auto".
    """

    preset: str = "pocket"
    device: str = "auto"

    def __post_init__(self) -> None:
        _choice("preset", self.preset, PRESETS)
        _choice("device", self.device, ("auto", "cpu", "cuda"))

    def inputs(self) -> list[Named]:
        """What is read: nothing, or what ships."""
        return []

    def _stem(self, *what: str) -> str | None:
        return None if self.device == "auto" else "_".join((self.preset, *what, self.device))


@dataclass(frozen=True, kw_only=True)
class PresetOptions(_OfPreset):
    """One model's stages apart and together.

    Attributes:
        baseline: whether the plain path is timed too, in turns with the others.
        quality: which tiers are measured.
        ranks: 2 adds rows that decode on a second GPU.
        repeats: how often a block and its decoding are timed, over a full window.
        extras: whether rows of two steps, of a cache and of weights in NVFP4 are measured.
        stream_blocks: blocks of a stream over a full window; 0 for no streams.
        earlier: a folder with another commit's ``longlive_core`` and ``longlive_models``, whose
            block is timed in turns with these.

    Raises ValueError for a number that is none or does not fit.
    """

    baseline: bool = False
    quality: tuple[str, ...] = QUALITIES
    ranks: int = 1
    repeats: int = 5
    extras: bool = True
    stream_blocks: int = 4
    earlier: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        switch("baseline", self.baseline, why="The plain path is timed, or only compared with.")
        switch("extras", self.extras, why="Rows of fewer steps and bits are measured, or not.")
        for one in self.quality:
            _choice("quality", one, QUALITIES)
        if not self.quality or len(set(self.quality)) < len(self.quality):
            raise ValueError(
                f"quality names one tier or more, each once, got "
                f"{', '.join(self.quality) or 'none'}: write lossless, or high."
            )
        why = "one GPU does everything, or a second one decodes."
        whole("ranks", self.ranks, at_least=1, at_most=2, why=why)
        why = "so many blocks are timed. Use 5, say."
        whole("repeats", self.repeats, at_least=1, at_most=MOST, why=why)
        why = "so many are timed in a stream. Use 4, or 0 for none."
        whole("stream_blocks", self.stream_blocks, at_least=0, at_most=MOST, why=why)

    def stem(self, name: str) -> str | None:
        """What the files are called; None until "auto" is a device."""
        return self._stem(*(() if self.ranks == 1 else (f"{self.ranks}_gpus",)))

    def inputs(self) -> list[Named]:
        """The other tree. Raises ValueError if it is not there."""
        reads = [] if self.earlier is None else [("the other tree", self.earlier)]
        require_inputs(reads)
        return []


@dataclass(frozen=True, kw_only=True)
class InvarianceOptions(_OfPreset):
    """Whether bits of a row depend on how many stand beside it.

    Attributes:
        ranks: compare a block over so many ranks with one rank's too; 1 for not. Ranks share
            GPUs where there are fewer.
        layers: of the transformer whose block is compared; the preset's unless given.

    Raises ValueError for a number that is none or does not fit.
    """

    ranks: int = 1
    layers: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        why = "a block is shared by so many, 1 for none."
        whole("ranks", self.ranks, at_least=1, at_most=MOST_RANKS, why=why)
        if self.layers is not None:
            why = "a transformer has one or more. Leave it out for all."
            whole("layers", self.layers, at_least=1, at_most=MOST, why=why)

    def stem(self, name: str) -> str | None:
        """What the files are called; None until "auto" is a device."""
        return self._stem("invariance")


@dataclass(frozen=True, kw_only=True)
class BackendsOptions(_OfPreset):
    """Every backend of attention and of quantized products, at a preset's sizes.

    Attributes:
        repeats: how often each is timed.
        slow: those too that compile for minutes.

    Raises ValueError for a number that is none or does not fit.
    """

    repeats: int = 5
    slow: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        why = "so often each is timed. Use 5, say."
        whole("repeats", self.repeats, at_least=1, at_most=MOST, why=why)
        switch("slow", self.slow, why="Those that compile for minutes run too, or they do not.")

    def stem(self, name: str) -> str | None:
        """What the files are called; None until "auto" is a device."""
        return self._stem("backends")


OfPreset = PresetOptions | InvarianceOptions | BackendsOptions
