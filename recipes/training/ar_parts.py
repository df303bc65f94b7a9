"""The parts that AR training trains: built, begun with another model's weights, adapted."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from longlive_core import float8, nvfp4
from longlive_core.float8 import Float8Config, Float8Linear, Float8TrainingConfig
from longlive_core.module_swap import Keep, swap_linears
from longlive_core.nvfp4 import LinearConfig, NVFP4Linear, TrainingConfig
from longlive_models.checkpoints.folder import fill, load_part, read_config, unfilled
from longlive_models.checkpoints.hub import is_published
from longlive_models.checkpoints.nvfp4 import ReduceAmax, decode_state
from longlive_models.lora import add_lora
from longlive_models.published import find_weights
from longlive_models.text import PocketTextConfig, PocketTextEncoder, WordTokenizer
from longlive_models.wan import WanTransformer, read_state_dict
from longlive_recipes.configs.train_ar import TrainAR
from longlive_recipes.data.cache_index import read_index
from longlive_recipes.data.text_features import PromptTable
from longlive_recipes.training.module import start_from
from longlive_recipes.training.start import TEXT, TRANSFORMER, find_start


def begin_with(model: WanTransformer, text: nn.Module, name: str) -> None:
    """Load another model's weights; words that its text encoder does not know begin as unknown.

    Raises:
        ValueError: the folder does not hold the weights of such parts.
    """
    folder = find_start(name)
    if is_published(folder):
        file = find_weights(folder)
        assert file is not None
        dtype = next(model.parameters()).dtype
        tensors = decode_state(read_state_dict(file), dtype)
        fill(model, {key: tensor.to(dtype) for key, tensor in tensors.items()}, file)
    else:
        start_from(model, folder / TRANSFORMER)
    if isinstance(text, PocketTextEncoder):
        _begin_text(text, folder / TEXT)


def text_part(config: TrainAR) -> PocketTextEncoder | PromptTable:
    """The text encoder that trains along, or the features of a frozen one, out of the cache.

    Raises:
        ValueError: the cache's features are not there, or of another encoder.
    """
    if isinstance(config.text, PocketTextConfig):
        return PocketTextEncoder(config.text)
    if config.data is None:
        return PromptTable({}, config.text.text_len, config.text.dim)
    cache = Path(config.data)
    return PromptTable.of_cache(cache, read_index(cache), config.text)


def adapt(
    model: WanTransformer, text: nn.Module, config: TrainAR, reduce_amax: ReduceAmax | None = None
) -> None:
    """Quantize the transformer's linears and put adapters beside them, as a config asks for it.

    With adapters all else is frozen, the text encoder too, and quantized linears are packed. Parts
    that are ``unfilled`` stay so.
    """
    lora = config.adapter.lora
    if config.in_few_bits:
        keep = config.plain.keep(config.model.num_layers)
        if lora is not None:
            _pack(model, config, keep, reduce_amax)
        elif config.float8.quantizes:
            float8.convert_linears(model, config.float8, keep=keep, reduce_amax=reduce_amax)
        else:
            nvfp4.convert_linears(model, config.quantized, keep=keep, reduce_amax=reduce_amax)
    if lora is not None:
        add_lora(model, lora)
        text.requires_grad_(False)


def packed_as(config: TrainingConfig) -> LinearConfig:
    """How a frozen base is packed that computes its forward products as this config says."""
    return LinearConfig(
        weight=config.weight,
        activation=config.activation,
        backend=config.backend,
        strict=config.strict,
    )


def packed_in_8(config: Float8TrainingConfig) -> Float8Config:
    """The same in eight bits."""
    return Float8Config(backend=config.backend, strict=config.strict)


def unfilled_parts(config: TrainAR) -> nn.ModuleDict:
    """The parts of a run's module by the names that they have in it, without weights."""
    with unfilled():
        model = WanTransformer(config.model)
        text = text_part(config)
        adapt(model, text, config)
    return nn.ModuleDict({"model": model, "text": text})


def _begin_text(text: PocketTextEncoder, folder: Path) -> None:
    """Load a text encoder's weights; the rows of words move to where the new encoder has them."""
    theirs = PocketTextConfig.from_dict(read_config(folder))
    if theirs.vocab == text.config.vocab:
        start_from(text, folder)
        return
    _, tensors = load_part(folder)
    rows = decode_state(tensors, torch.float32)["embedding.weight"]
    held = WordTokenizer(theirs.vocab, theirs.text_len)
    own = (*WordTokenizer.SPECIAL, *text.config.vocab)
    place = {word: row for row, word in enumerate((*held.SPECIAL, *held.known_words))}
    places = [place.get(word, held.UNKNOWN) for word in own]
    index = torch.tensor(places, dtype=torch.int64, device="cpu")
    tensors = {**decode_state(tensors, torch.float32), "embedding.weight": rows[index]}
    fill(text, tensors, folder)


def _pack(model: nn.Module, config: TrainAR, keep: Keep, reduce_amax: ReduceAmax | None) -> None:
    """Replace the linears of a frozen base by packed ones; those on "meta" hold nothing either."""
    is_unfilled = next(model.parameters()).is_meta
    if config.float8.quantizes:
        in_8 = packed_in_8(config.float8)
        if not is_unfilled:
            float8.convert_linears(model, in_8, keep=keep)
            return
        plan = float8.plan_conversion(model, in_8, keep=keep)
        packed: Callable[..., nn.Module] = partial(Float8Linear, config=in_8)
    else:
        in_4 = packed_as(config.quantized)
        if not is_unfilled:
            nvfp4.convert_linears(model, in_4, keep=keep, reduce_amax=reduce_amax)
            return
        plan = nvfp4.plan_conversion(model, keep=keep)
        packed = partial(NVFP4Linear, config=in_4)

    def make(linear: nn.Module) -> nn.Module:
        assert isinstance(linear, nn.Linear)
        return packed(
            linear.in_features,
            linear.out_features,
            bias=linear.bias is not None,
            device="meta",
            dtype=linear.weight.dtype,
        )

    swap_linears(model, make, plan)
