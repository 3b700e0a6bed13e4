# python/window_matmul/nn.py: `WindowAttention`, a multi-head module around `window_attention`.
"""The parameters have the names and layouts of `torch.nn.MultiheadAttention`, so that its checkpoints load."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from ._attention.arguments import as_flag, as_probability, as_reals
from ._band.arguments import DTYPES, as_autocast, as_dilation, to_window
from ._cache.arguments import as_device, as_size, to_device
from ._integers import as_positive
from ._rotary import check_base, turn, turns
from .attention import AnyWindow, window_attention
from .cache import RollingCache
from .functional import Dilation
from .window import Window

Device = torch.device | str | None


class WindowAttention(nn.Module):
    """Multi-head self-attention over a window: projections to queries, keys and values, `window_attention`, and a projection back.

    Args:
        embed_dim: E, the features of input and output; a multiple of num_heads.
        num_heads: H.
        window_size: as in `window_attention`; (left, 0) is causal.
        num_kv_heads: Hkv, of which H is a multiple; by default H.
        dilation: one for all heads, or one a head.
        global_tokens: how many of the first tokens every query sees; a mask may be given to a call.
        dropout: of attention weights, in training.
        bias: whether the projections have one.
        relative_bias: whether each head learns a number for each slot of the window, (H, left + 1 + right), which is added to its scores.
        rotary: the base of rotary position embeddings (10000.0 in the paper); by default there are none.
        sinks: whether each head learns a logit that joins the softmax without a value.
        scale, softcap: as in `window_attention`.
        device, dtype: of the parameters.

    Parameters:
        in_proj_weight (3E, E), in_proj_bias (3E,), out_proj.weight (E, E), out_proj.bias (E,); with fewer key/value heads q_proj_weight,
        k_proj_weight and v_proj_weight stand for in_proj_weight, and in_proj_bias is (E + 2 * Hkv * E / H,). relative_bias, sinks.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: sizes that do not divide, a window that is no window.

    >>> import torch
    >>> attention = WindowAttention(64, 4, (15, 0), num_kv_heads=2, rotary=10000.0).eval()
    >>> x = torch.randn(1, 40, 64)
    >>> with torch.inference_mode():
    ...     cache = attention.new_cache(batch_size=1)
    ...     steps = torch.cat([attention(x[:, :30], cache=cache)] + [attention(x[:, i : i + 1], cache=cache) for i in range(30, 40)], 1)
    ...     torch.testing.assert_close(steps, attention(x))

    Source: Vaswani et al., "Attention Is All You Need" (arXiv:1706.03762); Ainslie et al., "GQA" (arXiv:2305.13245) for num_kv_heads; Su et
    al., "RoFormer" (arXiv:2104.09864) for rotary.
    """

    in_proj_weight: Tensor | None
    q_proj_weight: Tensor | None
    k_proj_weight: Tensor | None
    v_proj_weight: Tensor | None
    in_proj_bias: Tensor | None
    relative_bias: Tensor | None
    sinks: Tensor | None
    # What computes attention where x is a shard of a sequence: of window_matmul.distributed.WindowParallel.
    _shards: Callable[[Tensor, Tensor, Tensor, AnyWindow, float | None, dict[str, Any]], Tensor] | None = None

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        window_size: AnyWindow,
        *,
        num_kv_heads: int | None = None,
        dilation: Dilation = 1,
        global_tokens: int = 0,
        dropout: float = 0.0,
        bias: bool = True,
        relative_bias: bool = False,
        rotary: float | None = None,
        sinks: bool = False,
        scale: float | None = None,
        softcap: float = 0.0,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.embed_dim, self.num_heads = as_positive("embed_dim", embed_dim), as_positive("num_heads", num_heads)
        self.num_kv_heads = self.num_heads if num_kv_heads is None else as_positive("num_kv_heads", num_kv_heads)
        self.head_dim = _head_dim(self.embed_dim, self.num_heads, self.num_kv_heads)
        self.window, self.dilation = _as_window(window_size, dilation, self.num_heads)
        self.global_tokens = as_size("global_tokens", global_tokens)
        self.dropout, self.rotary = as_probability("dropout", dropout), check_base(rotary, self.head_dim)
        as_reals(scale, softcap, 0.0, self.head_dim)
        self.scale, self.softcap = scale, softcap
        if as_flag("relative_bias", relative_bias) and self.window.width is None:
            raise ValueError(f"window_size is {window_size!r} with relative_bias; both sides need to be bounded")
        device = to_device(device)
        if dtype is not None and dtype not in DTYPES:
            raise TypeError(f"dtype is {dtype!r}; it needs to be float32, float64, bfloat16, float16 or None")
        self._add_projections(as_flag("bias", bias), device, dtype)
        self._add("relative_bias", (self.num_heads, self.window.width or 0) if relative_bias else None, device, dtype)
        self._add("sinks", (self.num_heads,) if as_flag("sinks", sinks) else None, device, dtype)
        self.reset_parameters()

    # ---- parameters ---------------------------------------------------------------------------------------------------------------------
    def _add(self, name: str, shape: tuple[int, ...] | None, device: Device, dtype: torch.dtype | None) -> None:
        self.register_parameter(name, None if shape is None else nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))

    def _add_projections(self, bias: bool, device: Device, dtype: torch.dtype | None) -> None:
        features, kv_features = self.embed_dim, self.num_kv_heads * self.head_dim
        packed = self.num_kv_heads == self.num_heads
        self._add("in_proj_weight", (3 * features, features) if packed else None, device, dtype)
        for name, rows in (("q", features), ("k", kv_features), ("v", kv_features)):
            self._add(f"{name}_proj_weight", None if packed else (rows, features), device, dtype)
        self._add("in_proj_bias", (features + 2 * kv_features,) if bias else None, device, dtype)
        self.out_proj = nn.Linear(features, features, bias, device, dtype)

    def reset_parameters(self) -> None:
        """As torch.nn.MultiheadAttention starts; relative_bias and sinks start from 0."""
        if not isinstance(self.out_proj, nn.Linear):
            kind = type(self.out_proj)
            raise TypeError(f"out_proj is of type {kind.__name__} of {kind.__module__}; it needs to be a torch.nn.Linear to be reset")
        for weight in (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight):
            if weight is not None:
                nn.init.xavier_uniform_(weight)
        self.out_proj.reset_parameters()
        for zero in (self.in_proj_bias, self.out_proj.bias, self.relative_bias, self.sinks):
            if zero is not None:
                nn.init.zeros_(zero)

    # ---- attention ----------------------------------------------------------------------------------------------------------------------
    def forward(
        self,
        x: Tensor,
        *,
        key_mask: Tensor | None = None,
        bias: Tensor | None = None,
        global_tokens: int | Tensor | None = None,
        cache: RollingCache | None = None,
    ) -> Tensor:
        """x (B, L, E) -> (B, L, E).

        Args:
            x: the sequence; with a cache, what follows the tokens in it.
            key_mask: (B, L) bool, True for tokens that may be seen: False for padding.
            bias: (H, W) or (B, H, L, W), W = left + 1 + right: added to the scores of each slot, and to relative_bias.
            global_tokens: a number or a mask (B, L), instead of the module's.
            cache: of `new_cache`: its tokens are seen too, and those of x are appended. Not beside key_mask or global_tokens, and not with
                dropout in training.
        """
        if not isinstance(x, Tensor):
            raise TypeError(f"x is of type {type(x).__name__}; it needs to be a torch.Tensor")
        if x.ndim != 3 or x.shape[-1] != self.embed_dim:
            raise ValueError(f"x is {tuple(x.shape)}; it needs to be (batch, length, {self.embed_dim})")
        if cache is not None:
            self._check_cache(cache, key_mask, global_tokens)
        q, k, v = self._project(x)
        if self.rotary is not None and self._shards is None:
            cos, sin = turns(self.rotary, self.head_dim, x.shape[1], 0 if cache is None else cache._first_position, q)
            q, k = turn(q, cos, sin), turn(k, cos, sin)
        bias = self._summed_bias(bias)
        if cache is not None:
            out = cache.attend(q, k, v, scale=self.scale, softcap=self.softcap, sinks=self.sinks, bias=bias)
        else:
            out = self._attend(q, k, v, bias, key_mask, self.global_tokens if global_tokens is None else global_tokens)
        return self.out_proj(out.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, key_mask: Tensor | None, global_tokens: int | Tensor) -> Tensor:
        options: dict[str, Any] = {
            "dilation": self.dilation,
            "scale": self.scale,
            "key_mask": key_mask,
            "bias": bias,
            "softcap": self.softcap,
            "sinks": self.sinks,
            "global_tokens": global_tokens,
            "dropout_p": self.dropout if self.training else 0.0,
        }
        window = (self.window.left, self.window.right)
        if self._shards is not None:
            return self._shards(q, k, v, window, self.rotary, options)
        out: Tensor = window_attention(q, k, v, window, **options)
        return out

    def new_cache(self, batch_size: int, *, dtype: torch.dtype | None = None, device: Device = None, spare: int = 0) -> RollingCache:
        """An empty cache for `forward`; the window needs right = 0 and a bounded left, and all heads one dilation.

        Args:
            batch_size: B of the x to come.
            dtype: of the projected keys; by default autocast's where it is on, else that of the weight they are projected with. Where that
                is not the keys' own (weights that are cast in forward), it is to be given.
            device: likewise; by default that of the weight.
            spare: how many tokens the cache can forget again by `crop`.
        """
        if isinstance(self.dilation, tuple):
            raise ValueError(f"dilation is {self.dilation!r}; a cache needs one for all heads")
        weight = self.k_proj_weight if self.in_proj_weight is None else self.in_proj_weight
        where = as_device(weight.device if device is None and weight is not None else device)
        return RollingCache(
            batch_size,
            self.num_kv_heads,
            self.head_dim,
            self.window,
            num_pinned=self.global_tokens,
            spare=spare,
            dtype=self._dtype_of_keys(weight, where) if dtype is None else dtype,
            device=where,
        )

    def _dtype_of_keys(self, weight: Tensor | None, device: torch.device) -> torch.dtype:
        """Nothing is asked of out_proj: it may have been replaced by a module that keeps its weight elsewhere, or as integers."""
        known = (x.dtype for x in (weight, *self.parameters()) if x is not None and x.is_floating_point())
        return as_autocast(torch.empty(0, dtype=next(known, torch.get_default_dtype()), device=device)).dtype

    def _check_cache(self, cache: RollingCache, key_mask: Tensor | None, global_tokens: int | Tensor | None) -> None:
        if self._shards is not None:
            raise ValueError("cache is given to a module of WindowParallel; it needs to be left away: no rank has all tokens")
        if not isinstance(cache, RollingCache):
            raise TypeError(f"cache is of type {type(cache).__name__}; it needs to be a RollingCache, of new_cache")
        for name, value in (("key_mask", key_mask), ("global_tokens", global_tokens)):
            if value is not None:
                raise ValueError(f"{name} is given beside cache; it needs to be left away: the cache keeps no mask of its tokens")
        if self.training and self.dropout > 0:
            raise ValueError(f"dropout is {self.dropout} in training beside cache; it needs to be 0, or the module in eval()")
        if cache.window != self.window or cache.num_pinned != self.global_tokens:
            raise ValueError(
                f"cache has {cache.window} and {cache.num_pinned} pinned tokens; it needs to be of new_cache, {self.window} and "
                f"{self.global_tokens}"
            )

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q (B, H, L, D), k and v (B, Hkv, L, D): views of (B, L, ...) tensors, which attention takes as they are."""
        kv_features = self.num_kv_heads * self.head_dim
        sizes = [self.embed_dim, kv_features, kv_features]
        if self.in_proj_weight is not None:
            parts = linear(x, self.in_proj_weight, self.in_proj_bias).split(sizes, -1)
        else:
            biases = (None, None, None) if self.in_proj_bias is None else self.in_proj_bias.split(sizes)
            weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
            parts = tuple(linear(x, weight, b) for weight, b in zip(weights, biases, strict=True) if weight is not None)
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for part in parts)
        return q, k, v

    def _summed_bias(self, bias: Tensor | None) -> Tensor | None:
        if bias is None or self.relative_bias is None:
            return self.relative_bias if bias is None else bias
        return bias + (self.relative_bias[:, None] if bias.ndim == 4 else self.relative_bias)

    def extra_repr(self) -> str:
        return f"{self.embed_dim}, {self.num_heads}, ({self.window.left}, {self.window.right}), num_kv_heads={self.num_kv_heads}" + "".join(
            f", {name}={getattr(self, name)}"
            for name, default in (("dilation", 1), ("global_tokens", 0), ("dropout", 0.0), ("rotary", None), ("softcap", 0.0))
            if getattr(self, name) != default
        )


def _head_dim(embed_dim: int, num_heads: int, num_kv_heads: int) -> int:
    if embed_dim % num_heads:
        raise ValueError(f"embed_dim is {embed_dim}; it needs to be a multiple of num_heads, {num_heads}")
    if num_heads % num_kv_heads:
        raise ValueError(f"num_kv_heads is {num_kv_heads}; it needs to divide num_heads, {num_heads}")
    return embed_dim // num_heads


def _as_window(window_size: AnyWindow, dilation: object, num_heads: int) -> tuple[Window, int | tuple[int, ...]]:
    """The window, with the dilation that all heads share, and the dilation."""
    window, taps = to_window(window_size), as_dilation(window_size, dilation, "head")
    if len(taps) > 1 and len(taps) != num_heads:
        raise ValueError(f"dilation is {dilation!r}; it needs an int for each of the {num_heads} heads")
    one = taps[0] if taps else 1
    if set(taps) <= {one}:
        return Window(window.left, window.right, one), one
    return Window(window.left, window.right), taps
