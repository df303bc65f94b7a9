"""Which linears of a transformer stay as they are where the others compute in four bits."""

from dataclasses import dataclass

from longlive_recipes.configs.checked import switch_field, whole_field

MOST_BLOCKS = 1 << 16

_ALWAYS = ("norm*", "lora_A", "lora_B")
_EMBEDDINGS = ("text_embedding", "patch_embedding", "time_embedding", "time_projection")


@dataclass(frozen=True, kw_only=True)
class PlainParts:
    """The linears that stay in high precision: they are few, and carry much of the error.

    Attributes:
        first_blocks, last_blocks: so many blocks at the two ends of the transformer.
        embeddings: those of text and timesteps, and what makes shifts and scales of them. In four
            bits, their weight gradients depend a little on how ranks share out frames.
        head: the last linear.
    """

    first_blocks: int = 0
    last_blocks: int = 0
    embeddings: bool = True
    head: bool = True

    def __post_init__(self) -> None:
        for name in ("first_blocks", "last_blocks"):
            why = "so many blocks stay in high precision. Use 0 for none."
            whole_field(self, name, at_least=0, at_most=MOST_BLOCKS, why=why)
        switch_field(self, "embeddings", "head")

    def keep(self, layers: int) -> tuple[str, ...]:
        """The names of all that stays, as patterns, in a transformer of ``layers`` blocks.

        Raises:
            ValueError: no block is left.
        """
        if self.first_blocks + self.last_blocks >= layers:
            raise ValueError(
                f"plain.first_blocks={self.first_blocks} and plain.last_blocks={self.last_blocks} "
                f"leave none of the {layers} blocks to compute in four bits. Use fewer."
            )
        ends = (*range(self.first_blocks), *range(layers - self.last_blocks, layers))
        return (
            *_ALWAYS,
            *(_EMBEDDINGS if self.embeddings else ()),
            *(("head",) if self.head else ()),
            *(f"blocks.{block}" for block in ends),
        )
