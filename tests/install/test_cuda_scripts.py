"""tests/install/test_cuda_scripts.py: bugs to inject fit the kernels as they are; the model of their time reads code as it is written."""

from __future__ import annotations

from collections import Counter

import inject_cuda_bugs as inject
import pytest
from cuda_code import HMMA, LDGSTS, LDSM
from cuda_emulation import ROOT
from inject_cuda_bugs import BUGS, Bug, file_of, is_of_gradients
from model_cuda_time import BRA, EXIT, FUSED, GPUS, PAIR, WINDOWS, clocks_of, main_loop, seconds_of, target_of, turn_of, useful_flops

ADD, IF = 0x210, 1  # an opcode of no interest, and a predicate


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_bug_has_its_text_in_the_kernels(bug: Bug) -> None:
    assert file_of(bug, ROOT).is_file() and bug.right != bug.wrong and inject.tests_of(bug)


def test_there_are_bugs_enough() -> None:
    fused = [bug for bug in BUGS if "/attention/" in bug.path]
    assert len({bug.name for bug in BUGS}) == len(BUGS) and len(BUGS) - len(fused) >= 60
    assert sum(map(is_of_gradients, fused)) >= 25 and len(fused) - sum(map(is_of_gradients, fused)) >= 25


# ---- the model --------------------------------------------------------------------------------------------------------------------------
Instruction = tuple[int, int]


def plain(opcode: int) -> Instruction:
    return 7 << 12 | opcode, 0


def branch(at: int, target: int, predicate: int = 7) -> Instruction:
    """As nvcc writes it for sm_90: quarters of instructions from the next one on, the low byte of them apart."""
    steps = 4 * (target - at - 1) & ((1 << 56) - 1)
    high = steps >> 8
    return BRA | predicate << 12 | (steps & 0xFF) << 16 | (high & ((1 << 30) - 1)) << 34, high >> 30


def loop() -> list[Instruction]:
    """0, then a loop: copies or none; a matrix instruction that may be left out; a rare block; one more matrix instruction at its end."""
    return [
        plain(ADD),
        branch(1, 4, IF),
        plain(LDGSTS), plain(LDGSTS),
        branch(4, 6, IF),
        plain(HMMA),
        branch(6, 9, IF),
        plain(ADD), plain(ADD),
        plain(LDSM), plain(HMMA),
        branch(11, 1, IF),
        plain(EXIT),
    ]  # fmt: skip


@pytest.mark.parametrize("distance", [1, 2, 100, 70_000, -1, -3, -100, -70_000])
def test_branches_are_read(distance: int) -> None:
    at = 80_000
    words = [plain(ADD)] * at + [branch(at, at + distance)]
    assert target_of(words, at) == at + distance


def test_a_turn_is_the_shortest_way_with_all_matrix_instructions_and_copies() -> None:
    assert main_loop(loop()) == (1, 11)
    assert turn_of(loop(), 2) == Counter({HMMA: 2, BRA: 4, LDSM: 1, LDGSTS: 2})
    assert turn_of(loop(), 0) == Counter({HMMA: 2, BRA: 4, LDSM: 1})
    with pytest.raises(SystemExit, match="no way round"):
        turn_of(loop(), 1)


def test_the_model_counts_what_a_window_takes() -> None:
    """At w = 128 16 rows touch 17 groups of 16 keys, and 128 rows 384 keys of 64 to a tile."""
    turn = Counter({HMMA: 128, LDSM: 72, ADD: 800})
    for gpu in GPUS:
        clocks = clocks_of(FUSED[0], turn, 128, gpu)
        assert clocks["tensor cores"] == 8 * 17 * 16 * 16 * 128 * 2 / gpu.mma
        assert clocks["issue"] == pytest.approx(8 * 17 / 4 * 1000 / 4)
        assert clocks["shared memory"] == pytest.approx((8 * 17 / 4 * 72 * 512 + 384 * 512) / 128)
        for kernel in FUSED + PAIR:
            for window in WINDOWS:
                best, in_turn = seconds_of(kernel, turn, window, gpu)
                assert 0 < best <= in_turn
                assert useful_flops(window, kernel.products) / best <= 1.0001e12 * gpu.peak
