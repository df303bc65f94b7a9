"""One video over ranks of this host: correctness first, then time and bytes on the wire.

It starts its own ranks, a GPU or a thread each. Where ranks give other numbers than one rank,
nothing is timed. Source of what is compared: LongLive-2.0 (arXiv 2605.18739), Balanced SP.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from longlive_recipes.bench.options import BalancedSPOptions, Rows
from longlive_recipes.bench.ranks import on_ranks
from longlive_recipes.bench.shared_generation import (
    MAX_PIXEL_DIFFERENCE,
    work_on_block,
    work_on_video,
)
from longlive_recipes.bench.shared_sizes import (
    TOLERANCE,
    Sizes,
    given_or,
    note_on_layers,
    sizes_of_training,
)
from longlive_recipes.bench.shared_training import Values, work_on_training

Answers = dict[int, list[dict[str, Any]]]
"""What every rank found, by the number of ranks."""


@dataclass(frozen=True, kw_only=True)
class RankComparison:
    """What is compared, and on how many ranks.

    Attributes:
        ranks: numbers of ranks, one rank first.
        device: "cpu" or "cuda".
        sizes: of the video and the models.

    Raises ValueError for more ranks than there are GPUs, frames of a block or heads.
    """

    ranks: tuple[int, ...]
    device: str
    sizes: Sizes

    @classmethod
    def of(cls, options: BalancedSPOptions) -> "RankComparison":
        """What the options ask for; sizes that they leave open are the device's."""
        ranks = tuple(sorted({1, *options.ranks}))
        return cls(ranks=ranks, device=options.device, sizes=sizes_of(options))

    def __post_init__(self) -> None:
        if self.device == "cuda" and max(self.ranks) > torch.cuda.device_count():
            raise ValueError(
                f"{max(self.ranks)} ranks take a GPU each, and this host has "
                f"{torch.cuda.device_count()}: name fewer, or --device cpu."
            )
        for ranks in self.ranks:
            self.sizes.balanced(ranks)
            if ranks > self.sizes.model.frames_per_block or ranks > self.sizes.model.num_heads:
                raise ValueError(
                    f"{ranks} ranks share blocks of {self.sizes.model.frames_per_block} frames and "
                    f"{self.sizes.model.num_heads} heads: each needs one at least. Name fewer."
                )


def sizes_of(options: BalancedSPOptions) -> Sizes:
    """The sizes of the options' device, with those that the options name.

    Raises:
        ValueError: sizes that do not go together.
    """
    trained = sizes_of_training(options)
    return replace(
        trained,
        pages=given_or(options.pages, trained.pages),
        steps=given_or(options.steps, trained.steps),
        video_model=options.video_model,
        video_seconds=options.video_seconds,
    )


def measure(options: RankComparison, about: str) -> dict[str, Any]:
    """Check, then time, every part on every number of ranks, each in processes of its own.

    Raises:
        AssertionError: ranks gave other numbers than one rank.
    """
    trained = _on_each(options, work_on_training)
    blocks = _on_each(options, work_on_block)
    videos = _on_each(options, work_on_video)
    bound, pixels = TOLERANCE[options.device], MAX_PIXEL_DIFFERENCE[options.device]
    return {
        "about": about + note_on_layers(options.sizes) + _note_on_cpu(options),
        "parts": {
            "Training step: the transformer": training_rows(trained),
            "Training step: encoding its clip": encoding_rows(trained, options.sizes),
            "Training step: both": both_rows(trained),
            "Denoising one block under a full window": block_rows(blocks),
            "Wires of a block": wire_rows(blocks),
            f"A video of {options.sizes.video_seconds:g} s by the {_name(options)} model": {
                _ranks(count): answers[0]["row"] for count, answers in videos.items()
            },
        },
        "checked": (
            f"loss, a gradient, encoded latents and a block's latents equal one rank's within "
            f"{bound:g}; the two layouts have one loss; pixels of a video within {pixels:g} of 255"
        ),
    }


