"""The words that users of Diffusers type, in the pipeline's own.

``pipe(prompt, num_frames=81, num_inference_steps=4, generator=torch.Generator().manual_seed(0),
output_type="np").frames[0]`` works as it does there. A word without a meaning here is refused with
the reason, and so are two names for one setting.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import torch
from torch import Tensor

from longlive_core.checks import shown, whole
from longlive_core.names import did_you_mean
from longlive_models.block_steps import BlockSteps
from longlive_models.callbacks import OnStep, StepReport, asks_to_stop
from longlive_models.settings import GenerationSettings
from longlive_models.video.blocks import Video


class DiffusersWords(TypedDict, total=False):
    """The words of Diffusers that ``pipe(...)`` takes beside its own.

    ``num_frames`` is the length in frames, ``num_inference_steps`` is ``steps``, ``guidance_scale``
    is ``guidance``. ``generator`` gives the seed: as in Diffusers, it moves on with each call.
    ``callback_on_step_end(pipe, step, timestep, tensors)`` is called after each denoising step,
    counted over all blocks; it may set ``pipe._interrupt``, and returns its tensors as they are.
    ``output_type`` is "np", "pt" or "pil", and makes the answer a ``Frames``. ``height`` and
    ``width`` may be those of the model.
    """

    num_frames: int
    num_inference_steps: Any
    guidance_scale: float
    generator: torch.Generator
    callback_on_step_end: Callable[..., Any]
    callback_on_step_end_tensor_inputs: Sequence[str]
    output_type: str
    return_dict: bool
    height: int
    width: int
    num_videos_per_prompt: int


@dataclass(frozen=True, eq=False)
class Frames:
    """Videos in the form that an ``output_type`` of Diffusers names.

    ``frames[0]`` is the video: with "np" float32 [frames, height, width, 3] in [0, 1], with "pt"
    float32 [frames, 3, height, width] in [0, 1], with "pil" a list of Pillow's images.
    """

    frames: Any

    def __getitem__(self, place: int) -> Any:
        return (self.frames,)[place]


SAME = {
    "num_frames": "seconds",
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "generator": "seed",
    "callback_on_step_end": "on_step",
}
"""Words of Diffusers, and the pipeline's own for the same."""

OUTPUT_TYPES = ("np", "pt", "pil")

_WHY_NOT = {
    "latents": "noise is a function of (seed, latent frame): choose a seed",
    "prompt_embeds": "a prompt is text, for it may change while the video is made: pass prompt",
    "negative_prompt_embeds": "a prompt is text: pass negative_prompt",
    "attention_kwargs": "adapters are merged into the weights when they are loaded",
    "max_sequence_length": "the text encoder has one length, in its config",
    "timesteps": "the sampler makes them of steps and the model's shift",
    "sigmas": "the sampler makes them of steps and the model's shift",
    "guidance_scale_2": "there is one transformer",
    "eta": "no sampler here reads it",
    "strength": "a clip is continued, not changed: pass video, and what comes next",
}
"""Words of Diffusers that mean nothing here, each with the reason."""

_OWN: tuple[str, ...] = (
    "prompt",
    "seconds",
    "seed",
    "sampler",
    "steps",
    "guidance",
    "negative_prompt",
    "image",
)
_OWN += ("video", "cut", "video_prompt", "events", "on_step", "on_block")


@dataclass(frozen=True, kw_only=True, eq=False)
class Own:
    """Arguments of ``pipe(...)`` that have two names; None for those that were not given."""

    seconds: float | None = None
    seed: int | None = None
    steps: BlockSteps | None = None
    guidance: float | None = None
    on_step: OnStep | None = None


@dataclass(frozen=True, eq=False)
class Translated:
    """What words of Diffusers say, in the pipeline's own, and the form of the answer."""

    own: Own
    output_type: str | None = None
    return_dict: bool = True

    def answer(self, video: Video) -> Any:
        """The video in the form that was asked for."""
        if self.output_type is None:
            return video
        frames = as_output(video, self.output_type)
        return Frames(frames) if self.return_dict else (frames,)


