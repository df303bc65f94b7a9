"""What programs put before the names of weights, and taking it away. Needs no torch."""

from collections.abc import Iterable, Mapping

WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")
"""What sharding, checkpointing of activations and compiling add, anywhere in a name."""

PREFIXES = ("model.diffusion_model.", "diffusion_model.", "generator.", "module.", "model.", "ema.")
"""What holds a model, at the start of all of its names; they may follow each other."""

HOLDERS = (
    "generator",
    "generator_ema",
    "model",
    "state_dict",
    "module",
    "ema",
    "ema_model",
    "model_state_dict",
    "generator_lora",
)
"""Keys under which a training checkpoint may hold its weights, also one below another; the first
that exists is used."""


def unwrapped(names: Iterable[str]) -> dict[str, str]:
    """The names without what wrappers and holders added, and the name that each had.

    A prefix is taken away where most names have it: a part of a model may have names that begin so.

    Raises:
        ValueError: two names become one.
    """
    full = list(names)
    short = list(full)
    for wrapper in WRAPPERS:
        short = [name.replace(wrapper, "") for name in short]
    while (prefix := _common(short)) is not None:
        short = [name.removeprefix(prefix) for name in short]
    known: dict[str, str] = {}
    for name, before in zip(short, full, strict=True):
        if name in known:
            raise ValueError(
                f"two keys of the checkpoint become {name!r}, {known[name]!r} and {before!r}: it "
                f"holds two models. Save them apart."
            )
        known[name] = before
    return known


def below_one(names: Mapping[str, str]) -> dict[str, str]:
    """The names of ``unwrapped`` without the first word that all of them have; none without one."""
    words = {name.partition(".")[0] for name in names}
    if len(words) != 1 or not all("." in name for name in names):
        return {}
    return {name.partition(".")[2]: full for name, full in names.items()}


def _common(names: list[str]) -> str | None:
    for prefix in PREFIXES:
        if 2 * sum(name.startswith(prefix) for name in names) > len(names):
            return prefix
    return None
