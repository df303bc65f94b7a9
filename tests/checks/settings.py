"""A case's settings, which know what was read of them: what nobody reads changes no number."""

from collections.abc import Iterator, Mapping
from typing import Any

DESCRIBES: Mapping[str, str] = {
    "attention": "how the original was made to run on a CPU",
    "model_name": "where the original looks for weights that cases bring along",
    "model_type": "ti2v, the one model there is",
    "negative_prompt": "a text whose embedding is among the inputs",
    "dropout": "of training; cases are made in evaluation mode",
    "attn_scales": "attention at other scales, which the published VAE has none of",
    "decoder_layers": "of the half of UMT5 that encoding does without",
    "solver_order": "UniPC is of order 2 here",
    "solver_type": "and solves the bh2 conditions",
    "predict_x0": "for estimates of x0",
    "lower_order_final": "with a last step of order 1",
    "final_sigmas_type": "that ends at level 0",
    "split": "in words, what tensors hold",
    "order": "in words, what tensors hold",
    "activation": "in words, what tensors hold",
    "kv_quant_backend": "every backend gives the same codes",
    **dict.fromkeys(
        ("frames", "batch", "height", "width", "tokens_per_frame", "seq_len", "seq_len_padded"),
        "repeats a tensor's shape",
    ),
    **dict.fromkeys(
        ("m", "n", "k", "rows", "cols", "heads", "head_dim", "block_tokens", "blocks"),
        "repeats a tensor's shape",
    ),
    **dict.fromkeys(("total_latent_frames", "total_raw_frames"), "repeats a tensor's shape"),
    **dict.fromkeys(("scale_rules", "tensors", "modes"), "repeats the tensors' names"),
    "block_prompts": "repeats the tensors' names",
}
"""Settings that change no number, by their last name, and why."""

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "model_type": ("ti2v",),
    "attn_scales": ([],),
    "solver_order": (2,),
    "solver_type": ("bh2",),
    "predict_x0": (True,),
    "lower_order_final": (True,),
    "final_sigmas_type": ("zero",),
}
"""Of those, what they may be: another value would change numbers."""


class Settings(Mapping[str, Any]):
    """A read-only tree of settings. A leaf is used once it is read; a subtree, once its leaves are.

    ``use`` says so of a leaf that is read elsewhere: from a tensor's shape, in another process.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = {
            name: Settings(value) if isinstance(value, Mapping) else value
            for name, value in values.items()
        }
        self._used: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        value = self._values[name]
        self._used.add(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def use(self, *names: str) -> None:
        """Note that these are read elsewhere, where they are there."""
        self._used.update(names)

    def unused(self) -> list[str]:
        """The full names of leaves that nobody has read and that may change numbers."""
        found = []
        for name, value in self._values.items():
            if isinstance(value, Settings):
                found += [f"{name}.{inner}" for inner in value.unused()]
            elif name in DESCRIBES and value in NEUTRAL.get(name, (value,)):
                continue
            elif name not in self._used:
                found.append(name)
        return found