def translate(
    pipe: Any,
    settings: GenerationSettings,
    words: Mapping[str, Any],
    own: Own,
) -> Translated:
    """Translate the words of Diffusers of one call.

    Args:
        pipe: what ``callback_on_step_end`` is given first.
        settings: the model's sizes and rate.
        words: the words that were given.
        own: the pipeline's own arguments.

    Raises:
        ValueError: a word that is unknown or means nothing here, a value that cannot be, or two
            names for one setting.
    """
    given = {name: value for name, value in words.items() if value is not None}
    for name in given:
        _require_known(name)
        other = SAME.get(name)
        if other is not None and getattr(own, other) is not None:
            both = f"{name}={shown(given[name])} and {other}={shown(getattr(own, other))}"
            raise ValueError(
                f"{both} are two names of one setting, of Diffusers and of this library: leave one "
                f"of them out."
            )
    _require_size(given, settings)
    if given.get("num_videos_per_prompt", 1) != 1:
        raise ValueError(
            f"num_videos_per_prompt={shown(given['num_videos_per_prompt'])}: a call makes one "
            f"video. Call it once for each seed."
        )
    if "num_frames" in given:
        why = "a video has so many frames. Use, say, 81."
        frames = whole("num_frames", given["num_frames"], at_least=1, why=why)
        own = replace(own, seconds=frames / settings.fps)
    if "num_inference_steps" in given:
        own = replace(own, steps=given["num_inference_steps"])
    if "guidance_scale" in given:
        own = replace(own, guidance=given["guidance_scale"])
    if "generator" in given:
        own = replace(own, seed=seed_of(given["generator"]))
    inputs = given.get("callback_on_step_end_tensor_inputs", ("latents",))
    if "callback_on_step_end" in given:
        own = replace(own, on_step=step_callback(pipe, given["callback_on_step_end"], inputs))
    elif "callback_on_step_end_tensor_inputs" in given:
        raise ValueError(
            "callback_on_step_end_tensor_inputs names what callback_on_step_end is told, and there "
            "is no such callback: pass both, or leave it out."
        )
    return Translated(own, *_answer(given))


def seed_of(generator: Any) -> int:
    """A seed that a ``torch.Generator`` gives; the generator moves on, as in Diffusers.

    Raises:
        ValueError: it is something else, such as a list of generators.
    """
    if not isinstance(generator, torch.Generator):
        raise ValueError(
            f"generator={shown(generator)} is no torch.Generator: a call makes one video, from one "
            f"seed. Pass torch.Generator().manual_seed(0), or seed=0."
        )
    return int(torch.randint(2**62, (), generator=generator, device=generator.device))


def step_callback(pipe: Any, callback: Any, inputs: Any) -> OnStep:
    """An ``on_step`` that calls a ``callback_on_step_end`` of Diffusers.

    It ends the video where the callback sets ``pipe._interrupt`` or returns False. Raises
    ValueError for something that cannot be called, and for tensors that are not to be had; the
    callback's own call raises it where the callback answers with another tensor.
    """
    if not callable(callback):
        raise ValueError(
            f"callback_on_step_end is a function of (pipe, step, timestep, tensors), got "
            f"{shown(callback)}: it is called after each step. Pass one, or leave it out."
        )
    if isinstance(inputs, str) or any(name != "latents" for name in inputs):
        raise ValueError(
            f"callback_on_step_end_tensor_inputs={shown(inputs)}: a step has the tensor 'latents' "
            f"alone. Pass ['latents'], or leave it out."
        )
    count = 0

    def on_step(report: StepReport) -> bool:
        nonlocal count
        tensors = dict.fromkeys(inputs, report.latents)
        answer = callback(pipe, count, report.timestep, dict(tensors))
        count += 1
        if isinstance(answer, Mapping):
            _require_same(answer, tensors)
            answer = None
        interrupted = vars(pipe).pop("_interrupt", False)
        return not (interrupted or asks_to_stop(answer, "callback_on_step_end"))

    return on_step


def as_output(video: Video, kind: str) -> Any:
    """A video as a batch of one, in the form that ``output_type`` names; see ``Frames``."""
    if kind == "pil":
        return [video.pil()]
    floats = video.frames.float().div_(255)[None]
    return floats.numpy() if kind == "np" else floats.movedim(-1, 2)


def _answer(given: Mapping[str, Any]) -> tuple[str | None, bool]:
    kind, in_dict = given.get("output_type"), given.get("return_dict", True)
    if kind is not None and kind not in OUTPUT_TYPES:
        raise ValueError(
            f"output_type={shown(kind)} is none of {', '.join(OUTPUT_TYPES)}: they are arrays, "
            f"tensors and Pillow's images. Without it the answer is a Video; latents come to "
            f"on_step."
        )
    if kind is None and not in_dict:
        raise ValueError(
            "return_dict=False is about the answer of an output_type: pass output_type='np', say, "
            "or leave it out."
        )
    return kind, bool(in_dict)


def _require_known(name: str) -> None:
    if name in DiffusersWords.__annotations__:
        return
    if name in _WHY_NOT:
        raise ValueError(f"{name} means nothing here: {_WHY_NOT[name]}. Leave it out.")
    known = [*_OWN, *DiffusersWords.__annotations__]
    raise ValueError(
        f"pipe(...) has no argument {name!r}{did_you_mean(name, known)}It has {', '.join(known)}."
    )


def _require_size(given: Mapping[str, Any], settings: GenerationSettings) -> None:
    for name, own in (("height", settings.height), ("width", settings.width)):
        if given.get(name, own) != own:
            raise ValueError(
                f"{name}={shown(given[name])}, and this model makes {settings.width}x"
                f"{settings.height}: it was trained at one size. Leave it out, and scale the "
                f"frames."
            )


def _require_same(answer: Mapping[Any, Any], tensors: Mapping[str, Tensor]) -> None:
    for name, value in answer.items():
        if value is not tensors.get(name):
            raise ValueError(
                f"callback_on_step_end answered with another {name}: it is told what was made and "
                f"cannot replace it. Return what it was given, or None."
            )
