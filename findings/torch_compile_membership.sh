#!/usr/bin/env bash
# findings/torch_compile_membership.sh: torch 2.13.0: in a compiled graph `4 in (n - 1, 99)` is False for n = 5, once n has become a symbol.
#
# The second value of an int argument makes it a symbol (dynamic=True the first). A constant looked for in a tuple or list that holds a
# number computed from it is then never found, alone or within tuples (shapes are compared so), and the other branch is taken without an
# error. `==`, a symbol looked for among constants, and dicts are right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check torch==2.13.0
"$folder/venv/bin/python" - <<'PYTHON'
from collections.abc import Callable

import torch


def in_a_tuple(x: torch.Tensor, n: int) -> torch.Tensor:
    return x + 1 if 4 in (n - 1, 99) else x - 1


def in_a_list_of_shapes(x: torch.Tensor, n: int) -> torch.Tensor:
    return x + 1 if (2, 4) in [(2, n - 1)] else x - 1


def by_equality(x: torch.Tensor, n: int) -> torch.Tensor:
    return x + 1 if 4 == n - 1 else x - 1


def among_constants(x: torch.Tensor, n: int) -> torch.Tensor:
    return x + 1 if n - 1 in (4, 99) else x - 1


def results(f: Callable[[torch.Tensor, int], torch.Tensor]) -> list[bool]:
    """Whether the compiled function gives what the plain one does, call by call."""
    torch._dynamo.reset()
    x, compiled = torch.zeros(2), torch.compile(f, backend="eager", fullgraph=True)
    return [torch.equal(compiled(x, n), f(x, n)) for n in (3, 5, 7, 5)]


print("torch", torch.__version__)
WRONG, RIGHT = [True, False, True, False], [True] * 4
for function, expected in ((in_a_tuple, WRONG), (in_a_list_of_shapes, WRONG), (by_equality, RIGHT), (among_constants, RIGHT)):
    found = results(function)
    print(f"{function.__name__}: right for n = 3, 5, 7, 5: {found}")
    assert found == expected, "the behaviour has changed"
PYTHON
