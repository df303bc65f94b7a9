"""`longlive plan`: what a model will take, before anything is loaded."""

import json
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longlive_cli import complete, options
from longlive_cli.messages import in_one_line, say, spinning
from longlive_cli.option_groups import with_groups
from longlive_cli.refusals import option_of, refuse_beside

if TYPE_CHECKING:
    from longlive_cli.catalog import Preset
    from longlive_recipes.configs.plan import PlanWishes
    from longlive_recipes.plan import Forecast
    from longlive_recipes.planning.memory import Choice

GIB = 2**30


@with_groups
def plan(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A shipped model, a folder, or LongLive-2.0-5B (no files needed); with --train a "
            "recipe.  [default: LongLive-2.0-5B, or every recipe]"
        ),
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(
            help="h100, h200, b200, a100, l40s, 4090, 5090, 3090 or cpu.  [default: what is here]",
            autocompletion=complete.among(
                "h100", "h200", "b200", "a100", "l40s", "4090", "5090", "3090", "cpu"
            ),
        ),
    ] = None,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="The device's memory, such as 24GB.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="How long the video lasts.")] = 60.0,
    size: Annotated[
        str | None,
        typer.Option(metavar="WxH", help="Frames of another size.  [default: the model's]"),
    ] = None,
    planned: dict[str, Any] | None = None,
    steps: Annotated[
        int | None, typer.Option(help="Denoising steps of a block.  [default: the model's]")
    ] = None,
    guidance: options.Guidance = None,
    ranks: Annotated[int, typer.Option(help="GPUs that make the video together.")] = 1,
    decode_apart: Annotated[
        bool, typer.Option("--decode-apart", help="One more GPU decodes.")
    ] = False,
    train: Annotated[
        bool, typer.Option("--train", help="Plan training: every recipe, or the one that is named.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON line.")] = False,
) -> None:
    """Say what a model will take before it runs: memory by part, seconds, disk, and what fits.

    Nothing is loaded. Memory is within 10 % of what is measured; seconds are within 10 % on an
    H200, and within a quarter on devices that were not measured.
    """
    from longlive_cli.overrides import apply_mapping
    from longlive_recipes.configs.plan import PlanWishes

    wishes = PlanWishes(
        model="LongLive-2.0-5B" if model is None or train else model,
        gpu=gpu,
        memory=memory,
        seconds=seconds,
        size=size,
        steps=steps,
        guidance=guidance,
        ranks=ranks,
        decode_apart=decode_apart,
    )
    wishes = apply_mapping(wishes, planned or {})
    if train:
        _refuse_of_videos(wishes)
        _train(model, gpu, memory, as_json)
        return
    with spinning("counting"):
        from longlive_recipes import plan as recipe

        forecast = recipe.run(wishes)
    say(json.dumps(forecast.to_dict()) if as_json else described(forecast))


def _refuse_of_videos(wishes: "PlanWishes") -> None:
    """Raise ValueError for wishes about a video: a training run makes none."""
    given = {
        option_of(field.name): vars(wishes)[field.name]
        for field in fields(wishes)
        if field.name not in ("model", "gpu", "memory")
        and vars(wishes)[field.name] != field.default
    }
    why = "a recipe says how it trains; `longlive train RECIPE --dry-run --set` plans others"
    refuse_beside("--train", given, why)


def _train(name: str | None, gpu: str | None, memory: str | None, as_json: bool) -> None:
    """Say what training takes: of each recipe a line, or of one its parts."""
    from longlive_cli.catalog import find, presets

    known = [one for one in presets() if one.recipe.startswith(("train_", "distill_"))]
    chosen = known if name is None else [find(name, known)]

    from longlive_recipes.planning.hardware import here, named, with_memory

    hardware = with_memory(here() if gpu is None else named(gpu), memory)
    usable = hardware.memory - hardware.reserved
    found: list[dict[str, Any]] = []
    with spinning("rehearsing a step of each recipe"):
        for one in chosen:
            found.append({"recipe": one.name, **_predicted(one)})
            peak = found[-1].get("peak")
            found[-1]["fits"] = None if peak is None else peak <= usable
    if as_json:
        device = {"name": hardware.name, "usable": usable}
        say(json.dumps({"hardware": device, "recipes": found}))
        return
    say(f"training on {hardware.name}, {_bytes(usable)} that can be had, a rank's device each:")
    for row in found:
        if row["fits"] is None:
            say(f"  {row['recipe']:22}{row['why']}")
            continue
        words = "fits" if row["fits"] else "does not fit"
        say(f"  {row['recipe']:22}{_bytes(row['peak']):>11}  {words}, {row['about']}")
        if name is not None:
            say("\n".join(f"    {line}" for line in row["lines"]))


