"""How strongly a teacher follows its prompt, with the convention that the number is meant in.

Two conventions are in use, and a number in one is one less in the other:

    from_unconditional    uncond + s (cond - uncond)    1 is no guidance; samplers and this library
    from_conditional      cond   + s (cond - uncond)    0 is no guidance; LongLive-2.0's DMD

so 3.0 of a DMD config is 4.0 of a sampler. A config names its convention, and prints both.
Source: classifier-free guidance (arXiv 2207.12598).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from longlive_core.attention import AnyMask
from longlive_core.checks import hold_reals, shown
from longlive_models.diffusion import guide
from longlive_models.diffusion.flow import check_guidance
from longlive_models.wan import TextContext

Model = Callable[..., Tensor]
"""``model(latents, timesteps, text, **how)`` to a velocity, as ``WanTransformer`` is called."""

Text = Float[Tensor, "B segments length width"] | TextContext

CONVENTIONS = ("from_unconditional", "from_conditional")


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """A strength of guidance in a named convention; raises ValueError for an unknown one.

    Attributes:
        scale: how strong, as the convention counts.
        convention: see the head of this file.
    """

    scale: float
    convention: Literal["from_unconditional", "from_conditional"] = "from_unconditional"

    def __post_init__(self) -> None:
        if self.convention not in CONVENTIONS:
            raise ValueError(
                f"Guidance.convention is one of {', '.join(CONVENTIONS)}, got "
                f"{shown(self.convention)}: a number in one is one less in the other. Name the "
                f"one that the scale {shown(self.scale)} is meant in."
            )
        hold_reals(self, "scale", why="it weighs a prompt. Pass 3.0, say.")
        check_guidance(self.weight)

    @property
    def weight(self) -> float:
        """The strength in the convention of ``guide`` and of samplers: 1 is no guidance."""
        return self.scale + (self.convention == "from_conditional")

    def __str__(self) -> str:
        return (
            f"uncond + {self.weight:g} (cond - uncond), "
            f"which is cond + {self.weight - 1:g} (cond - uncond)"
        )

    def velocity(
        self,
        model: Model,
        latents: Float[Tensor, "B C F Y X"],
        timesteps: Float[Tensor, "B F"],
        text: Text,
        negative: Text | None,
        *,
        mask: AnyMask,
        positions: Float[Tensor, " F"] | Float[Tensor, "B F"] | None = None,
        clean: Float[Tensor, "B C F Y X"] | None = None,
    ) -> Float[Tensor, "B C F Y X"]:
        """The velocity that ``model`` predicts under this guidance; float32.

        Both passes get the same latents, timesteps and past; they differ in the text alone. At
        weight 1 the second pass is left out. ``clean`` is the past of teacher forcing, at
        timestep 0.

        Raises:
            ValueError: there is guidance, and no negative text to move away from.
        """
        if self.weight != 1 and negative is None:
            raise ValueError(
                f"guidance ({self}) needs the features of a negative prompt, got None: they are "
                f"what it moves away from. Pass those of an empty prompt, or a weight of 1."
            )

        def predicted(prompt: Text) -> Tensor:
            if clean is None:
                return model(latents, timesteps, prompt, positions=positions, mask=mask)
            return model(
                latents,
                timesteps,
                prompt,
                positions=positions,
                mask=mask,
                clean=clean,
                clean_timesteps=timesteps.new_zeros(timesteps.shape),
            )

        if self.weight == 1 or negative is None:
            return predicted(text).float()
        return guide(predicted(text), predicted(negative), self.weight)


NO_GUIDANCE = Guidance(scale=1.0)
"""A model as it is: one pass."""
