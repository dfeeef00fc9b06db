"""From scratch: an implementation may not call what it is there to explain.

Checked twice: what the source imports and names, and which ATen operators are dispatched while sample inputs run
forward and backward.
"""

import ast
import importlib.util
import inspect
import re
import sys
from pathlib import Path

import torch

from spec import cost, laws

# What an implementation may import besides torch and the standard library's small tools.
MODULES = {"torch", "math", "typing", "collections", "dataclasses", "functools", "itertools", "jaxtyping", "__future__"}
MODULES |= {"contextlib", "copy", "re", "heapq", "random", "json", "pathlib", "argparse", "pydoc_data", "operator"}
MODULES |= {"unicodedata"}

# Of torch.nn: containers and the base class, nothing that computes.
NN = {"Module", "Parameter", "Buffer", "ModuleList", "ModuleDict", "Sequential", "ParameterList", "ParameterDict"}

# Parts of torch that hold ready layers, losses, initialisers, kernels, optimizers or models. `torch.optim` has its own
# rule: only the base class.
CLOSED = ("torch.nn.functional", "torch.nn.init", "torch.nn.utils", "torch.nn.modules", "torch.ops", "torch._C")
CLOSED += (
    "torch.quantization",
    "torch.utils.cpp_extension",
    "torch._",
    "torch.ao",
    "torch.distributions",
    "torch.compile",
    "torch.jit",
    "torch.hub",
    "torch.library",
)
OPTIM = {"torch.optim.Optimizer", "torch.optim.optimizer.Optimizer", "torch.optim.optimizer.ParamsT"}

# The functions and operators of neural networks, by name: from torch's own list of them, and by pattern where fused
# kernels or the root namespace hold more.
_ELEMENTARY = {"pad", "one_hot", "flatten_dense_tensors", "unflatten_dense_tensors", "log_sigmoid"}
_LISTED = {n for n in dir(torch._C._nn) if not n.startswith("_") and n not in _ELEMENTARY}
_PATTERN = re.compile(
    r"""_*( (native_|instance_|cudnn_|batch_|layer_|group_|rms_|fused_|local_response_)\w*norm\w*   # normalization
        | conv(olution)?(_?\w*\d+d|_tbc|_transpose\w*|_overrideable|_backward)? | mkldnn\w+ | \w*_convolution\w*
        | \w*scaled_dot_product\w* | \w*flash_attention\w* | \w*efficient_attention\w* | \w*multi_head_attention\w*
        | \w*gelu\w* | silu\w* | mish\w* | elu_?(_backward)? | celu\w* | selu\w* | rrelu\w* | leaky_relu\w* | prelu\w*
        | hardswish\w* | hardsigmoid\w* | hardtanh\w* | softplus\w* | glu(_\w+)? | threshold_? | softshrink\w*
        | \w*_loss\w* | binary_cross_entropy\w* | cross_entropy\w* | kl_div | cosine_similarity | pairwise_distance
        | embedding\w* | \w*dropout\w* | lstm\w* | gru\w* | rnn_\w+ | bilinear | ctc\w+
        | \w*(max|avg)_pool\w* | upsample\w* | grid_sampler\w* | affine_grid\w* | pixel_(un)?shuffle
        | _?fused_(adam|sgd|adagrad)\w* | fake_quantize\w* | quantize_per\w* | quantized_\w+ | fused_moving_avg\w* )""",
    re.VERBOSE,
)


def explains_itself(name: str) -> bool:
    """Is this torch function or ATen operator one that an item is there to explain?"""
    return name.removesuffix("_") in _LISTED or bool(_PATTERN.fullmatch(name))


def source_is_from_scratch(module_name: str) -> None:
    """No file that the module rests on imports or names a ready-made layer, loss, initialiser, kernel or optimizer."""
    importlib.import_module(module_name)
    found = [line for file in _files(module_name) for line in violations(file)]
    if found:
        raise AssertionError("expected an implementation from scratch, found\n  " + "\n  ".join(found))


