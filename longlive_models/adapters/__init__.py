"""Adapters (LoRA) in the layouts of others: read, added with weights, written."""

from longlive_models.adapters.adapter import Adapter as Adapter
from longlive_models.adapters.adapter import Matrices as Matrices
from longlive_models.adapters.attach import Attached as Attached
from longlive_models.adapters.attach import attach as attach
from longlive_models.adapters.reading import read_adapter as read_adapter
from longlive_models.adapters.writing import WRITTEN as WRITTEN
from longlive_models.adapters.writing import convert_adapter as convert_adapter
from longlive_models.adapters.writing import write_adapter as write_adapter
