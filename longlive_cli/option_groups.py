"""Groups of options that several commands take as one parameter."""

import inspect
from collections.abc import Callable
from functools import wraps

from longlive_cli import options

RUNTIME = {
    "device": options.Device,
    "quality": options.Quality,
    "weights": options.Weights,
    "kv_cache": options.KVCache,
    "attention": options.Attention,
    "lane": options.Lane,
    "linear": options.Linear,
    "strict": options.Strict,
    "vae": options.VAE,
    "vae_latents": options.VAELatents,
    "vae_tiles": options.VAETiles,
    "lora": options.LoRA,
    "offload": options.Offload,
    "text_encoder": options.TextPlace,
}
"""An option for every field of `longlive_models.runtime_options.RuntimeOptions`."""


SAMPLING = {
    "sampler": options.Sampler,
    "steps": options.Steps,
    "guidance": options.Guidance,
    "negative_prompt": options.NegativePrompt,
    "fps": options.FPS,
    "crf": options.CRF,
    "model": options.Model,
    "download": options.Download,
    "max_memory": options.MaxMemory,
}
"""Options of how a video is made and stored, which are fields of the config of a generation."""

PLANNED = {
    name: option
    for name, option in RUNTIME.items()
    if name not in ("device", "attention", "linear", "strict", "lora")
} | {"max_memory": options.MaxMemory}
"""Options of how a model runs that memory and time depend on."""

GROUPS = {"runtime": RUNTIME, "sampling": SAMPLING, "planned": PLANNED}


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """`command` with the options of a group in place of its parameter of that name.

    The command gets a mapping of those that were given.
    """
    shape = inspect.signature(command)
    groups = {name: GROUPS[name] for name in shape.parameters if name in GROUPS}
    parameters: list[inspect.Parameter] = []
    for parameter in shape.parameters.values():
        if parameter.name not in groups:
            parameters.append(parameter)
            continue
        parameters += [
            inspect.Parameter(name, parameter.kind, default=None, annotation=option)
            for name, option in groups[parameter.name].items()
        ]

    @wraps(command)
    def with_options(**given: object) -> None:
        grouped = {}
        for group, options_of in groups.items():
            values = {name: given.pop(name) for name in options_of}
            grouped[group] = {
                name: value for name, value in values.items() if value not in (None, [])
            }
        command(**given, **grouped)

    vars(with_options)["__signature__"] = shape.replace(parameters=parameters)
    with_options.__annotations__ = {p.name: p.annotation for p in parameters}
    return with_options
