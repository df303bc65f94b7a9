"""LongLive as nodes of ComfyUI: link or copy this folder into ComfyUI's custom_nodes.

    pip install longlive                                   # into ComfyUI's environment
    ln -s "$PWD/examples/comfyui" ComfyUI/custom_nodes/longlive

Nodes: a loader, a generator (a prompt, a list of shots, a first picture, a clip that goes on),
and a writer of mp4. Pictures are ComfyUI's own: float tensors [frames, height, width, 3] in [0, 1].
"""

from pathlib import Path
from typing import Any

import torch

from longlive_models import LongLivePipeline, Video
from longlive_models.choices import KV_CACHES, SAMPLERS, WEIGHTS

CATEGORY = "LongLive"


class LongLiveLoad:
    """Loads a model by name, folder or hub id."""

    CATEGORY, FUNCTION = CATEGORY, "load"
    RETURN_TYPES, RETURN_NAMES = ("LONGLIVE",), ("model",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The node's fields."""
        return {
            "required": {
                "model": ("STRING", {"default": "pocket"}),
                "weights": (["auto", *WEIGHTS],),
                "kv_cache": (["auto", *KV_CACHES],),
            }
        }

    def load(self, model: str, weights: str, kv_cache: str) -> tuple[LongLivePipeline]:
        """The pipeline."""
        pipe = LongLivePipeline.from_pretrained(model, weights=weights, kv_cache=kv_cache)
        return (pipe,)


class LongLiveGenerate:
    """Makes a video; a line of the prompt is a shot, with a cut between two."""

    CATEGORY, FUNCTION = CATEGORY, "generate"
    RETURN_TYPES, RETURN_NAMES = ("IMAGE", "FLOAT"), ("images", "fps")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The node's fields."""
        seed = {"default": 0, "min": 0, "max": 2**63 - 1, "control_after_generate": True}
        return {
            "required": {
                "model": ("LONGLIVE",),
                "prompt": ("STRING", {"multiline": True, "default": "a red circle spins"}),
                "seconds": ("FLOAT", {"default": 5.0, "min": 0.1, "max": 3600.0, "step": 0.1}),
                "seed": ("INT", seed),
                "steps": ("INT", {"default": 0, "min": 0, "max": 1000}),
                "guidance": ("FLOAT", {"default": 0.0, "min": 0.0, "max": 100.0, "step": 0.1}),
                "sampler": (["model", *SAMPLERS],),
                "cut": ("BOOLEAN", {"default": False}),
            },
            "optional": {"image": ("IMAGE",), "clip": ("IMAGE",)},
        }

    def generate(
        self,
        model: LongLivePipeline,
        prompt: str,
        seconds: float,
        seed: int,
        steps: int,
        guidance: float,
        sampler: str,
        cut: bool,
        image: torch.Tensor | None = None,
        clip: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, float]:
        """The frames and their rate; 0 steps, guidance 0 and "model" leave it to the model."""
        shots = [line.strip() for line in prompt.splitlines() if line.strip()]
        video = model(
            shots[0] if len(shots) == 1 else shots,
            seconds=seconds,
            seed=seed,
            steps=steps or None,
            guidance=guidance or None,
            sampler=None if sampler == "model" else sampler,
            image=None if image is None else to_bytes(image)[0],
            video=None if clip is None else to_bytes(clip),
            cut=cut and clip is not None,
            on_step=_progress(),
        )
        return video.frames.float().div_(255), video.fps


class LongLiveSave:
    """Writes pictures as mp4 into ComfyUI's output folder."""

    CATEGORY, FUNCTION, OUTPUT_NODE = CATEGORY, "save", True
    RETURN_TYPES: tuple[str, ...] = ()

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The node's fields."""
        fps = {"default": 24.0, "min": 1.0, "max": 240.0}
        name = {"default": "longlive"}
        return {"required": {"images": ("IMAGE",), "fps": ("FLOAT", fps), "name": ("STRING", name)}}

    def save(self, images: torch.Tensor, fps: float, name: str) -> dict[str, Any]:
        """The file's place, as ComfyUI shows it."""
        folder = Path(_output_folder())
        taken = (folder / f"{Path(name).name}_{number:05d}.mp4" for number in range(1, 100_000))
        path = next(path for path in taken if not path.exists())
        Video(to_bytes(images), fps).save(path)
        return {"ui": {"text": [str(path)]}}


def to_bytes(images: torch.Tensor) -> torch.Tensor:
    """ComfyUI's pictures as uint8 [frames, height, width, 3]."""
    return images[..., :3].clamp(0, 1).mul(255).round().to("cpu", torch.uint8)


def _progress() -> Any:
    """A callback that moves ComfyUI's bar and stops where it is asked to; None outside of it."""
    try:
        from comfy.model_management import throw_exception_if_processing_interrupted
        from comfy.utils import ProgressBar
    except ImportError:
        return None
    bar = None

    def on_step(report: Any) -> None:
        nonlocal bar
        throw_exception_if_processing_interrupted()
        bar = ProgressBar(report.blocks * report.steps) if bar is None else bar
        bar.update_absolute(report.block * report.steps + report.step + 1)

    return on_step


def _output_folder() -> str:
    try:
        from folder_paths import get_output_directory
    except ImportError:
        return "."
    return str(get_output_directory())


NODE_CLASS_MAPPINGS = {
    "LongLiveLoad": LongLiveLoad,
    "LongLiveGenerate": LongLiveGenerate,
    "LongLiveSave": LongLiveSave,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "LongLiveLoad": "LongLive: load a model",
    "LongLiveGenerate": "LongLive: make a video",
    "LongLiveSave": "LongLive: save as mp4",
}
