"""Flow matching: conversions, the training schedule and the samplers."""

from longlive_models.diffusion.flow import add_noise as add_noise
from longlive_models.diffusion.flow import guide as guide
from longlive_models.diffusion.flow import shift_sigma as shift_sigma
from longlive_models.diffusion.flow import velocity as velocity
from longlive_models.diffusion.flow import velocity_from_x0 as velocity_from_x0
from longlive_models.diffusion.flow import x0_from_velocity as x0_from_velocity
from longlive_models.diffusion.samplers import SAMPLERS as SAMPLERS
from longlive_models.diffusion.samplers import BlockSampler as BlockSampler
from longlive_models.diffusion.samplers import Sampler as Sampler
from longlive_models.diffusion.samplers import euler as euler
from longlive_models.diffusion.samplers import few_step as few_step
from longlive_models.diffusion.samplers import sample as sample
from longlive_models.diffusion.samplers import unipc as unipc
from longlive_models.diffusion.step_schedules import StepSchedule as StepSchedule
from longlive_models.diffusion.step_schedules import step_schedule as step_schedule
from longlive_models.diffusion.timesteps import WEIGHTINGS as WEIGHTINGS
from longlive_models.diffusion.timesteps import FlowSchedule as FlowSchedule
from longlive_models.diffusion.timesteps import loss_weights as loss_weights
from longlive_models.diffusion.timesteps import sigma_grid as sigma_grid
from longlive_models.diffusion.unipc_tables import UniPCHistory as UniPCHistory
from longlive_models.diffusion.unipc_tables import UniPCSchedule as UniPCSchedule
from longlive_models.diffusion.unipc_tables import unipc_schedule as unipc_schedule
from longlive_models.diffusion.unipc_tables import unipc_step as unipc_step
