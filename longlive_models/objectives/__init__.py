"""Training objectives: losses, and the attention masks that they need."""

from longlive_models.objectives.consistency import ConsistencyTargets as ConsistencyTargets
from longlive_models.objectives.consistency import consistency_errors as consistency_errors
from longlive_models.objectives.consistency import consistency_loss as consistency_loss
from longlive_models.objectives.consistency import consistency_targets as consistency_targets
from longlive_models.objectives.consistency import draw_steps as draw_steps
from longlive_models.objectives.critic import critic_loss as critic_loss
from longlive_models.objectives.dmd import ScoreTimesteps as ScoreTimesteps
from longlive_models.objectives.dmd import dmd_gradient as dmd_gradient
from longlive_models.objectives.dmd import dmd_loss as dmd_loss
from longlive_models.objectives.dmd import gradient_loss as gradient_loss
from longlive_models.objectives.error_bank import ErrorBank as ErrorBank
from longlive_models.objectives.error_bank import ErrorBankConfig as ErrorBankConfig
from longlive_models.objectives.error_recycling import ErrorRecycler as ErrorRecycler
from longlive_models.objectives.error_recycling import ErrorRecycling as ErrorRecycling
from longlive_models.objectives.error_recycling import recycled_losses as recycled_losses
from longlive_models.objectives.guidance import Guidance as Guidance
from longlive_models.objectives.masks import block_causal_mask as block_causal_mask
from longlive_models.objectives.masks import shot_anchors as shot_anchors
from longlive_models.objectives.masks import teacher_forcing_mask as teacher_forcing_mask
from longlive_models.objectives.masks import teacher_forcing_table as teacher_forcing_table
from longlive_models.objectives.rollout import Rollout as Rollout
from longlive_models.objectives.rollout import draw_exit_steps as draw_exit_steps
from longlive_models.objectives.rollout import self_rollout as self_rollout
from longlive_models.objectives.teacher_forcing import counted_mean as counted_mean
from longlive_models.objectives.teacher_forcing import frame_losses as frame_losses
from longlive_models.objectives.teacher_forcing import teacher_forcing_loss as teacher_forcing_loss
