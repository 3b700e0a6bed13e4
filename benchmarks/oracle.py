# benchmarks/oracle.py: compares outputs and gradients of any size with the definition in float64, block by block of queries.
"""window_matmul.reference is the definition with L x L matrices, too large here; a test holds this file against it.

An error is the largest difference over the largest number of the exact result. Rounding errors of a sum of n products behave like a random
walk, so up to 8 u sqrt(n) passes, and two roundings of the result itself; a single wrong slot is thousands of times that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from .cases import DTYPES, Case

BLOCK = 128


class Wrong(Exception):
    """A result is not within rounding of the exact one."""


def _at(band: Tensor, slots: Tensor) -> Tensor:
    """The chosen slots of each head; without a copy where that is all of them."""
    return band if slots.all() else band[:, slots]


@dataclass
class Difference:
    """Of one tensor, gathered block by block."""

    name: str
    largest: float = 0.0
    magnitude: float = 0.0

    def add(self, actual: Tensor, exact: Tensor) -> None:
        error = (actual.double() - exact).abs().amax().item() if actual.numel() else 0.0
        if not error <= self.largest and not math.isnan(self.largest):  # a NaN counts, and stays
            self.largest = error
        self.magnitude = max(self.magnitude, exact.abs().amax().item() if exact.numel() else 0.0)

    @property
    def relative(self) -> float:
        return self.largest / self.magnitude if self.magnitude else self.largest


@dataclass
class Check:
    case: Case
    outside: float = 0.0  # what the window product holds in slots without a key
    exact_outside: bool = True  # whether gradients of such slots are 0
    roundings: int = 2  # to the dtype, one after the other, that a result may have
    differences: list[Difference] = field(default_factory=list)

    def run(self, inputs: tuple[Tensor, ...], output: Tensor, g: Tensor, gradients: tuple[Tensor, ...] = ()) -> float:
        """The largest relative error of the output and, where given, its gradients; Wrong if it is more than rounding."""
        fold = [x.detach().reshape(-1, *x.shape[-2:]) for x in (*inputs, g, output, *gradients)]  # (X, L, ...)
        n = len(inputs)
        names = {"window": ("q", "k"), "unwindow": ("a", "v")}.get(self.case.op, ("q", "k", "v")) if gradients else ()
        self.differences = [Difference("output"), *(Difference(f"gradient of {name}") for name in names)]
        compare = {"window": self._window, "unwindow": self._unwindow, "decode": self._decode}.get(self.case.op, self._attention)
        compare(fold[:n], fold[n], fold[n + 1], fold[n + 2 :])
        return self._verdict()

    def _verdict(self) -> float:
        out = torch.finfo(DTYPES[self.case.dtype]).eps / 2
        sums = out if self.case.dtype == "fp64" else torch.finfo(torch.float32).eps / 2
        allowed = self.roundings * out + 8 * sums * max(self.case.dim, self.case.width) ** 0.5
        for difference in self.differences:
            if not difference.relative <= allowed:
                raise Wrong(f"{self.case}: {difference.name} is off by {difference.relative:.2e}; rounding explains {allowed:.2e}")
        return max(difference.relative for difference in self.differences)

    def _blocks(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """(queries, the keys they see in a sequence padded by the window, which slots have a key)."""
        case = self.case
        for first in range(0, case.length, BLOCK):
            stop = min(first + BLOCK, case.length)
            yield slice(first, stop), slice(first, stop + case.width - 1), case.inside(first, stop)

    def _stripe(self, rectangle: Tensor) -> Tensor:
        """The slots (X, b, W) in a (X, b, b + W - 1) product of queries and the keys they see."""
        heads, rows, span = rectangle.shape
        return rectangle.as_strided((heads, rows, self.case.width), (rows * span, span + 1, 1))

    def _laid(self, band: Tensor, inside: Tensor) -> Tensor:
        """The inverse of `_stripe`, zeros elsewhere and in slots without a key."""
        heads, rows, _ = band.shape
        rectangle = torch.zeros(heads, rows, rows + self.case.width - 1, dtype=torch.float64)
        self._stripe(rectangle).copy_(band.double().masked_fill(~inside, 0.0))
        return rectangle

    def _padded(self, rows: Tensor) -> Tensor:
        return F.pad(rows.double(), (0, 0, self.case.left, self.case.right))

    def _unpadded(self, rows: Tensor) -> Tensor:
        return rows[:, self.case.left : self.case.left + self.case.length]

    def _window(self, inputs: list[Tensor], g: Tensor, output: Tensor, gradients: list[Tensor]) -> None:
        q, keys = inputs[0].double(), self._padded(inputs[1].mT)
        grad_keys = torch.zeros_like(keys)
        for i, j, inside in self._blocks():
            exact = self._stripe(q[:, i] @ keys[:, j].mT)
            self._compare(0, _at(output[:, i], inside), _at(exact, inside))
            if not (_at(output[:, i], ~inside) == self.outside).all():
                raise Wrong(f"{self.case}: slots without a key do not hold {self.outside}")
            if gradients:
                band = self._laid(g[:, i], inside)
                self._compare(1, gradients[0][:, i], band @ keys[:, j])
                grad_keys[:, j] += band.mT @ q[:, i]
        if gradients:
            self._compare(2, gradients[1].mT, self._unpadded(grad_keys))

    def _unwindow(self, inputs: list[Tensor], g: Tensor, output: Tensor, gradients: list[Tensor]) -> None:
        values, g = self._padded(inputs[1]), g.double()
        grad_values = torch.zeros_like(values)
        for i, j, inside in self._blocks():
            band = self._laid(inputs[0][:, i], inside)
            self._compare(0, output[:, i], band @ values[:, j])
            if gradients:
                exact = self._stripe(g[:, i] @ values[:, j].mT).masked_fill(~inside, 0.0)
                compared = torch.ones_like(inside) if self.exact_outside else inside
                self._compare(1, _at(gradients[0][:, i], compared), _at(exact, compared))
                grad_values[:, j] += band.mT @ g[:, i]
        if gradients:
            self._compare(2, gradients[1], self._unpadded(grad_values))

    def _attention(self, inputs: list[Tensor], g: Tensor, output: Tensor, gradients: list[Tensor]) -> None:
        scale = self.case.dim**-0.5
        q, keys, values, g = inputs[0].double() * scale, self._padded(inputs[1]), self._padded(inputs[2]), g.double()
        grad_keys, grad_values = torch.zeros_like(keys), torch.zeros_like(values)
        for i, j, inside in self._blocks():
            weights = self._stripe(q[:, i] @ keys[:, j].mT).masked_fill(~inside, -torch.inf).softmax(-1)
            laid = self._laid(weights, inside)
            self._compare(0, output[:, i], laid @ values[:, j])
            if gradients:
                grad_weights = self._stripe(g[:, i] @ values[:, j].mT)
                grad_scores = self._laid(weights * (grad_weights - (weights * grad_weights).sum(-1, keepdim=True)), inside)
                self._compare(1, gradients[0][:, i], grad_scores @ keys[:, j] * scale)
                grad_keys[:, j] += grad_scores.mT @ q[:, i]
                grad_values[:, j] += laid.mT @ g[:, i]
        if gradients:
            self._compare(2, gradients[1], self._unpadded(grad_keys))
            self._compare(3, gradients[2], self._unpadded(grad_values))

    def _decode(self, inputs: list[Tensor], g: Tensor, output: Tensor, gradients: list[Tensor]) -> None:
        """The only query sees the last keys; neighbouring heads share theirs."""
        group = self.case.heads // (self.case.kv_heads or self.case.heads)
        q, keys, values = (x.double()[:, -self.case.width :] for x in inputs)
        keys, values = (x.repeat_interleave(group, 0) for x in (keys, values))
        self._compare(0, output, (q @ keys.mT * self.case.dim**-0.5).softmax(-1) @ values)

    def _compare(self, number: int, actual: Tensor, exact: Tensor) -> None:
        self.differences[number].add(actual, exact)
