"""Balanced sequence parallelism: one video over many ranks, with the numbers of one rank."""

from longlive_core.sequence_parallel.collectives import PlainWireCodec as PlainWireCodec
from longlive_core.sequence_parallel.collectives import Transfer as Transfer
from longlive_core.sequence_parallel.collectives import WireCodec as WireCodec
from longlive_core.sequence_parallel.collectives import masked_mean as masked_mean
from longlive_core.sequence_parallel.communicator import BalancedSP as BalancedSP
from longlive_core.sequence_parallel.group import SequenceGroup as SequenceGroup
from longlive_core.sequence_parallel.halo import HaloWindow as HaloWindow
from longlive_core.sequence_parallel.halo import causal_history as causal_history
from longlive_core.sequence_parallel.halo import halo_window as halo_window
from longlive_core.sequence_parallel.partition import BalancedPartition as BalancedPartition
from longlive_core.sequence_parallel.partition import Place as Place
from longlive_core.sequence_parallel.partition import split_evenly as split_evenly
