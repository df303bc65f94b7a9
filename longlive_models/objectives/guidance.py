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

import torch
from jaxtyping import Float
from torch import Tensor

from longlive_core.attention import AnyMask
from longlive_core.checks import hold_reals, hold_switches, shown
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
        together: make both passes in one batch of twice the size; they take twice the memory.
    """

    scale: float
    convention: Literal["from_unconditional", "from_conditional"] = "from_unconditional"
    together: bool = False

    def __post_init__(self) -> None:
        if self.convention not in CONVENTIONS:
            raise ValueError(
                f"Guidance.convention is one of {', '.join(CONVENTIONS)}, got "
                f"{shown(self.convention)}: a number in one is one less in the other. Name the "
                f"one that the scale {shown(self.scale)} is meant in."
            )
        hold_reals(self, "scale", why="it weighs a prompt. Pass 3.0, say.")
        hold_switches(self, "together", why="two passes are made at once or not.")
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
        timestep 0. A mask that differs by sample has to serve twice as many (``TableMask`` does)
        where both passes are made ``together``.

        Raises:
            ValueError: there is guidance, and no negative text to move away from.
        """
        if self.weight != 1 and negative is None:
            raise ValueError(
                f"guidance ({self}) needs the features of a negative prompt, got None: they are "
                f"what it moves away from. Pass those of an empty prompt, or a weight of 1."
            )

        both = self.weight != 1 and negative is not None and self.together
        repeats = 2 if both else 1
        x, times = _again(latents, repeats), _again(timesteps, repeats)
        past = None if clean is None else _again(clean, repeats)
        if positions is not None and positions.ndim == 2:
            positions = _again(positions, repeats)

        def predicted(prompt: Text) -> Tensor:
            if past is None:
                return model(x, times, prompt, positions=positions, mask=mask)
            return model(
                x,
                times,
                prompt,
                positions=positions,
                mask=mask,
                clean=past,
                clean_timesteps=torch.zeros_like(times),
            )

        if self.weight == 1 or negative is None:
            return predicted(text).float()
        if both:
            conditional, unconditional = predicted(_side_by_side(text, negative)).chunk(2)
            return guide(conditional, unconditional, self.weight)
        return guide(predicted(text), predicted(negative), self.weight)


def _again(x: Tensor, times: int) -> Tensor:
    """A batch so often, one after the other; the tensor itself for once."""
    return x if times == 1 else torch.cat([x] * times)


def _side_by_side(
    text: Tensor | TextContext, negative: Tensor | TextContext
) -> Tensor | TextContext:
    """The texts of two passes as those of one batch."""
    if isinstance(text, TextContext) and isinstance(negative, TextContext):
        layers = zip(text.layers, negative.layers, strict=True)
        return TextContext(
            tuple((torch.cat((k, no_k)), torch.cat((v, no_v))) for (k, v), (no_k, no_v) in layers)
        )
    if isinstance(text, TextContext) or isinstance(negative, TextContext):
        raise ValueError(
            "passes that are made together take two texts of one kind, got features and "
            "TextContext: they become one batch. Embed both (embed_text), or none."
        )
    return torch.cat((text, negative))


NO_GUIDANCE = Guidance(scale=1.0)
"""A model as it is: one pass."""
