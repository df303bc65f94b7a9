"""Telling from the names of weights which part of which model a file holds. Needs no torch."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from longlive_core.names import few
from longlive_models.layouts.wrappers import below_one

PARTS = ("transformer", "vae", "text_encoder")

IN_WORDS = {
    "transformer": "the transformer",
    "vae": "the VAE",
    "text_encoder": "the text encoder",
    "lora": "a LoRA (adapters for a model)",
}


@dataclass(frozen=True, kw_only=True)
class Recognized:
    """What a file holds.

    Attributes:
        part: one of ``PARTS``, "lora", or "" for other things.
        layout: "published" or "diffusers", or "" where there is no layout to tell.
        words: what it is, for messages.
    """

    part: str
    layout: str
    words: str


_SIGNS = (
    ("vae", "published", r"encoder\.downsamples\.\d+\.downsamples\.\d+\.residual\.2\."),
    ("vae", "diffusers", r"encoder\.down_blocks\.\d+\.resnets\.\d+\.conv1\."),
    ("text_encoder", "published", r"blocks\.\d+\.pos_embedding\.embedding\.weight"),
    ("text_encoder", "diffusers", r"encoder\.block\.\d+\.layer\.0\.SelfAttention\.[qkvo]\."),
    ("transformer", "published", r"blocks\.\d+\.self_attn\.(?:[qkvo]|qkv|qkv_proj)\."),
    ("transformer", "diffusers", r"blocks\.\d+\.attn1\.(?:to_[qkv]|to_qkv|to_out)\."),
)
_LORA = re.compile(r"(?:\.|_)lora_(?:A|B|down|up)|^lora_unet_|\.hada_w1|\.lokr_w1|\.diff(?:_b)?$")
_OTHERS = (
    (r"encoder\.downsamples\.\d+\.residual\.", "the VAE of Wan2.1, with 16 latent channels"),
    (r"double_blocks\.\d+\.", "a transformer of Flux or HunyuanVideo"),
    (r"input_blocks\.\d+\.", "a UNet of Stable Diffusion"),
    (r"joint_blocks\.\d+\.", "a transformer of Stable Diffusion 3"),
    (r"transformer_blocks\.\d+\.", "a transformer of another family"),
    (r"(?:^|\.)layers\.\d+\.(?:self_attn|mlp)\.", "a language model"),
    (r"text_model\.encoder\.layers", "a text encoder of CLIP"),
    (r"encoder\.block\.\d+\.layer", "a text encoder of another kind"),
    (r"optimizer|param_groups", "the state of an optimizer"),
)


def named(names: Mapping[str, str]) -> tuple[dict[str, str], Recognized]:
    """The names of a file's weights below what holds them all, and what they are.

    ``names`` are those of ``wrappers.unwrapped``: a word that all have and that is not known is
    taken off as well, where what is left is a part of a model.
    """
    found, rest = recognize(names), dict(names)
    while not found.part and (rest := below_one(rest)):
        below = recognize(rest)
        if below.part:
            return rest, below
    return dict(names), found


def recognize(names: Collection[str]) -> Recognized:
    """Tell what the weights of these names are; wrappers and holders are taken off before."""
    text = "\n".join(names)
    if any(_LORA.search(name) for name in names):
        return Recognized(part="lora", layout="", words=IN_WORDS["lora"])
    for part, layout, sign in _SIGNS:
        if re.search(rf"^{sign}", text, re.MULTILINE):
            return Recognized(part=part, layout=layout, words=IN_WORDS[part])
    for sign, words in _OTHERS:
        if re.search(sign, text):
            return Recognized(part="", layout="", words=words)
    if len(holders := _holders(text)) > 1:
        several = f"several models at once (below {few(holders, 3)}), which are to be saved apart"
        return Recognized(part="", layout="", words=several)
    return Recognized(
        part="", layout="", words=f"weights of another model ({few(sorted(names), 3)})"
    )


def _holders(text: str) -> list[str]:
    """What stands before the names of parts of models, in the order in which they come."""
    signs = "|".join(sign for _, _, sign in _SIGNS)
    return list(dict.fromkeys(re.findall(rf"^((?:\w+\.)+?)(?:{signs})", text, re.MULTILINE)))


def require_part(found: Recognized, wanted: str, source: object) -> None:
    """Raise ValueError unless this is the part that is looked for."""
    if found.part == wanted:
        return
    way_out = {
        "lora": "Name the model that it is for, and this file with --lora (lora=).",
        "": "Take the file from the model's own folder.",
    }.get(found.part, f"Put it where {IN_WORDS.get(found.part, '')} is looked for.")
    raise ValueError(
        f"{source} holds {found.words}, and {IN_WORDS[wanted]} of Wan2.2 or LongLive-2.0 is "
        f"expected there. {way_out}"
    )
