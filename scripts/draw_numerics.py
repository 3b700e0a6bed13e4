# scripts/draw_numerics.py: measures how far results are from exact ones, ours and torch's, and draws the picture of docs/numerics.md.
"""Run it with the package installed: `.venv/bin/python scripts/draw_numerics.py` writes docs/images/numerics.png and prints the tables.

Exact is the definition with dense matrices in 80-bit numbers, from the inputs as they are rounded. An error is a root mean square, in units
of what rounding the exact result once to its dtype costs: 1 is the best that there is.
"""

import functools
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from window_matmul import unwindow_matmul, window_attention, window_matmul, window_softmax
from window_matmul._load import kernels

LENGTH, DIM, W = 512, 64, 128
SCALE = DIM**-0.5
DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
OURS, MATH, FLASH = "window_matmul", "torch, dense", "torch, flash"
COLOURS = {OURS: "#d1495b", MATH: "#30638e", FLASH: "#edae49"}
NAMES = ("window_matmul", "window_softmax", "unwindow_matmul", "attention: out", "d_q", "d_k", "d_v")

Exact = np.ndarray  # of longdouble
Results = dict[str, Tensor]  # by NAMES


def band() -> tuple[Tensor, Tensor]:
    """(L, W): the key of each slot, and whether it exists."""
    keys = torch.arange(LENGTH)[:, None] + torch.arange(-W, W + 1)
    return keys.clamp(0, LENGTH - 1), (keys >= 0) & (keys < LENGTH)


def mask() -> Tensor:
    return (torch.arange(LENGTH)[:, None] - torch.arange(LENGTH)).abs() <= W


def slots(dense: Tensor) -> Tensor:
    keys, exist = band()
    return dense.gather(-1, keys).masked_fill(~exist, 0)


@functools.cache
def inputs(dtype: torch.dtype) -> tuple[Tensor, ...]:
    """q, k, v, the gradient of the output, scores and weights in the band."""
    generator = torch.Generator().manual_seed(0)
    q, k, v, g = (torch.randn(LENGTH, DIM, generator=generator, dtype=torch.float64).to(dtype) for _ in range(4))
    scores = slots((q.double() @ k.double().mT * SCALE).masked_fill(~mask(), 0)).to(dtype)
    weights = window_softmax(scores.double(), W).to(dtype)
    return q, k, v, g, scores, weights


def dense_of(a: Tensor, rest: float = 0.0) -> Tensor:
    keys, exist = band()
    rows = torch.arange(LENGTH)[:, None].expand_as(keys)[exist]
    return a.new_full((LENGTH, LENGTH), rest).index_put((rows, keys[exist]), a[exist])


# ---- the same results, four times ----------------------------------------------------------------------------------------------------
@functools.cache
def exact(dtype: torch.dtype) -> dict[str, Exact]:
    tensors = inputs(dtype)
    q, k, v, g = (np.asarray(x.double().numpy(), dtype=np.longdouble) for x in tensors[:4])
    scores, weights = (np.asarray(dense_of(x.double()).numpy(), dtype=np.longdouble) for x in tensors[4:])
    seen, scale = mask().numpy(), np.longdouble(SCALE)

    def softmax(s: Exact) -> Exact:
        e = np.where(seen, np.exp(s - np.where(seen, s, -np.inf).max(-1, keepdims=True)), 0)
        return e / e.sum(-1, keepdims=True)  # type: ignore[no-any-return]

    def in_band(dense: Exact) -> Exact:
        keys, exist = (x.numpy() for x in band())
        return np.where(exist, np.take_along_axis(dense, keys, -1), 0)

    p = softmax(q @ k.T * scale)
    d_p = g @ v.T
    d_s = p * (d_p - (p * d_p).sum(-1, keepdims=True)) * scale
    products = in_band(q @ k.T), in_band(softmax(scores)), weights @ v
    return dict(zip(NAMES, (*products, p @ v, d_s @ k, d_s.T @ q, p.T @ g), strict=True))


def ours(tensors: tuple[Tensor, ...]) -> Results:
    q, k, v, _, scores, weights = tensors
    return fused(lambda q, k, v: window_attention(q, k, v, W), tensors) | {
        "window_matmul": window_matmul(q, k.mT, W),
        "window_softmax": window_softmax(scores, W),
        "unwindow_matmul": unwindow_matmul(weights, v, W),
    }


