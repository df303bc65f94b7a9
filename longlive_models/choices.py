"""Names that a person chooses between, for those who only ask whether one exists: no torch."""

WEIGHTS = ("fp32", "bf16", "fp8", "nvfp4", "nvfp4-w4a4")
"""How precise the weights of a transformer are; ``longlive_models.runtime`` says what each is."""

KV_CACHES = ("fp32", "bf16", "fp8", "int8", "nvfp4")
"""How past keys and values are kept."""


def check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    """Raise ValueError unless ``value`` is "auto" or one of ``known``."""
    if value != "auto" and value not in known:
        raise ValueError(
            f"{name}={value!r} is no precision of this version: it has {', '.join(known)}. "
            f"Use one of them, or 'auto'."
        )