def _predicted(preset: "Preset") -> dict[str, Any]:
    """The memory of a preset, as values for JSON; or why it is not predicted."""
    module = preset.module
    if "predict" not in vars(module):
        return {"why": "its memory is not predicted; `longlive train --dry-run` may say more"}
    try:
        made = module.predict(preset.build())
    except ValueError as error:
        return {"why": in_one_line(str(error))}
    return {"peak": made.peak, "about": made.about, "lines": made.lines()}


def described(forecast: "Forecast") -> str:
    """A forecast as lines of text for people."""
    choice, hardware, speed = forecast.choice, forecast.hardware, forecast.speed
    usable = hardware.memory - hardware.reserved
    guided = ", guidance" if choice.guidance else ""
    ranks = f", {choice.ranks} GPUs" if choice.ranks > 1 else ""
    lines = [
        f"{forecast.model}, {forecast.size}, on {hardware.name}: weights {choice.weights}, cache "
        f"{choice.kv_cache}, {choice.steps} steps{guided}{ranks}{_places(choice)}",
        *([f"picked: {' '.join(forecast.picked)}"] if forecast.picked else []),
        "",
        "memory",
    ]
    parts = forecast.memory.parts()
    lines += [f"  {name:26}{_bytes(count):>11}" for name, count in parts.items()]
    needed = forecast.memory.needed
    lines.append(f"  {'in all':26}{_bytes(needed):>11} of {_bytes(usable)} that can be had")
    if forecast.memory.host:
        lines.append(f"  {'waits on the host':26}{_bytes(forecast.memory.host):>11}")
    lines += ["", "time", f"  {'loading':26}{_seconds(speed.loading):>11}"]
    lines += [
        f"  {'first frame after':26}{_seconds(speed.first_frame):>11}",
        f"  {'a block, denoising alone':26}{_seconds(speed.block):>11}",
        f"  {'a block, decoding alone':26}{_seconds(speed.decoding):>11}",
        f"  {'from block to block':26}{_seconds(speed.together):>11}",
        f"  {'frames a second':26}{_rate(speed.frames_per_second):>9}",
    ]
    if forecast.video_frames is not None:
        wall = _seconds(forecast.video_wall_seconds)
        lines.append(f"  {f'{forecast.video_seconds:g} s of video in':26}{wall:>11}")
    lines += ["", "disk", f"  {'the model':26}{_bytes(forecast.model_bytes):>11}"]
    if forecast.video_bytes is not None:
        lines.append(f"  {'the video, about':26}{_bytes(forecast.video_bytes):>11}")
    return "\n".join([*lines, "", verdict(forecast)])


def _places(choice: "Choice") -> str:
    """What of a choice is not as usual, as words that follow a list."""
    found = {
        "latents decoded one by one": choice.vae_latents == 1,
        f"{choice.vae_latents} latents decoded at a time": choice.vae_latents > 1,
        f"on {choice.vae_tiles} strips": choice.vae_tiles > 1,
        "blocks wait on the host": choice.offload,
        "text encoder visits the device": choice.text_encoder == "offload",
        "text encoder on the CPU": choice.text_encoder == "cpu",
        "decoding in turn with denoising": not choice.beside and not choice.decode_apart,
    }
    return "".join(f", {words}" for words, true in found.items() if true)


def verdict(forecast: "Forecast") -> str:
    """The last line: whether it fits, and else the smallest change that makes it fit."""
    memory, hardware = forecast.memory, forecast.hardware
    room = hardware.memory - hardware.reserved - memory.needed
    if forecast.fits:
        return f"It fits, with {_bytes(room)} to spare."
    missing = f"It does not fit: {_bytes(-room)} are missing."
    if forecast.advice is None:
        return f"{missing} No change that is known here makes it fit: take a larger device."
    options = ", ".join(forecast.advice.options)
    needed = _bytes(forecast.advice.memory.needed)
    return f"{missing} The smallest change that makes it fit: {options}; {needed} in all."


def _bytes(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB / 10 else f"{count / 2**20:.0f} MiB"


def _rate(number: float) -> str:
    return f"{number:.1f}" if number >= 0.95 else f"{number:.2g}"


def _seconds(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    for unit, size, most in (("s", 1, 100), ("min", 60, 100), ("h", 3600, 48)):
        if seconds < size * most:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 86400:.1f} days"
