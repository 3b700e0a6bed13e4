"""tests/python/attention_oracle.py: the definition of fused attention, which the checks of a GPU bring along in the package."""

from __future__ import annotations

from window_matmul.testing.definition import Bounds, Dense, Dilation, Places, Rule, attend, bounds, global_mask, places

__all__ = ["Bounds", "Dense", "Dilation", "Places", "Rule", "attend", "bounds", "global_mask", "places"]
