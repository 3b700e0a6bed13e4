# benchmarks/doors.py: whole models of transformers through window_matmul.hf, beside the faster of SDPA and eager attention.
"""python -m benchmarks.doors [--quick] [--threads 2] [--repeats 3]

A markdown table: forward, training step and its peak memory of a stack shaped like ModernBERT-base and of one shaped like Mistral, and
generation by batch. Times are medians of runs that take turns; memory is how far a fresh process grows. Weights are random.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

from .machine import describe
from .markdown import table

OURS, PEERS = "window_matmul", ("sdpa", "eager")


def stack(shape: str, window: int, generates: bool = False) -> Any:
    """Four layers, all of windows, without a vocabulary to speak of. For generation with the heads of Mistral 7B, and its share of them."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 256, "num_hidden_layers": 4, "max_position_embeddings": 1 << 17, "pad_token_id": 0}
    if shape == "modernbert":
        sizes |= {"local_attention": 128, "cls_token_id": 1, "sep_token_id": 2, "eos_token_id": 2, "bos_token_id": 1}
        config = transformers.ModernBertConfig(**sizes)
        config.layer_types = ["sliding_attention"] * 4
        return transformers.ModernBertModel(config)
    heads, shared, dim = (32, 8, 128) if generates else (8, 2, 64)
    sizes |= {"num_attention_heads": heads, "num_key_value_heads": shared, "head_dim": dim}
    sizes |= {"hidden_size": 512, "intermediate_size": 1792, "sliding_window": window, "eos_token_id": None}
    return transformers.MistralModel(transformers.MistralConfig(**sizes))


def forward(model: Any, ids: torch.Tensor) -> None:
    options = {} if model.config.model_type == "modernbert" else {"use_cache": False}
    with torch.no_grad():
        model(ids, attention_mask=torch.ones_like(ids), **options)


def step(model: Any, ids: torch.Tensor) -> None:
    options = {} if model.config.model_type == "modernbert" else {"use_cache": False}
    model(ids, attention_mask=torch.ones_like(ids), **options).last_hidden_state.square().mean().backward()
    model.zero_grad()


RUNS: dict[str, Callable[[Any, torch.Tensor], None]] = {"forward": forward, "training step": step}


def seconds(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def compared(shape: str, window: int, length: int, repeats: int) -> list[list[str]]:
    """A line for each kind of run: ours, the faster of the others, the ratio."""
    model, ids = stack(shape, window), torch.randint(3, 256, (1, length))
    lines = []
    step(model, ids[:, :64])  # faults the weights in
    for name, run in RUNS.items():
        times: dict[str, list[float]] = {}
        for _ in range(repeats):
            for implementation in (OURS, *PEERS):
                model.set_attn_implementation(implementation)
                times.setdefault(implementation, []).append(seconds(partial(run, model, ids)))
        medians = {implementation: statistics.median(values) for implementation, values in times.items()}
        best = min(PEERS, key=medians.__getitem__)
        ours, theirs = medians[OURS], medians[best]
        lines.append(
            [f"{shape}, {length} tokens, {name}", f"{ours * 1e3:.0f} ms", f"{theirs * 1e3:.0f} ms ({best})", f"{theirs / ours:.2f}x"]
        )
        print("done:", lines[-1], file=sys.stderr)
    grown = {implementation: growth(shape, window, length, implementation) for implementation in (OURS, best)}
    sizes = [f"{size / 2**20:.0f} MiB" for size in grown.values()]
    ratio = f"{grown[best] / max(grown[OURS], 1):.2f}x"
    return [*lines, [f"{shape}, {length} tokens, memory of a step", sizes[0], f"{sizes[1]} ({best})", ratio]]


def growth(shape: str, window: int, length: int, implementation: str) -> int:
    """How far a fresh process grows in its first training step, in bytes."""
    arguments = json.dumps({"shape": shape, "window": window, "length": length, "implementation": implementation})
    command = [sys.executable, "-m", "benchmarks.doors", "--grow", arguments, "--threads", str(torch.get_num_threads())]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def grow(shape: str, window: int, length: int, implementation: str) -> None:
    model, ids = stack(shape, window), torch.randint(3, 256, (1, length))
    model.set_attn_implementation(implementation)
    step(model, ids[:, :32])
    before = peak()
    step(model, ids)
    print(peak() - before)


def peak() -> int:
    """Of this process, in bytes; getrusage() would begin with the peak of the process that started it."""
    return next(int(line.split()[1]) << 10 for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))


def generation(window: int, past: int, batch: int, tokens: int) -> list[list[str]]:
    """Tokens a second one by one behind a text, stock and ours in turn; and the memory of a layer's cache, in windows."""
    from window_matmul.hf import WindowCache

    model = stack("mistral", window, generates=True).eval()
    ids = torch.randint(3, 256, (batch, past))
    ways = {"sdpa": transformers.DynamicCache(config=model.config), OURS: WindowCache(model.config)}
    times: dict[str, list[float]] = {name: [] for name in ways}
    with torch.no_grad():
        for name, cache in ways.items():
            model.set_attn_implementation(name)
            model(ids, past_key_values=cache)
        for _ in range(tokens):
            for name, cache in ways.items():
                model.set_attn_implementation(name)
                times[name].append(seconds(partial(model, ids[:, :1], past_key_values=cache)))
    theirs, ours = (batch / statistics.median(times[name]) for name in ways)
    line = [f"mistral, generation, batch {batch}", f"{ours:.1f} tokens/s", f"{theirs:.1f} tokens/s (sdpa)", f"{ours / theirs:.2f}x"]
    slots = ways[OURS].layers[0]._memory[0].shape[2]
    return [line, [f"mistral, memory of a layer's cache, batch {batch}", f"{slots / window:.2f} windows", "", ""]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short texts: says whether it runs, not how fast")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--grow", help=argparse.SUPPRESS)
    given = parser.parse_args()
    import window_matmul.hf  # noqa: F401

    torch.set_num_threads(given.threads)
    if given.grow:
        grow(**json.loads(given.grow))
        return
    length, past, tokens = (1024, 300, 4) if given.quick else (8192, 4000, 64)
    repeats, window = (1, 128) if given.quick else (given.repeats, 1024)
    lines = [line for shape in ("modernbert", "mistral") for line in compared(shape, window // 2, length, repeats)]
    for batch in (1, 8):
        lines += generation(window, past, batch, tokens)
    print(", ".join(f"{name}: {value}" for name, value in describe().items()), end="\n\n")
    print(table(["", "ours", "the faster of SDPA and eager", "ratio"], lines))


if __name__ == "__main__":
    main()
