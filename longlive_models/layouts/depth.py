"""How many blocks a part must have, so that one without its last blocks is not taken for a shorter
model. Needs no torch.

A config says it, in the file, in its folder, or in a ``config.json`` beside a single file. Without
one, the widths of the published models tell which of them it is.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longlive_core.checks import whole
from longlive_models.documents import read_json

Shapes = Mapping[str, tuple[int, ...]]

KNOWN: Mapping[tuple[str, int, int], tuple[str, int]] = {
    ("transformer", 1536, 8960): ("Wan2.1's 1.3B model", 30),
    ("transformer", 3072, 14336): ("Wan2.2-TI2V-5B, as LongLive-2.0-5B,", 30),
    ("transformer", 5120, 13824): ("Wan's 14B models", 40),
    ("text_encoder", 4096, 10240): ("UMT5-XXL", 24),
}
"""Published models by part, width and inner width: the name of each, and its blocks."""

_WIDTHS = {
    "transformer": (("patch_embedding.weight", 0), "dim"),
    "text_encoder": (("token_embedding.weight", 1), "d_model"),
}
"""By part, where its width is among its shapes, and what a config beside a file calls it."""

_SHARD = re.compile(r"-(\d+)-of-(\d+)\.\w+$")


def require_layers(
    part: str,
    widths: tuple[int, int],
    held: int,
    config: Mapping[str, Any] | None,
    source: object,
) -> None:
    """Raise ValueError if a part with ``held`` blocks ought to have another number of them.

    Args:
        part: "transformer" or "text_encoder".
        widths: its width, and the width inside its feed-forward layers.
        held: one more than the largest number of a block in it.
        config: a config with ``num_layers``, or None.
        source: the file, for the message.
    """
    said = None if config is None else config.get("num_layers")
    if said is not None:
        why = "it is how many blocks the model has. Take config and weights from one place."
        wanted = whole(f"num_layers in the config of {source}", said, at_least=1, why=why)
        if wanted < held:
            raise ValueError(
                f"{source} holds {held} blocks, and its config says num_layers={wanted}: config "
                f"and weights come from different models. Take both from one place."
            )
        whose = f"its config says num_layers={wanted}"
        way_out = f"if it is a model of {_blocks(held)}, say num_layers={held} in its config"
    else:
        name, wanted = KNOWN.get((part, *widths), ("", held))
        whose = f"{name} with the same widths, {widths[0]} and {widths[1]}, has {wanted}"
        words = f'{{"{_WIDTHS[part][1]}": {widths[0]}, "num_layers": {held}}}'
        way_out = f"if it is a model of {_blocks(held)}, put a config.json beside it with {words}"
    if held < wanted:
        raise ValueError(
            f"{source} is not whole: it holds {_blocks(held)}, and {whose}. Without its last "
            f"{_blocks(wanted - held)} it would make noise; it was cut, or a shard of it is not "
            f"there. Fetch it again, or, {way_out}."
        )


def require_all(held: int, wanted: int, what: str, source: object) -> None:
    """Raise ValueError unless a VAE has as many of something as its config, or Wan2.2's VAE, has.

    ``what`` names them in the message.
    """
    if held == wanted:
        return
    if held > wanted:
        raise ValueError(
            f"{source} holds {held} {what}, and its config says {wanted}: config and weights come "
            f"from different models. Take both from one place."
        )
    raise ValueError(
        f"{source} is not whole: it holds {held} {what} of {wanted}. It was cut, or a shard of it "
        f"is not there. Fetch it again."
    )


def config_beside(file: Path, part: str, shapes: Shapes) -> dict[str, Any] | None:
    """What the ``config.json`` in the folder of a file says of its blocks; None if nothing.

    It is of this file only if it names the width of its weights.
    """
    place = file.parent / "config.json"
    if part not in _WIDTHS or not place.is_file():
        return None
    (key, side), name = _WIDTHS[part]
    try:
        config = read_json(place, "a model's config")
    except ValueError:  # it may be of anything; nothing but its number of blocks is wanted
        return None
    shape = shapes.get(key, ())
    width = shape[side] if side < len(shape) else None
    heads, channels = config.get("num_attention_heads"), config.get("attention_head_dim")
    named = config.get(name)
    if part == "transformer" and isinstance(heads, int) and isinstance(channels, int):
        named = heads * channels  # as Diffusers says it
    if width is None or width != named or "num_layers" not in config:
        return None
    return {"num_layers": config["num_layers"]}


def write_beside(folder: Path, dim: int, ffn_dim: int, layers: int) -> None:
    """Say in a folder's ``config.json`` that its transformer has fewer blocks than is known.

    Without it the file would be refused. A model of the usual depth has none: what an earlier one
    left there is removed.
    """
    place = folder / "config.json"
    if layers < KNOWN.get(("transformer", dim, ffn_dim), ("", 0))[1]:
        sizes = {"dim": dim, "ffn_dim": ffn_dim, "num_layers": layers}
        place.write_text(json.dumps(sizes, indent=2) + "\n")
    else:
        place.unlink(missing_ok=True)


def refuse_shard(file: Path) -> None:
    """Raise ValueError for a file whose name says that it is one of several of a model."""
    found = _SHARD.search(file.name)
    if found is not None and int(found[2]) > 1:
        raise ValueError(
            f"{file} is one of {int(found[2])} files of a model, as its name says: by itself it "
            f"would be read as a smaller model. Name the folder that holds all of them."
        )


def _blocks(count: int) -> str:
    return "1 block" if count == 1 else f"{count} blocks"
