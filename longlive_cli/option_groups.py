"""Groups of options that several commands take as one parameter."""

import inspect
from collections.abc import Callable
from functools import wraps

from longlive_cli import options

RUNTIME = {
    "device": options.Device,
    "weights": options.Weights,
    "kv_cache": options.KVCache,
    "attention": options.Attention,
    "lane": options.Lane,
    "linear": options.Linear,
    "strict": options.Strict,
}
"""An option for every field of `longlive_models.runtime_options.RuntimeOptions`."""


def with_runtime(command: Callable[..., None]) -> Callable[..., None]:
    """`command` with the options of `RUNTIME` in place of its parameter `runtime`.

    The command gets a mapping of those that were given.
    """
    shape = inspect.signature(command)
    parameters: list[inspect.Parameter] = []
    for parameter in shape.parameters.values():
        if parameter.name != "runtime":
            parameters.append(parameter)
            continue
        parameters += [
            inspect.Parameter(name, parameter.kind, default=None, annotation=option)
            for name, option in RUNTIME.items()
        ]

    @wraps(command)
    def with_options(**given: object) -> None:
        values = {name: given.pop(name) for name in RUNTIME}
        runtime = {name: value for name, value in values.items() if value is not None}
        command(**given, runtime=runtime)

    vars(with_options)["__signature__"] = shape.replace(parameters=parameters)
    with_options.__annotations__ = {p.name: p.annotation for p in parameters}
    return with_options
