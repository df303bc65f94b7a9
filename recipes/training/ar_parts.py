"""The parts that AR training trains: built, begun with another model's weights, adapted."""

from pathlib import Path

import torch
from torch import nn

from longlive_core.module_swap import Keep, swap_linears
from longlive_core.nvfp4 import (
    LinearConfig,
    NVFP4Linear,
    TrainingConfig,
    convert_linears,
    plan_conversion,
)
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
    keep = config.plain.keep(config.model.num_layers) if config.quantized.quantizes else ()
    if config.quantized.quantizes and lora is None:
        convert_linears(model, config.quantized, keep=keep, reduce_amax=reduce_amax)
    elif config.quantized.quantizes:
        packed = packed_as(config.quantized)
        if next(model.parameters()).is_meta:
            _pack_unfilled(model, packed, keep)
        else:
            convert_linears(model, packed, keep=keep, reduce_amax=reduce_amax)
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


def _pack_unfilled(model: nn.Module, config: LinearConfig, keep: Keep) -> None:
    """Replace linears on "meta" by packed ones, which hold nothing either."""

    def make(linear: nn.Module) -> nn.Module:
        assert isinstance(linear, nn.Linear)
        return NVFP4Linear(
            linear.in_features,
            linear.out_features,
            bias=linear.bias is not None,
            config=config,
            device="meta",
            dtype=linear.weight.dtype,
        )

    swap_linears(model, make, plan_conversion(model, keep=keep))
