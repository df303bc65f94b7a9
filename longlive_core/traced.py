"""Choices that compiled code makes once, while it is traced. Does not import the compiler."""

from collections.abc import Callable


def constant_when_compiled(choose: Callable[..., str]) -> Callable[..., str]:
    """Mark a function of plain values whose result a compiled graph takes as a constant.

    It does what ``torch.compiler.assume_constant_result`` does without importing the compiler,
    which takes a second that everybody would pay for those who compile.
    """
    vars(choose)["_dynamo_marked_constant"] = True
    return choose
