"""What each benchmark may be told, and the form of what it gives; no torch."""

from dataclasses import dataclass
from pathlib import Path

from longlive_core.checks import real, switch, whole
from longlive_models.block_steps import check_block_steps
from longlive_models.checkpoints.hub import resolve
from longlive_models.choices import WEIGHTS, check_choice, check_guidance
from longlive_models.runtime_options import RuntimeOptions
from longlive_recipes.bench.preset_options import OfPreset
from longlive_recipes.generation.inputs import Named, require_inputs

Rows = dict[str, dict[str, float]]
"""Numbers by case and by name; a name says its unit."""

Table = dict[str, dict[str, float | str]]
"""The same, with words among the numbers."""

LONGEST = 3600.0
MOST = 2**20
DEVICES = ("cpu", "cuda")
_SIDES = ("one", "other")


@dataclass(frozen=True, kw_only=True)
class BenchOptions(RuntimeOptions):
    """What is measured of a model or of a device, and how it computes (``RuntimeOptions``).

    Attributes:
        model: a shipped model's name, a folder or a hub id.
        seconds: length of the video that ``generation`` makes.
        steps, guidance: the model's own unless given.
        repeats: how often every benchmark but ``generation`` does its work.
        page_tokens, heads, head_dim, pages: what one layer sees in ``kv_decode``, ``nvfp4`` and
            ``linear``; the 5B's window.

    Raises ValueError for a number that is none or does not fit.
    """

    model: str = "pocket"
    seconds: float = 20.0
    steps: int | tuple[int, ...] | None = None
    guidance: float | None = None
    repeats: int = 5
    page_tokens: int = 7040
    heads: int = 24
    head_dim: int = 128
    pages: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        why = "a video of some blocks is timed. Use 20, say."
        real("seconds", self.seconds, above=0, at_most=LONGEST, why=why)
        if self.steps is not None:
            object.__setattr__(self, "steps", check_block_steps("steps", self.steps))
        if self.guidance is not None:
            check_guidance(self.guidance)
        for name in ("repeats", "page_tokens", "heads", "head_dim", "pages"):
            _count(name, getattr(self, name))

    def stem(self, name: str) -> str | None:
        """What the files of benchmark ``name`` are called; None until "auto" is a device."""
        return None if self.device == "auto" else f"{name}_{self.device.partition(':')[0]}"

    def inputs(self) -> list[Named]:
        """What is read. Raises ValueError if there is no such model."""
        return [("the model", resolve(self.model))]


@dataclass(frozen=True, kw_only=True)
class _OnOneKind:
    """Options of a benchmark whose results are stored for each kind of device."""

    device: str = "cpu"

    def stem(self, name: str) -> str:
        """What the files of benchmark ``name`` are called."""
        return f"{name}_{self.device}"

    def inputs(self) -> list[Named]:
        """What is read: nothing, or what ships."""
        return []


@dataclass(frozen=True, kw_only=True)
class BalancedSPOptions(_OnOneKind):
    """One video over ranks of this host; sizes that are not given are those of the device.

    Attributes:
        ranks: numbers of ranks; one rank is measured first, whether named or not.
        device: "cpu" (a thread a rank) or "cuda" (a GPU a rank).
        layers, heads, head_dim, ffn: of the transformer.
        latent_frames, height, width: of the video that is trained on; frames are in pixels.
        pages: blocks that a generated block sees, its own among them.
        steps: denoising steps of a generated block.
        repeats: how often a thing is timed.
        video_model, video_seconds: what makes how much video, a name or a folder.

    Raises ValueError for a number that is none or does not fit.
    """

    ranks: tuple[int, ...] = (1, 2, 4)
    layers: int | None = None
    heads: int | None = None
    head_dim: int | None = None
    ffn: int | None = None
    latent_frames: int | None = None
    height: int | None = None
    width: int | None = None
    pages: int | None = None
    steps: int | None = None
    repeats: int | None = None
    video_model: str = "pocket"
    video_seconds: float = 4.0

    def __post_init__(self) -> None:
        _check_device(self.device, "every rank has a thread of the one or a GPU of the other")
        if not self.ranks:
            raise ValueError("ranks are one number or more, 1,2,4 say, got none.")
        for ranks in self.ranks:
            _count("a number of ranks", ranks)
        for name in ("layers", "heads", "head_dim", "ffn", "latent_frames", "height", "width"):
            _count_if_given(name, getattr(self, name))
        for name in ("pages", "steps", "repeats"):
            _count_if_given(name, getattr(self, name))
        why = "a short video is timed. Use 4, say."
        real("video_seconds", self.video_seconds, above=0, at_most=LONGEST, why=why)

    def inputs(self) -> list[Named]:
        """What is read. Raises ValueError if there is no such model."""
        return [("the model", resolve(self.video_model))]


