"""No tensor is made in whatever dtype or on whatever device torch has as its default just then."""

import ast

from tests.architecture.source import FILES, tree

TYPED = {"zeros", "ones", "empty", "full", "arange", "linspace", "logspace", "tensor", "eye"}
DRAWN = {"rand", "randn", "normal"}
WHOLE = {"randint", "randperm"}  # int64, whatever the default
LAYERS = {"Linear", "Conv1d", "Conv2d", "Conv3d", "Embedding", "RMSNorm", "LayerNorm"}


def lacking(tree: ast.AST) -> list[str]:
    """The calls that leave something to a default of torch.

    What a module makes in ``__init__`` lies on the default device, as torch's own layers do:
    loaders build modules on "meta".
    """
    inside = {
        node
        for made in ast.walk(tree)
        if isinstance(made, ast.FunctionDef) and made.name == "__init__"
        for node in ast.walk(made)
    }
    found = []
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr=name)):
                wanted = {"dtype", "device"} if name in TYPED | DRAWN else set()
                wanted |= {"device"} if name in WHOLE else set()
                wanted -= {"device"} if node in inside else set()
            case ast.Call(func=ast.Attribute(value=ast.Name(id="nn"), attr=name)) if name in LAYERS:
                wanted = {"dtype"}
            case _:
                continue
        given = {keyword.arg for keyword in node.keywords}
        affine = not any(k.arg == "elementwise_affine" for k in node.keywords)
        if None in given or not affine or _on_meta(node):
            continue
        given |= {"device"} if "pin_memory" in given else set()
        if missing := sorted(wanted - given):
            found.append(f"{node.lineno}: {ast.unparse(node)[:80]} lacks {' and '.join(missing)}")
    return found


def _on_meta(node: ast.Call) -> bool:
    devices = [keyword.value for keyword in node.keywords if keyword.arg == "device"]
    return any(isinstance(value, ast.Constant) and value.value == "meta" for value in devices)


def test_every_tensor_names_its_dtype_and_device():
    found = [f"{file}:{what}" for file in FILES for what in lacking(tree(file))]
    assert not found, "\n".join(["", *found])


def test_the_rule_sees_what_it_is_for():
    bad = [
        "torch.zeros(3)",
        "torch.arange(3, device=d)",
        "torch.randint(3, (2,))",
        "nn.Linear(2, 2)",
        "torch.tensor([1.0], dtype=torch.float32)",
        "class A:\n    def __init__(self):\n        self.x = torch.empty(3)",
    ]
    good = [
        "torch.zeros(3, dtype=x.dtype, device=x.device)",
        "torch.zeros_like(x)",
        "torch.randint(3, (2,), device=d)",
        "nn.Linear(2, 2, **made)",
        "class A:\n    def __init__(self):\n        self.x = torch.empty(3, dtype=torch.int8)",
    ]
    assert [code for code in bad if not lacking(ast.parse(code))] == []
    assert [code for code in good if lacking(ast.parse(code))] == []