@laws.law(
    "The source imports torch and names no ready-made layer, loss, initialiser, kernel or optimizer.",
    source="this project: tensors, autograd, elementary functions and linear algebra are given",
    name="source_is_from_scratch",
    exempted_as="from_scratch",
    own_code=True,
)
def _source_of_record_is_from_scratch(build, inputs) -> None:
    built = build()
    built(*inputs)  # what is not written yet has no source to judge
    public = built if inspect.isfunction(built) else type(built)
    source_is_from_scratch(inspect.unwrap(public).__module__)


@laws.law(
    "No ATen operator that runs forward or backward is a fused kernel of what the item explains.",
    source="this project: tensors, autograd, elementary functions and linear algebra are given",
    exempted_as="from_scratch",
    own_code=True,
)
def dispatch_is_from_scratch(build, inputs) -> None:
    def run():
        with torch.enable_grad():
            outputs, _ = laws.gradients(build(), inputs)
        return outputs

    found = sorted({name for name in cost.operators(run) if explains_itself(name.rpartition("::")[2])})
    if found:
        raise AssertionError(f"expected elementary operators only, found {', '.join(found)}")


def violations(file: Path) -> list[str]:
    """What a source file names that it should build itself, as "file:line: what"."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    aliases: dict[str, str] = {}  # local name → dotted name of what it stands for
    found: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                aliases[name.asname or name.name.partition(".")[0]] = (
                    name.name if name.asname else name.name.partition(".")[0]
                )
                found += _verdict(node.lineno, name.name)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            for name in node.names:
                aliases[name.asname or name.name] = f"{node.module}.{name.name}"
                found += _verdict(node.lineno, f"{node.module}.{name.name}")
    qualified = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        dotted = aliases.get(node.id) if isinstance(node, ast.Name) else None
        if isinstance(node, ast.Attribute):
            dotted = _dotted(node, aliases)
            found += _verdict(node.lineno, dotted) if dotted else []
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("__import__", "eval", "exec"):
            found.append((node.lineno, f"{ast.unparse(node)} hides what it calls"))
        if dotted in sys.modules and dotted.startswith("torch") and id(node) not in qualified:
            # getattr(torch, name), vars(nn), or library = torch.nn: from here on no name says what is called.
            found.append((node.lineno, f"{dotted} handed on as a value hides what it calls"))
    return [f"{file.name}:{line}: {what}" for line, what in sorted(set(found))]


def _verdict(line: int, dotted: str) -> list[tuple[int, str]]:
    root, _, rest = dotted.partition(".")
    if root not in MODULES:
        return [(line, f"import of {dotted}")]
    if root != "torch" or not rest:
        return []
    if rest.endswith("*"):
        return [(line, f"everything of {dotted[:-2]}")]
    if dotted == "torch.nn" or dotted.startswith("torch.optim"):
        ok = dotted in OPTIM | {"torch.nn", "torch.optim", "torch.optim.optimizer"}
    elif any(dotted == c or dotted.startswith(c if c.endswith("_") else c + ".") for c in CLOSED):
        # Horizontal fusion of elementary operations; a name for one's own function, whose source is looked at as well.
        ok = dotted.startswith(("torch._foreach", "torch.__")) or dotted == "torch.library.custom_op"
    elif dotted.startswith("torch.nn."):
        ok = dotted.split(".")[2] in NN
    else:
        ok = not explains_itself(dotted.rpartition(".")[2])
    return [] if ok else [(line, dotted)]


def _dotted(node: ast.Attribute, aliases) -> str | None:
    """The full name of an attribute chain that starts at an imported name, or None."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if isinstance(node, ast.Name) and node.id in aliases:
        return ".".join([aliases[node.id], *reversed(parts)])
    return None


def _files(module_name: str) -> list[Path]:
    """The source of a module and of every module of the same package that it imports, directly or not."""
    seen: dict[str, Path] = {}
    waiting = [module_name]
    while waiting:
        name = waiting.pop()
        try:
            module = importlib.import_module(name)  # an import inside of a function may not have run yet
        except ImportError:
            continue  # a class or function of a module, no module
        file = getattr(module, "__file__", None)
        if name in seen or file is None:
            continue
        seen[name] = Path(file)
        package = module.__spec__.parent  # of a package's page the package itself
        for node in ast.walk(ast.parse(Path(file).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
                waiting += [base, *(f"{base}.{n.name}" for n in node.names)]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(module_name.partition(".")[0]):
                waiting.append(node.module)
    return list(seen.values())
