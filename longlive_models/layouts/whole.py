"""Whether a part's file holds all weights of a model of its sizes, and no others; reads none."""

from collections.abc import Mapping

from torch import nn

from longlive_models.checkpoints.folder import unfilled
from longlive_models.layouts.fit import Shapes, require_fit, require_floats
from longlive_models.layouts.part_files import PartFile
from longlive_models.layouts.sizes import transformer_config, umt5_config, vae_config
from longlive_models.text.checkpoint import published_shapes
from longlive_models.vae import WanVAE
from longlive_models.wan import WanTransformer


def require_whole(part: PartFile, *, more: bool = False) -> None:
    """Raise ValueError unless a part has the weights that its own sizes ask for, as numbers.

    ``more`` says whether it may have further ones.
    """
    if part.part == "text_encoder":
        own = published_shapes(umt5_config(part.shapes, part.config, part.path))
        require_weights(part, own, "UMT5 encoder", more=more)
        return
    with unfilled():
        module: nn.Module
        if part.part == "vae":
            module = WanVAE(vae_config(part.shapes, part.config, part.path))
        else:
            module = WanTransformer(transformer_config(part.shapes, part.config, part.path))
    require_weights(part, shapes_of(module), type(module).__name__, more=more)


def require_weights(part: PartFile, own: Shapes, model: str, *, more: bool = False) -> None:
    """Raise ValueError unless a part has weights of these names and shapes, as numbers."""
    require_fit(part.shapes, own, part.path, model, more=more)
    types = {name: one.dtype for name, one in part.plain.items() if name in own}
    require_floats(types, part.path)


def shapes_of(module: nn.Module) -> Mapping[str, tuple[int, ...]]:
    """The shapes of a module's state dict."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