def dense(tensors: tuple[Tensor, ...]) -> Results:
    q, k, v, _, scores, weights = tensors
    with sdpa_kernel(SDPBackend.MATH):
        found = fused(masked, tensors)
    return found | {
        "window_matmul": slots(q @ k.mT),
        "window_softmax": slots(dense_of(scores, -math.inf).softmax(-1)),
        "unwindow_matmul": dense_of(weights) @ v,
    }


def masked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return scaled_dot_product_attention(q, k, v, attn_mask=mask())


def flash(tensors: tuple[Tensor, ...]) -> Results:
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return fused(masked, tensors)


def fused(attend: Callable[..., Tensor], tensors: tuple[Tensor, ...]) -> Results:
    q, k, v = (x[None, None].clone().requires_grad_() for x in tensors[:3])
    out = attend(q, k, v)
    gradients = torch.autograd.grad(out, (q, k, v), tensors[3][None, None])
    return dict(zip(NAMES[3:], (x.detach()[0, 0] for x in (out, *gradients)), strict=True))


# ---- errors --------------------------------------------------------------------------------------------------------------------------
def difference(x: Tensor, right: Exact) -> float:
    return float(np.sqrt(np.mean((np.asarray(x.double().numpy(), dtype=np.longdouble) - right) ** 2)))


def errors(found: Results, dtype: torch.dtype) -> dict[str, float]:
    """In units of one rounding of the exact result."""
    right = exact(dtype)
    rounded = {name: torch.from_numpy(right[name].astype(np.float64)).to(dtype) for name in found}
    return {name: difference(x, right[name]) / difference(rounded[name], right[name]) for name, x in found.items()}


def measure() -> dict[str, dict[str, dict[str, float]]]:
    """[dtype][whose][of what]"""
    measured = {}
    for name, dtype in DTYPES.items():
        tensors = inputs(dtype)
        whose = {OURS: ours(tensors), MATH: dense(tensors), FLASH: flash(tensors)}
        measured[name] = {who: errors(found, dtype) for who, found in whose.items()}
    return measured


def by_row() -> None:
    """The fused operator on each row of the kernel table that this machine has."""
    print(f"\n| dtype | row | {' | '.join(NAMES[3:])} |\n|{'---|' * (len(NAMES) - 1)}")
    for name, dtype in DTYPES.items():
        table = kernels("attention", str(dtype).removeprefix("torch."))
        for row in [row for row, why_not in table.items() if row.startswith("cpu.") and not why_not]:
            os.environ["WINDOW_MATMUL_BACKEND"] = row
            found = errors(fused(lambda q, k, v: window_attention(q, k, v, W), inputs(dtype)), dtype)
            del os.environ["WINDOW_MATMUL_BACKEND"]
            print(f"| {name} | `{row}` | " + " | ".join(f"{error:.3g}" for error in found.values()) + " |")


def main() -> None:
    measured = measure()
    print(f"| dtype | | {' | '.join(NAMES)} |\n|{'---|' * (len(NAMES) + 2)}")
    for dtype, whose in measured.items():
        for who, found in whose.items():
            print(f"| {dtype} | {who} | " + " | ".join(f"{found[of]:.3g}" if of in found else "" for of in NAMES) + " |")
    by_row()
    draw(measured)


def draw(measured: dict[str, dict[str, dict[str, float]]]) -> None:
    import matplotlib.pyplot as plt

    figure, row = plt.subplots(1, len(measured), figsize=(13, 3.8), layout="constrained", sharey=True)
    for ax, (dtype, whose) in zip(row, measured.items(), strict=True):
        for place, (who, found) in enumerate(whose.items()):
            ax.bar([NAMES.index(of) + 0.28 * (place - 1) for of in found], list(found.values()), 0.26, color=COLOURS[who], label=who)
        ax.axhline(1, color="#667", lw=1, ls="--")
        ax.set(yscale="log", title=dtype)
        ax.set_xticks(range(len(NAMES)), NAMES, rotation=60, ha="right", fontsize=8)
        ax.label_outer()
    row[0].set_ylabel("error / error of one rounding")
    handles, labels = row[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    path = Path(__file__).parents[1] / "docs" / "images" / "numerics.png"
    figure.savefig(path, dpi=110)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