@dataclass(frozen=True, kw_only=True)
class TrainingStepOptions(_OnOneKind):
    """One training step on one device; sizes that are not given are those of the device.

    Attributes:
        device: "cpu" or "cuda".
        layers, heads, head_dim, ffn: of the transformer.
        latent_frames, height, width: of the video that is trained on; frames are in pixels.
        compiled: time the step compiled as a whole, too: that takes a minute before.
        repeats: how often a thing is timed.

    Raises ValueError for a number that is none or does not fit.
    """

    layers: int | None = None
    heads: int | None = None
    head_dim: int | None = None
    ffn: int | None = None
    latent_frames: int | None = None
    height: int | None = None
    width: int | None = None
    compiled: bool = False
    repeats: int | None = None

    def __post_init__(self) -> None:
        _check_device(self.device, "a step has one of the two")
        for name in ("layers", "heads", "head_dim", "ffn", "latent_frames", "height", "width"):
            _count_if_given(name, getattr(self, name))
        _count_if_given("repeats", self.repeats)
        switch("compiled", self.compiled, why="It is timed as well, or it is not.")


@dataclass(frozen=True, kw_only=True)
class CurvesOptions(_OnOneKind):
    """Training runs of one model in bfloat16 and in NVFP4.

    Attributes:
        device: "cpu" or "cuda".
        model: "pocket", or "tiny", which learns nothing and shows that everything runs.
        steps, batch: of each run, and clips in a step.
        clips: that are drawn and encoded once for all runs.
        validation_clips, noises: the loss is measured on so many clips under so many noises.
        at_once: runs that train at the same time, each in a process of its own.
        seed: of weights, clips and batches.

    Raises ValueError for a number that is none or does not fit.
    """

    model: str = "pocket"
    steps: int = 300
    batch: int = 16
    clips: int = 4000
    validation_clips: int = 64
    noises: int = 8
    at_once: int = 9
    seed: int = 0

    def __post_init__(self) -> None:
        _check_device(self.device, "runs are on one of the two")
        if self.model not in ("pocket", "tiny"):
            raise ValueError(f"model must be pocket or tiny, got {self.model!r}.")
        for name in ("steps", "batch", "clips", "validation_clips", "noises", "at_once"):
            _count(name, getattr(self, name))
        whole("seed", self.seed, at_least=0, at_most=MOST, why="it begins all random numbers.")