def training_rows(trained: Answers) -> Rows:
    """Both layouts of the transformer's part."""
    rows: Rows = {}
    alone = trained[1][0]["row"]["balanced_seconds"]
    for count, answers in trained.items():
        row = answers[0]["row"]
        rows[_ranks(count)] = {
            "balanced_seconds": row["balanced_seconds"],
            "efficiency": alone / (count * row["balanced_seconds"]),
            "unbalanced_seconds": row["unbalanced_seconds"],
            "unbalanced_efficiency": alone / (count * row["unbalanced_seconds"]),
            "mib_sent": _most(answers, "balanced_mib_sent"),
            "unbalanced_mib_sent": _most(answers, "unbalanced_mib_sent"),
            **{name: value for name, value in row.items() if "peak_memory" in name},
        }
    return rows


def encoding_rows(trained: Answers, sizes: Sizes) -> Rows:
    """The VAE's part. The bound is what the halo leaves of an even share of the frames."""
    rows: Rows = {}
    alone, frames = trained[1][0]["row"]["encode_own_seconds"], sizes.pixel_frames
    for count, answers in trained.items():
        row = answers[0]["row"]
        efficiency = alone / (count * row["encode_own_seconds"])
        bound = frames / (count * row["frames_read"])
        rows[_ranks(count)] = {
            "own_frames_and_halo_seconds": row["encode_own_seconds"],
            "whole_clip_on_each_seconds": row["encode_all_seconds"],
            "frames_read": row["frames_read"],
            "of_frames": frames,
            "efficiency": efficiency,
            "halo_bound": bound,
            "share_of_bound": efficiency / bound,
        }
    return rows


def both_rows(trained: Answers) -> Rows:
    """A step of both parts: what the layouts take, and how many times longer the unbalanced one."""
    rows: Rows = {}
    for count, answers in trained.items():
        row = answers[0]["row"]
        balanced = row["balanced_seconds"] + row["encode_own_seconds"]
        unbalanced = row["unbalanced_seconds"] + row["encode_all_seconds"]
        rows[_ranks(count)] = {
            "balanced_seconds": balanced,
            "unbalanced_seconds": unbalanced,
            "unbalanced_over_balanced": unbalanced / balanced,
        }
    return rows


def block_rows(blocks: Answers) -> Rows:
    """Denoising under the plain wire."""
    rows: Rows = {}
    alone = blocks[1][0]["row"]["seconds_per_block"]
    for count, answers in blocks.items():
        row = answers[0]["row"]
        efficiency = alone / (count * row["seconds_per_block"])
        rows[_ranks(count)] = {**row, "efficiency": efficiency}
    return rows


def wire_rows(blocks: Answers) -> Rows:
    """Every wire on every number of ranks that send something."""
    return {
        f"{_ranks(count)}, {name}": row
        for count, answers in blocks.items()
        for name, row in answers[0]["wires"].items()
    }


def _on_each(options: RankComparison, work: Callable[..., dict[str, Any]]) -> Answers:
    """What ranks find, one rank first: the others are checked against its values."""
    found: Answers = {}
    expected: Values | None = None
    for count in options.ranks:
        found[count] = on_ranks(count, options.device, work, options.sizes, expected)
        expected = expected or found[count][0]["values"]
    return found


def _most(answers: list[dict[str, Any]], name: str) -> float:
    return max(answer["row"][name] for answer in answers)


def _ranks(count: int) -> str:
    return "1 rank" if count == 1 else f"{count} ranks"


def _name(options: RankComparison) -> str:
    return Path(options.sizes.video_model).name


def _note_on_cpu(options: RankComparison) -> str:
    """That ranks share the cores of a CPU, where that is so."""
    if options.device != "cpu":
        return ""
    return (
        " Ranks have one thread each, and share the cores of this CPU with each other: more ranks "
        "than cores take turns, so that times show that everything ran, not a speed-up."
    )
