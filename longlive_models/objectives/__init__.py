"""What the models are trained for."""

from longlive_models.objectives.masks import block_causal_mask as block_causal_mask
from longlive_models.objectives.masks import shot_anchors as shot_anchors
from longlive_models.objectives.masks import teacher_forcing_mask as teacher_forcing_mask
from longlive_models.objectives.masks import teacher_forcing_table as teacher_forcing_table
from longlive_models.objectives.teacher_forcing import frame_losses as frame_losses
from longlive_models.objectives.teacher_forcing import teacher_forcing_loss as teacher_forcing_loss
