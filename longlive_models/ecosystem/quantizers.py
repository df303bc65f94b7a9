"""Quantizers that Diffusers and Transformers call, so that a packed model loads in one call.

``convert_linears`` writes into a model's config which layers are packed, and ``save_pretrained``
writes that beside the weights. ``from_pretrained`` then asks the quantizer of that method to make
these layers before it fills them. Both libraries keep such quantizers in a table of their own.
"""

from enum import StrEnum
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from longlive_core.saved_config import METHOD
from longlive_models.ecosystem.packed_layers import check_filled, decode_all, make_packed_layers


class Method(StrEnum):
    """``quant_method`` of a config; an enum, because Diffusers reads ``.value``."""

    LONGLIVE = METHOD


def register_quantizers() -> tuple[str, ...]:
    """Register with Diffusers and Transformers the loading of models that were packed here.

    Call it once before ``from_pretrained``; further calls change nothing. Returns the names of the
    libraries that are installed and now know the method. Without it Diffusers refuses such a folder
    with "Unknown quantization type, got longlive", while Transformers only warns, and leaves packed
    weights random.
    """
    known = []
    if find_spec("diffusers") is not None:
        _tell_diffusers()
        known.append("diffusers")
    if find_spec("transformers") is not None:
        _tell_transformers()
        known.append("transformers")
    return tuple(known)


def _tell_diffusers() -> None:
    from diffusers.quantizers import auto
    from diffusers.quantizers.base import DiffusersQuantizer
    from diffusers.quantizers.quantization_config import QuantizationConfigMixin

    if METHOD in auto.AUTO_QUANTIZER_MAPPING:
        return

    class LongLiveQuantizer(_Hooks, DiffusersQuantizer):
        """The quantizer that Diffusers calls; it makes packed layers before they are loaded."""

        library = "diffusers"
        is_serializable = True
        is_trainable = True
        use_keep_in_fp32_modules = True  # as Diffusers loads plain weights
        is_compileable = True

        def _dequantize(self, model: nn.Module) -> nn.Module:
            decode_all(model, _dtype(model))
            return model

    class LongLiveConfig(_Config, QuantizationConfigMixin):
        """Which layers are packed, and how."""

        library = "diffusers"

    auto.AUTO_QUANTIZER_MAPPING[METHOD] = LongLiveQuantizer
    auto.AUTO_QUANTIZATION_CONFIG_MAPPING[METHOD] = LongLiveConfig


def _tell_transformers() -> None:
    from transformers.quantizers import HfQuantizer, auto
    from transformers.utils.quantization_config import QuantizationConfigMixin

    if METHOD in auto.AUTO_QUANTIZER_MAPPING:
        return

    @auto.register_quantizer(METHOD)
    class LongLiveQuantizer(_Hooks, HfQuantizer):
        """The quantizer that Transformers calls; it makes packed layers before they are loaded."""

        library = "transformers"
        is_trainable = True
        is_compileable = True

        def is_serializable(self) -> bool:
            return True

        def _dequantize(self, model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
            decode_all(model, _dtype(model) if dtype is None else dtype)
            return model

    @auto.register_quantization_config(METHOD)
    class LongLiveConfig(_Config, QuantizationConfigMixin):
        """Which layers are packed, and how."""

        library = "transformers"


def _made_again(library: str, kind: str, values: dict[str, Any]) -> Any:
    """A config or quantizer of a pickle, which names the library: its class is made there."""
    register_quantizers()
    auto: Any = import_module(f"{library}.quantizers.auto")
    config = auto.AUTO_QUANTIZATION_CONFIG_MAPPING[METHOD](values["forms"])
    return config if kind == "config" else auto.AUTO_QUANTIZER_MAPPING[METHOD](config)


class _Config:
    """``quantization_config``, as both libraries make it of a dictionary and write it again."""

    library: str
    quant_method: Any

    def __init__(self, forms: list[dict[str, Any]], quant_method: str = METHOD) -> None:
        self.quant_method = Method(quant_method)
        self.forms = forms

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as ``saved_config.packed_layers`` gives them."""
        return {"quant_method": METHOD, "forms": self.forms}

    def __reduce__(self) -> tuple[Any, ...]:
        return _made_again, (self.library, "config", self.to_dict())

    def __repr__(self) -> str:
        layers = sum(len(form["layers"]) for form in self.forms)
        return f"LongLiveConfig({layers} packed layers)"


class _Hooks:
    """The hooks that both libraries call before and after the weights of a model are loaded."""

    library: str
    quantization_config: Any
    pre_quantized: bool

    def __reduce__(self) -> tuple[Any, ...]:
        return _made_again, (self.library, "quantizer", self.quantization_config.to_dict())

    def validate_environment(self, *args: Any, **kwargs: Any) -> None:
        """Raise ValueError for plain weights, which are to be converted after loading."""
        if not self.pre_quantized:
            raise ValueError(
                "quantization_config was given for plain weights, and this method makes the layers "
                "of a packed folder. Load the model without it, and pack it with convert_linears."
            )

    def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> None:
        make_packed_layers(model, self.quantization_config.forms)
        if hasattr(model, "register_to_config"):
            model.register_to_config(quantization_config=self.quantization_config.to_dict())

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        check_filled(model)
        return model


def _dtype(model: nn.Module) -> torch.dtype:
    return next(p.dtype for p in model.parameters() if p.is_floating_point())
