"""The result of a video, and the record (a JSON file) that is written beside it."""

import platform
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

from longlive_core import __version__
from longlive_models.pipeline import LongLivePipeline
from longlive_models.stream import Stream
from longlive_recipes.generation.plan import Plan, PlannedVideo, settled
from longlive_recipes.run_record import as_plain, code_version, hardware


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a video that was written; ``interrupted`` if it ended early.

    ``frames`` and ``blocks`` include those that existed before, ``frames_made`` does not.
    ``signal`` is the number of the signal that ended it, or 0; ``failure`` is the error that did,
    or None. It can be continued from ``snapshot``, if there is one.
    """

    path: Path
    sidecar: Path
    frames: int
    frames_made: int
    blocks: int
    fps: float
    seconds_to_first_frame: float
    wall_seconds: float
    peak_memory_bytes: int
    backends: tuple[str, ...]
    interrupted: bool
    signal: int = 0
    failure: str | None = None
    snapshot: Path | None = None


def peak_memory(device: torch.device) -> int:
    """The peak of memory in use, in bytes: allocated on a GPU, resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def video_record(
    result: Result,
    planned: Plan,
    video: PlannedVideo,
    pipeline: LongLivePipeline,
    stream: Stream,
    timings: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """The record beside a video: all that is needed to make it again, and how long it took."""
    lengths = (shot["blocks"] or 0 for shot in video.shots)
    begins = list(accumulate(lengths, initial=stream.plan.past))
    shown = [
        shot for shot, block in zip(video.shots, begins, strict=False) if block < result.blocks
    ]
    events = [event for event in stream.events if event["block"] < result.blocks]
    config = replace(settled(planned), seconds=result.frames / planned.model_fps)
    settings = pipeline.settings.override(
        sampler=planned.sampler,
        steps=planned.steps,
        guidance=planned.guidance,
        negative_prompt=planned.negative_prompt,
    )
    return {
        "video": as_plain(video),
        "plan": {k: v for k, v in as_plain(planned).items() if k != "videos"},
        "settings": settings.to_dict(),
        "result": as_plain(result),
        "not_shown": as_plain(stream.not_shown),
        "replay": {
            "config": as_plain(config),
            "seed": video.seed,
            "image": as_plain(video.image),
            "image_sha256": video.image_sha256,
            "clip": as_plain(video.clip),
            "shots": [{"prompt": shot["prompt"], "blocks": shot["blocks"]} for shot in shown],
            "events": events,
        },
        "model_sha256": pipeline.fingerprint,
        "files_sha256": {str(file.path): file.sha256 for file in pipeline.loaded_files},
        "versions": {
            "longlive": __version__,
            "code": code_version(),
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        "hardware": hardware(pipeline.runtime.device),
        "blocks": timings,
    }
