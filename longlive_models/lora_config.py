"""The config of a LoRA adapter (rank, scale, targets), and its form in PEFT's files."""

import math
from collections.abc import Mapping, Sized
from dataclasses import dataclass
from typing import Any

from longlive_core.checks import real, shown, whole

CONFIG = "adapter_config.json"

MOST_ALPHA = 1e6
"""The largest alpha. The product of an adapter's matrices times a million leaves nothing of the
weight beside it."""

MOST_RANK = 1 << 16
"""The largest rank: no linear has so many inputs."""


@dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """Which linears get an adapter, and of what size. The defaults are the original's.

    Attributes:
        rank: the inner width of the adapter's two matrices.
        alpha: the adapter's output is scaled by ``alpha / rank``.
        dropout: the share of the adapter's inputs that are left out in training.
        targets: ends of module names, matched at dots as PEFT does: "ffn.0" matches
            "blocks.3.ffn.0".
    """

    rank: int = 128
    alpha: float = 128.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("ffn.0", "ffn.2", "k", "o", "q", "v")

    def __post_init__(self) -> None:
        why = "the adapter's product is scaled by alpha / rank. Take what it was trained with."
        rank = whole("LoRAConfig's rank", self.rank, at_least=1, at_most=MOST_RANK, why=why)
        alpha = real(
            "LoRAConfig's alpha", self.alpha, at_least=-MOST_ALPHA, at_most=MOST_ALPHA, why=why
        )
        object.__setattr__(self, "rank", rank)
        object.__setattr__(self, "alpha", alpha)
        why = "it is the share of inputs that are left out in training. Use 0 for none."
        dropout = real("LoRAConfig's dropout", self.dropout, at_least=0, why=why)
        object.__setattr__(self, "dropout", dropout)
        named = isinstance(self.targets, list | tuple | set | frozenset)
        if dropout >= 1 or not named or not self.targets or not _are_names(self.targets):
            raise ValueError(
                f"LoRAConfig needs rank >= 1, 0 <= dropout < 1 and a tuple of targets' names, got "
                f"dropout={dropout}, targets={shown(self.targets)}."
            )
        object.__setattr__(self, "targets", tuple(sorted(set(self.targets))))

    def matches(self, name: str) -> bool:
        """Whether a module's name is one of the targets, or ends in one."""
        return any(name == target or name.endswith(f".{target}") for target in self.targets)

    def to_peft(self, base_model: str = "") -> dict[str, Any]:
        """The content of PEFT's ``adapter_config.json``."""
        return {
            "peft_type": "LORA",
            "task_type": None,
            "base_model_name_or_path": base_model,
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "target_modules": list(self.targets),
            "bias": "none",
            "use_rslora": False,
            "use_dora": False,
            "fan_in_fan_out": False,
            "init_lora_weights": True,
        }

    @classmethod
    def from_peft(cls, values: Mapping[str, Any]) -> "LoRAConfig":
        """Make a config from the content of PEFT's ``adapter_config.json``.

        Raises:
            ValueError: a field asks for anything but plain LoRA beside an unchanged base; the field
                and the reason are named.
        """
        _refuse_other_kinds(values)
        for name in ("r", "lora_alpha", "target_modules"):
            if values.get(name) is None:
                raise ValueError(
                    f"the adapter's config has no {name}: without it, nobody knows what its "
                    f"tensors mean. Take {CONFIG} as PEFT wrote it."
                )
        targets = values["target_modules"]
        if isinstance(targets, list | tuple) and not _are_names(targets):
            raise ValueError(
                f"target_modules in {CONFIG} is a list of names, got {shown(targets)}: they say "
                f"which linears the adapter stands beside. Take the file as PEFT wrote it."
            )
        if not isinstance(targets, list | tuple):
            raise ValueError(
                f"this adapter has a pattern as target_modules, {shown(targets)}: which linears "
                f"it means depends on the program that reads it. Put the list of their names there."
            )
        why = "it says what the adapter's tensors mean. Take the file as PEFT wrote it."
        rank = whole(f"r in {CONFIG}", values["r"], at_least=1, at_most=MOST_RANK, why=why)
        alpha = real(
            f"lora_alpha in {CONFIG}",
            values["lora_alpha"],
            at_least=-MOST_ALPHA,
            at_most=MOST_ALPHA,
            why=why,
        )
        if not isinstance(values.get("use_rslora"), bool | None):
            raise ValueError(
                f"use_rslora in {CONFIG} is true or false, got {shown(values['use_rslora'])}: it "
                f"says how the adapter is scaled. Take the file as PEFT wrote it."
            )
        if values.get("use_rslora"):
            alpha *= math.sqrt(rank)  # it is scaled by alpha / sqrt(rank)
        dropout = 0.0 if values.get("lora_dropout") is None else values["lora_dropout"]
        dropout = real(f"lora_dropout in {CONFIG}", dropout, at_least=0, at_most=1, why=why)
        return cls(rank=rank, alpha=alpha, dropout=dropout, targets=tuple(targets))


