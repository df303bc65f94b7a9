"""How clips of one's own are made into a cache; checked here, before torch is loaded."""

from dataclasses import dataclass

from longlive_recipes.configs.checked import real_field, text_field, whole_field

MOST_BLOCKS = 1_000
MOST_SIDE = 16_384
MOST_FPS = 1_000
MOST_SHARD = 1 << 16


@dataclass(frozen=True, kw_only=True)
class PrepareData:
    """What clips are encoded with, and how long they may be. Raises ValueError for wrong values.

    Attributes:
        model: whose VAE encodes, and whose size, rate and blocks the clips get: a shipped model's
            name, a model folder, or the folder of a VAE (then with ``height``, ``width``, ``fps``).
        height, width: pixels of the frames that are encoded; the model's unless given.
        fps: frames a second; the model's unless given.
        blocks: the most blocks of a clip; longer videos become several clips.
        shard_mib: a file of the cache is finished at so many MiB, or after a minute.
        device: what the VAE runs on.
    """

    model: str = "pocket"
    height: int | None = None
    width: int | None = None
    fps: float | None = None
    blocks: int = 6
    shard_mib: int = 64
    device: str = "auto"

    def __post_init__(self) -> None:
        text_field(self, "model", "device")
        for name in ("height", "width"):
            if vars(self)[name] is not None:
                why = "it is counted in pixels. Leave it out for the model's."
                whole_field(self, name, at_least=1, at_most=MOST_SIDE, why=why)
        if self.fps is not None:
            why = "a clip has so many frames a second. Leave it out for the model's."
            real_field(self, "fps", above=0, at_most=MOST_FPS, why=why)
        why = "a clip has one block or more, and is encoded and trained on as a whole. Use 6, say."
        whole_field(self, "blocks", at_least=1, at_most=MOST_BLOCKS, why=why)
        why = "a file of the cache is finished at so many MiB. Use 64, say."
        whole_field(self, "shard_mib", at_least=1, at_most=MOST_SHARD, why=why)
