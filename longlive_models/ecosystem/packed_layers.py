"""Packed layers in models of other libraries: made as the config says, checked after loading."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from longlive_core.float8 import Float8Config, Float8Linear
from longlive_core.frozen_linear import FrozenLinear
from longlive_core.nvfp4 import LinearConfig, NVFP4Linear, QuantizeConfig
from longlive_core.saved_config import note_in_config


def make_packed_layers(model: nn.Module, forms: list[dict[str, Any]]) -> None:
    """Replace the linears that a ``quantization_config`` names by empty packed layers.

    ``forms`` has the format of each. Raises:
        ValueError: a format is unknown, or a name is no linear of ``model``.
    """
    for form in forms:
        for name in form["layers"]:
            linear = dict(model.named_modules(remove_duplicate=False)).get(name)
            if type(linear) is not nn.Linear:
                found = "is missing" if linear is None else f"is a {type(linear).__name__}"
                raise ValueError(
                    f"quantization_config packs {name}, which {found} in this "
                    f"{type(model).__name__}: config and model belong to different versions, or "
                    f"adapters were saved with the weights. Remove adapters before saving "
                    f"(delete_adapters, or unload), and save them apart."
                )
            holder, _, last = name.rpartition(".")
            setattr(model.get_submodule(holder), last, _empty(linear, form))


def check_filled(model: nn.Module) -> None:
    """Finish packed layers after loading: set their formats from the tensors, and check them.

    Raises:
        ValueError: a tensor of a packed layer was not in the files, or was cast.
    """
    for name, module in model.named_modules():
        if not isinstance(module, FrozenLinear):
            continue
        for key, tensor in (*module.named_buffers(), *module.named_parameters()):
            if tensor.is_meta:
                raise ValueError(
                    f"{name}.{key} is in none of the files, so {name} would be random numbers: the "
                    f"folder is not complete, or its config is of another model. Save it again."
                )
        try:
            module.load_state_dict(module.state_dict())  # its own tensors: reads and checks them
        except RuntimeError as error:
            raise ValueError(
                f"{name} of the loaded {type(model).__name__} cannot be read, so the folder is "
                f"damaged or not complete: {error}. Save the model again."
            ) from error


def _empty(linear: nn.Linear, form: Mapping[str, Any]) -> FrozenLinear:
    layer: FrozenLinear
    if form["format"] == "float8":
        layer = Float8Linear(
            linear.in_features,
            linear.out_features,
            bias=linear.bias is not None,
            config=Float8Config(
                scaling=form["scaling"], backend=form["backend"], strict=form["strict"]
            ),
            device=linear.weight.device,
            dtype=linear.weight.dtype,
        )
    elif form["format"] == "nvfp4":
        given = form["activation"]
        layer = NVFP4Linear(
            linear.in_features,
            linear.out_features,
            bias=linear.bias is not None,
            config=LinearConfig(
                weight=QuantizeConfig.from_dict(form["weight"]),
                activation=None if given is None else QuantizeConfig.from_dict(given),
                backend=form["backend"],
                strict=form["strict"],
            ),
            device=linear.weight.device,
            dtype=linear.weight.dtype,
        )
    else:
        raise ValueError(
            f"quantization_config names the format {form['format']!r}, and 'nvfp4' and 'float8' "
            f"are known here. Use the version of longlive that wrote it, or a later one."
        )
    for parameter in layer.parameters():
        parameter.requires_grad_(linear.weight.requires_grad)
    layer.__dict__["_is_hf_initialized"] = True  # Transformers draws weights where this is missing
    return layer.train(linear.training)


def decode_all(model: nn.Module, dtype: torch.dtype) -> None:
    """Replace all packed linears by plain ones of type ``dtype`` with the same values.

    A linear that stands under two names is decoded once and put under both.
    """
    decoded: dict[nn.Module, nn.Linear] = {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if isinstance(module, NVFP4Linear | Float8Linear):
            if module not in decoded:
                decoded[module] = module.to_linear(dtype)
            holder, _, last = name.rpartition(".")
            setattr(model.get_submodule(holder), last, decoded[module])
    note_in_config(model)
