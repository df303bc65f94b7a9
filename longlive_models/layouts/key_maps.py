"""The names of weights in the layouts of others, and back. Needs no torch.

``published`` names are those of the files of Wan2.2 and LongLive-2.0, which this library's
transformer and VAE have too. ``diffusers`` names are those of WanTransformer3DModel and
AutoencoderKLWan, and of transformers' UMT5EncoderModel.
"""

import re
from collections.abc import Iterable, Mapping

_WAN = (
    ("patch_embedding", "patch_embedding"),
    ("text_embedding.0", "condition_embedder.text_embedder.linear_1"),
    ("text_embedding.2", "condition_embedder.text_embedder.linear_2"),
    ("time_embedding.0", "condition_embedder.time_embedder.linear_1"),
    ("time_embedding.2", "condition_embedder.time_embedder.linear_2"),
    ("time_projection.1", "condition_embedder.time_proj"),
    ("head.modulation", "scale_shift_table"),
    ("head.head", "proj_out"),
)
_WAN_BLOCK = (
    ("modulation", "scale_shift_table"),
    ("self_attn.q", "attn1.to_q"),
    ("self_attn.k", "attn1.to_k"),
    ("self_attn.v", "attn1.to_v"),
    ("self_attn.o", "attn1.to_out.0"),
    ("self_attn.norm_q", "attn1.norm_q"),
    ("self_attn.norm_k", "attn1.norm_k"),
    ("cross_attn.q", "attn2.to_q"),
    ("cross_attn.k", "attn2.to_k"),
    ("cross_attn.v", "attn2.to_v"),
    ("cross_attn.o", "attn2.to_out.0"),
    ("cross_attn.norm_q", "attn2.norm_q"),
    ("cross_attn.norm_k", "attn2.norm_k"),
    ("norm3", "norm2"),
    ("ffn.0", "ffn.net.0.proj"),
    ("ffn.2", "ffn.net.2"),
)
_VAE = (
    ("conv1", "quant_conv"),
    ("conv2", "post_quant_conv"),
    ("encoder.conv1", "encoder.conv_in"),
    ("decoder.conv1", "decoder.conv_in"),
    ("encoder.head.0", "encoder.norm_out"),
    ("decoder.head.0", "decoder.norm_out"),
    ("encoder.head.2", "encoder.conv_out"),
    ("decoder.head.2", "decoder.conv_out"),
)
_VAE_BLOCK = (
    ("residual.0", "norm1"),
    ("residual.2", "conv1"),
    ("residual.3", "norm2"),
    ("residual.6", "conv2"),
    ("shortcut", "conv_shortcut"),
)
_TEXT = (
    ("token_embedding", "shared"),
    ("norm", "encoder.final_layer_norm"),
)
_TEXT_BLOCK = (
    ("norm1", "layer.0.layer_norm"),
    ("attn.q", "layer.0.SelfAttention.q"),
    ("attn.k", "layer.0.SelfAttention.k"),
    ("attn.v", "layer.0.SelfAttention.v"),
    ("attn.o", "layer.0.SelfAttention.o"),
    ("pos_embedding.embedding", "layer.0.SelfAttention.relative_attention_bias"),
    ("norm2", "layer.1.layer_norm"),
    ("ffn.gate.0", "layer.1.DenseReluDense.wi_0"),
    ("ffn.fc1", "layer.1.DenseReluDense.wi_1"),
    ("ffn.fc2", "layer.1.DenseReluDense.wo"),
)
_RESAMPLE = (("resample.1", "resample.1"), ("time_conv", "time_conv"))
_ATTENTION = (("norm", "norm"), ("to_qkv", "to_qkv"), ("proj", "proj"))

_ENDINGS = ("weight", "bias", "gamma")
_NUMBER = "#"
"""Stands in a rule for a number."""

Rules = dict[str, str]


def _rules(pairs: Iterable[tuple[str, str]], published: str = "", other: str = "") -> Rules:
    return {published + own: other + foreign for own, foreign in pairs}


def _vae_side(side: str, way: str) -> Rules:
    stage, foreign = f"{side}.{way}samples.#.{way}samples.#.", f"{side}.{way}_blocks.#."
    middle, foreign_middle = f"{side}.middle.", f"{side}.mid_block."
    return {
        **_rules(_VAE_BLOCK, stage, f"{foreign}resnets.#."),
        **_rules(_RESAMPLE, stage, f"{foreign}{way}sampler."),
        **_rules(_VAE_BLOCK, f"{middle}0.", f"{foreign_middle}resnets.0."),
        **_rules(_ATTENTION, f"{middle}1.", f"{foreign_middle}attentions.0."),
        **_rules(_VAE_BLOCK, f"{middle}2.", f"{foreign_middle}resnets.1."),
    }


RULES: Mapping[str, Rules] = {
    "transformer": {**_rules(_WAN), **_rules(_WAN_BLOCK, "blocks.#.", "blocks.#.")},
    "vae": {**_rules(_VAE), **_vae_side("encoder", "down"), **_vae_side("decoder", "up")},
    "text_encoder": {**_rules(_TEXT), **_rules(_TEXT_BLOCK, "blocks.#.", "encoder.block.#.")},
}
"""By part of the model, the name in Diffusers of each published name of a module."""

_BACK = {part: {foreign: own for own, foreign in rules.items()} for part, rules in RULES.items()}


def to_diffusers(part: str, name: str) -> str | None:
    """The name in the layout of Diffusers of a published name of ``part``; None if it has none."""
    module, ending, numbers = _split(name)
    foreign = RULES[part].get(module)
    return None if foreign is None else _filled(foreign, numbers) + ending


def to_published(part: str, names: Iterable[str]) -> dict[str, str | None]:
    """The published names of all names of ``part`` in the layout of Diffusers; None for strangers.

    Diffusers does not number the module that ends a stage of the VAE: it is the one after the
    stage's residual blocks, which are counted in ``names``.
    """
    names = list(names)
    blocks: dict[str, int] = {}
    for name in names:
        if found := re.match(r"(\w+coder\.\w+_blocks\.\d+)\.resnets\.(\d+)\.", name):
            blocks[found[1]] = max(blocks.get(found[1], 0), int(found[2]) + 1)
    return {name: _published(part, name, blocks) for name in names}


def _published(part: str, name: str, blocks: Mapping[str, int]) -> str | None:
    module, ending, numbers = _split(name)
    own = _BACK[part].get(module)
    if own is None:
        return None
    if own.count(_NUMBER) > len(numbers):
        stage = ".".join(name.split(".")[:3])
        numbers = [*numbers, str(blocks.get(stage, 0))]
    return _filled(own, numbers) + ending


def _split(name: str) -> tuple[str, str, list[str]]:
    """A module's name with ``#`` for the numbers of lists of blocks, its ending, these numbers."""
    module, dot, ending = name.rpartition(".")
    if ending not in _ENDINGS:  # a parameter of the module itself, as a modulation
        module, dot, ending = name, "", ""
    numbers = _LISTED.findall(module)
    return _LISTED.sub(_NUMBER, module), dot + ending, numbers


_LISTED = re.compile(
    r"(?<=blocks\.)\d+|(?<=block\.)\d+|(?<=nsamples\.)\d+|(?<=psamples\.)\d+|(?<=(?<!mid_block\.)"
    r"resnets\.)\d+"
)
"""The numbers of blocks; those of a block's own layers are part of its names."""


def _filled(template: str, numbers: list[str]) -> str:
    for number in numbers:
        template = template.replace(_NUMBER, number, 1)
    return template
