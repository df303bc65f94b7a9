"""What the models are trained for."""

from longlive_models.objectives.masks import block_causal_mask as block_causal_mask
from longlive_models.objectives.masks import shot_anchors as shot_anchors
from longlive_models.objectives.masks import teacher_forcing_mask as teacher_forcing_mask
