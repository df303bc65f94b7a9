"""Use of the primitives in models of other libraries: Diffusers, Transformers and PEFT.

These libraries are imported when a function here is called.
"""

from longlive_models.ecosystem.quantizers import register_quantizers as register_quantizers