def _are_names(targets: Any) -> bool:
    return all(isinstance(name, str) and name for name in targets)


def _refuse_other_kinds(values: Mapping[str, Any]) -> None:
    """Raise ValueError for the first field that asks for anything but plain LoRA."""
    kind = values.get("peft_type")
    if kind not in (None, "LORA"):
        raise ValueError(
            f"this adapter has peft_type={shown(kind)}: only LoRA is read. Merge it with PEFT "
            f"(merge_and_unload), and load the merged weights."
        )
    for name, value in values.items():
        if name in _PLAIN or _says_no(value) or value == _USUAL.get(name):
            continue
        if name == "init_lora_weights":
            _refuse_start(value)
            continue
        reason = _REASONS.get(name, "a field that is not known here, so it may change what is made")
        raise ValueError(
            f"this adapter has {name}={shown(value)}, {reason}: only plain LoRA beside an "
            f"unchanged base is read. {_WAYS_OUT.get(name, _MERGE)}"
        )


def _says_no(value: Any) -> bool:
    """Whether a field is null, false or empty. 0 is not: it may be the number of a layer."""
    return value is None or value is False or (isinstance(value, Sized) and not len(value))


def _refuse_start(value: Any) -> None:
    """Raise ValueError for an initialization of LoRA that also changed the base's weights."""
    if value is True or (isinstance(value, str) and value.lower() in _STARTS):
        return
    way_out = _MERGE
    if str(value).lower().startswith(_CONVERTED):
        way_out = (
            "Let PEFT convert it: model.save_pretrained(FOLDER, "
            "path_initial_model_for_weight_conversion=START), where START is the adapter as it was "
            "before training, writes plain LoRA of twice the rank."
        )
    raise ValueError(
        f"this adapter has init_lora_weights={shown(value)}, a start that changes the base's "
        f"weights as well: beside the base as it was, its product is of another model. {way_out}"
    )


_MERGE = "Merge it with PEFT (merge_and_unload), and load the merged weights."

_PLAIN = frozenset(
    {
        "peft_type",
        "task_type",
        "auto_mapping",
        "peft_version",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
        "r",
        "lora_alpha",
        "lora_dropout",
        "target_modules",
        "use_rslora",
        "runtime_config",
        "ensure_weight_tying",  # of embeddings, which have no adapters here
        "layers_pattern",  # of layers_to_transform
        "megatron_core",  # of megatron_config
        "qalora_group_size",  # of use_qalora
        "loftq_config",  # of the start of the same name, as are those below
        "eva_config",
        "corda_config",
        "lora_ga_config",
    }
)
"""The fields that are read, and those that have no effect by themselves."""

_USUAL = {"bias": "none"}
"""Fields that ask for more than plain LoRA unless null, false or empty, each with the reason."""

_STARTS = ("gaussian", "orthogonal", "eva", "mica")
"""Values of ``init_lora_weights``, beside true and false, that leave the base as it was."""

_CONVERTED = ("pissa", "olora", "corda", "lora_ga")
"""Values of ``init_lora_weights`` after which PEFT can still write plain LoRA."""

_REASONS = {
    "bias": "so biases of the base were trained with it",
    "use_dora": "so it scales the columns of the base's weight too (DoRA)",
    "rank_pattern": "so its modules have several ranks",
    "alpha_pattern": "so its modules are scaled by several alphas",
    "layers_to_transform": "so it leaves out layers whose linears have the same names",
    "layer_replication": "so the base's layers are repeated",
    "fan_in_fan_out": "so it was made for weights that are stored as [in, out]",
    "exclude_modules": "so it leaves out modules whose names are among its targets",
    "modules_to_save": "so it brings whole modules in place of the base's",
    "lora_bias": "so its second matrix has a bias",
    "trainable_token_indices": "so it brings rows of an embedding",
    "megatron_config": "so its matrices are parts of linears that Megatron splits",
    "target_parameters": "so it stands beside parameters that are no linears' weights",
    "alora_invocation_tokens": "so it acts after certain tokens alone (aLoRA)",
    "use_qalora": "so its inputs are averaged by groups (QALoRA)",
    "use_bdlora": "so its matrices are block-diagonal",
    "arrow_config": "so several adapters are routed between",
    "kasa_config": "so the base's weight is cut down beside it (KaSA)",
}

_LIST = "List the linears that have adapters, by their whole names, in target_modules instead."
_WAYS_OUT = {"exclude_modules": _LIST, "layers_to_transform": _LIST}