@dataclass(frozen=True, kw_only=True)
class ContinuedOptions(_OnOneKind):
    """A teacher that is trained on in bfloat16 and in NVFP4, packed and judged.

    Attributes:
        teacher: a model that was trained on moving shapes, by name or folder.
        device: "cpu" or "cuda".
        steps, batch, learning_rate: of both continuations.
        clips: that are drawn and encoded.
        pairs: pairs of videos, a third of them of held-out attributes.
        seconds: length of each.
        weights: how packed weights compute: "nvfp4", or "nvfp4-w4a4" with inputs in four bits too.
        evaluation_steps: denoising steps of a block; the teacher's own unless given.
        evaluation_batch, workers: videos made at once, and processes that judge.
        at_once: continuations that train at the same time, one or both.
        seed: of batches, prompts and videos.

    Raises ValueError for a number that is none or does not fit.
    """

    teacher: str = "pocket"
    steps: int = 500
    batch: int = 64
    learning_rate: float = 1e-4
    clips: int = 4000
    pairs: int = 400
    seconds: float = 4.0
    weights: str = "nvfp4"
    evaluation_steps: int | None = None
    evaluation_batch: int = 50
    workers: int = 1
    at_once: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        _check_device(self.device, "continuations are on one of the two")
        check_choice("weights", self.weights, WEIGHTS)
        for name in ("steps", "batch", "clips", "evaluation_batch", "workers", "at_once"):
            _count(name, getattr(self, name))
        whole("pairs", self.pairs, at_least=3, at_most=MOST, why="a third are held out. Use 400.")
        _count_if_given("evaluation_steps", self.evaluation_steps)
        why = "a step moves each weight about so far. Use 1e-4, say."
        real("learning_rate", self.learning_rate, above=0, at_most=1, why=why)
        why = "videos are judged whole. Use 4, say."
        real("seconds", self.seconds, above=0, at_most=LONGEST, why=why)
        whole("seed", self.seed, at_least=0, at_most=MOST, why="it begins all random numbers.")

    def inputs(self) -> list[Named]:
        """What is read. Raises ValueError if there is no such teacher."""
        return [("the teacher", resolve(self.teacher))]


@dataclass(frozen=True, kw_only=True)
class PairsOptions:
    """Two sides of evaluations that are compared video by video.

    Attributes:
        one, other: records that ``longlive evaluate -o`` wrote, as many of each, in one order.
    """

    one: tuple[Path, ...] = ()
    other: tuple[Path, ...] = ()

    def stem(self, name: str) -> str:
        """What the files of benchmark ``name`` are called."""
        return name

    def inputs(self) -> list[Named]:
        """What is read. Raises ValueError for a side without records, or one that is not there."""
        for name in _SIDES:
            if not getattr(self, name):
                raise ValueError(
                    f"pairs compares two sides, and {name!r} has no records: write --set "
                    f"{name}=FILE,FILE,... with what `longlive evaluate -o FILE` stored."
                )
        reads = [(f"a record of {name}", path) for name in _SIDES for path in getattr(self, name)]
        require_inputs(reads)
        return reads


@dataclass(frozen=True, kw_only=True)
class StartupOptions:
    """This environment beside another one.

    Attributes:
        against: the other environment's interpreter.
        repeats: how often each process is started.

    Raises ValueError for a number that is none or does not fit.
    """

    against: Path | None = None
    repeats: int = 15

    def __post_init__(self) -> None:
        _count("repeats", self.repeats)

    def stem(self, name: str) -> str:
        """What the files of benchmark ``name`` are called."""
        return f"{name}_cpu"

    def inputs(self) -> list[Named]:
        """What is read. Raises ValueError without another interpreter."""
        if self.against is None:
            raise ValueError(
                "startup compares two environments, and the other one is not named: write --set "
                "against=OTHER/bin/python."
            )
        reads = [("the other interpreter", self.against)]
        require_inputs(reads)
        return reads


Options = (
    BenchOptions
    | BalancedSPOptions
    | TrainingStepOptions
    | CurvesOptions
    | ContinuedOptions
    | PairsOptions
    | StartupOptions
    | OfPreset
)


def _check_device(value: str, why: str) -> None:
    if value not in DEVICES:
        raise ValueError(f"device must be cpu or cuda, got {value!r}: {why}.")


def _count(name: str, value: int) -> None:
    why = "so many are made or timed. Use 1 or more."
    whole(name, value, at_least=1, at_most=MOST, why=why)


def _count_if_given(name: str, value: int | None) -> None:
    if value is not None:
        _count(name, value)
