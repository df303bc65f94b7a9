"""What the config of somebody else's model says of its packed layers.

Models of Diffusers and Transformers are saved with a ``config.json``, and are made of it before
weights are loaded. Without a word about packed layers they would be made with plain ones, none of
whose weights are in the file. So a conversion writes ``quantization_config`` into the config of the
model that it changes: which layers are packed, and how. Who reads it makes them again; who cannot
read it says so. No library is imported for it: a model is asked whether it has such a config.
"""

import json
from typing import Any, Protocol, runtime_checkable

from torch import nn

from longlive_core.checks import instance
from longlive_core.frozen_linear import FrozenLinear

METHOD = "longlive"
KEY = "quantization_config"


@runtime_checkable
class SavedWithConfig(Protocol):
    """A model that is saved with a config of which it is made again."""

    config: Any

    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        """Write config and weights into a folder."""


def packed_layers(model: nn.Module) -> dict[str, Any]:
    """``quantization_config`` of a model: its method, and layers that are packed alike together."""
    alike: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, FrozenLinear):
            form = module.stored_form()
            alike.setdefault(json.dumps(form, sort_keys=True), (form, []))[1].append(name)
    forms = [{**form, "layers": names} for form, names in alike.values()]
    return {"quant_method": METHOD, "forms": forms}


def note_in_config(model: nn.Module) -> None:
    """Write or remove ``quantization_config`` in every config of ``model`` that will be saved.

    Where a model and a part of it share one config, its names are those of the whole.
    """
    instance("the model", model, nn.Module, why="configs of its modules are saved with it.")
    seen: list[Any] = []
    for module in model.modules():
        if isinstance(module, SavedWithConfig) and all(module.config is not one for one in seen):
            seen.append(module.config)
            noted = packed_layers(module)
            if noted["forms"]:
                _write(module, noted)
            elif _is_ours(module.config):  # all were decoded
                _remove(module)


def _write(module: Any, noted: dict[str, Any]) -> None:
    if hasattr(module, "register_to_config"):  # Diffusers, whose config is a frozen dictionary
        module.register_to_config(**{KEY: noted})
    else:
        module.config.quantization_config = noted


def _remove(module: Any) -> None:
    if hasattr(module, "register_to_config"):
        rest = {name: value for name, value in module.config.items() if name != KEY}
        module._internal_dict = type(module.config)(rest)
    else:
        del module.config.quantization_config


def _is_ours(config: Any) -> bool:
    noted: Any = config.quantization_config if hasattr(config, KEY) else None
    if hasattr(noted, "quant_method"):
        return noted.quant_method == METHOD
    return isinstance(noted, dict) and noted.get("quant_method") == METHOD
