"""The primitives in models of other libraries: Diffusers, Transformers, PEFT.

Nothing of them is imported until a function here is called.
"""

from longlive_models.ecosystem.quantizers import register_quantizers as register_quantizers
