#!/usr/bin/env bash
# findings/torch_sdpa_low_mask_gradient.sh: torch 2.13.0 on a CPU: a row of very low mask values multiplies the gradient of v by the number
# of keys.
#
# A mask adds the same number to every score of a row, so it changes nothing: the row's output is the mean of v, and the gradients of v add
# up to 1. scaled_dot_product_attention's default CPU kernel (FLASH_ATTENTION) keeps only the row's log-sum-exp for its backward pass.
# Beside -1e9 the logarithm of the number of keys is lost in float32, each of the 6 keys gets weight 1, and the gradients add up to 6. The
# forward pass and the MATH kernel are right, and -1e4 is small enough.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check torch==2.13.0
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention


def mean_and_gradient(kernel: SDPBackend, low: float) -> tuple[float, float]:
    q, k = torch.zeros(1, 1, 4, 8, requires_grad=True), torch.zeros(1, 1, 6, 8)
    v = torch.ones(1, 1, 6, 8, requires_grad=True)
    mask = torch.zeros(1, 1, 4, 6)
    mask[..., 0, :] = low  # the whole first row
    with sdpa_kernel(kernel):
        out = scaled_dot_product_attention(q, k, v, attn_mask=mask)
    out[0, 0, 0, 0].backward()
    return out[0, 0, 0, 0].item(), v.grad[0, 0, :, 0].sum().item()


print("torch", torch.__version__)
for low, expected in ((-1e4, 1.0), (-1e9, 6.0), (torch.finfo(torch.float32).min, 6.0)):
    for kernel, gradient in ((SDPBackend.MATH, 1.0), (SDPBackend.FLASH_ATTENTION, expected)):
        got = mean_and_gradient(kernel, low)
        print(f"mask {low:.0e}, {kernel.name}: output {got[0]:.4f}, gradients of v add up to {got[1]:.4f}")
        assert abs(got[0] - 1) < 1e-3 and abs(got[1] - gradient) < 1e-3, "the behaviour has changed"
PYTHON
