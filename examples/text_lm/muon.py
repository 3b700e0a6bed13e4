# examples/text_lm/muon.py: the Muon optimiser for the model's matrices, in single precision.
"""torch.optim.Muon iterates in bfloat16, which a processor without bfloat16 units emulates at a tenth of the speed."""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

# Odd quintic a*x + b*x^3 + c*x^5 of Jordan's "Muon" (2024): five rounds bring every singular value in (0, 1] near 1.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ROUNDS = 5


def orthogonalise(matrices: Tensor) -> Tensor:
    """Nearest semi-orthogonal matrix, roughly, of each of matrices (n, rows, columns): U V^T of its U S V^T."""
    x: Tensor = matrices if matrices.shape[-2] <= matrices.shape[-1] else matrices.mT
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ROUNDS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x if matrices.shape[-2] <= matrices.shape[-1] else x.mT


class Muon(torch.optim.Optimizer):
    """Momentum whose step has all singular values near 1; matrices of one shape are orthogonalised together."""

    def __init__(self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            same_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for weight in group["params"]:
                same_shape[weight.shape].append(weight)
            for shape, weights in same_shape.items():
                self._step(weights, group, max(1.0, shape[0] / shape[1]) ** 0.5)

    def _step(self, weights: list[Tensor], group: dict[str, float], scale: float) -> None:
        directions = []
        for weight in weights:
            momentum = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
            assert weight.grad is not None
            momentum.lerp_(weight.grad, 1 - group["momentum"])
            directions.append(weight.grad.lerp(momentum, group["momentum"]))  # Nesterov's look ahead
        whole = torch.stack([direction.full_tensor() if isinstance(direction, DTensor) else direction for direction in directions])
        for weight, direction in zip(weights, orthogonalise(whole), strict=True):
            weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(_as(weight, direction), alpha=-group["lr"] * scale)


def _as(weight: Tensor, whole: Tensor) -> Tensor:
    """The part of it that lies beside this process's part of the weight."""
    return distribute_tensor(whole, weight.device_mesh, weight.placements, src_data_rank=None) if isinstance(weight, DTensor) else whole
