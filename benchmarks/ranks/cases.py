# benchmarks/ranks/cases.py: what is measured: runs of ranks on a wire, each with its cases.
from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from .network import Wire

Window = tuple[int, int]
CAUSAL, TWO_SIDED = (511, 0), (512, 512)
METHOD_NAMES = ("halo", "gather", "ulysses")


@dataclass(frozen=True)
class RankCase:
    """A step of attention, forward and backward, over a sequence of `length` on `ranks` processes with a thread each; fp32."""

    method: str
    ranks: int
    length: int
    window: Window
    heads: int = 8
    dim: int = 64
    repeats: int = 3

    @property
    def local_shape(self) -> tuple[int, int, int, int]:
        return 1, self.heads, self.length // self.ranks, self.dim

    def __str__(self) -> str:
        return f"{self.method}-P{self.ranks}-L{self.length}-w{self.window[0]}-{self.window[1]}"


class Run(NamedTuple):
    """Processes that are started once, and do all cases one after another."""

    name: str
    ranks: int
    wire: Wire
    sizes: tuple[tuple[int, Window], ...]  # lengths and windows
    fitted: bool = False  # whether the cost model is fitted on it; the others are its test
    malloc: str = "keeps blocks"  # of plan.MALLOCS
    repeats: int = 2

    def cases(self) -> list[RankCase]:
        return [
            RankCase(method, self.ranks, length, window, repeats=self.repeats) for length, window in self.sizes for method in METHOD_NAMES
        ]


USUAL = Wire(1.0, 1.0)
SLOW = Wire(0.25, 4.0)
OTHER = Wire(0.5, 2.0)
FREE = Wire(1e4, 0.0)  # as fast as the relay: what a step takes longer on another wire is due to that
SMALL = ((16384, CAUSAL), (32768, CAUSAL), (8192, TWO_SIDED))
THE_BAR, THE_FREE = "bar", "free"
RUNS = (
    Run("one", 1, USUAL, ((32768, CAUSAL),)),
    Run("two", 2, USUAL, SMALL, fitted=True),
    Run("four", 4, USUAL, SMALL, fitted=True),
    Run("slow", 4, SLOW, ((16384, CAUSAL),), fitted=True),
    Run("other", 4, OTHER, ((32768, CAUSAL),)),
    Run("eight", 8, USUAL, ((32768, CAUSAL),)),
    Run(THE_BAR, 4, USUAL, ((65536, CAUSAL),), repeats=3),
    Run(THE_FREE, 4, FREE, ((65536, CAUSAL),), repeats=3),
    Run("two-sided", 4, USUAL, ((65536, TWO_SIDED),)),
    Run("default malloc", 4, USUAL, ((65536, CAUSAL),), malloc="default"),
)


def quick() -> tuple[Run, ...]:
    """The same with short sequences: says whether it runs, not how fast."""

    def small(run: Run) -> tuple[tuple[int, Window], ...]:
        return tuple((length // 16, (left // 16, right // 16)) for length, (left, right) in run.sizes)

    return tuple(run._replace(sizes=small(run), repeats=1) for run in RUNS)
