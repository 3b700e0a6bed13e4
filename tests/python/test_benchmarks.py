"""tests/python/test_benchmarks.py: the benchmarks' competitors are right, their oracle notices errors, and a tiny run goes through."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from window_matmul import reference

sys.path.insert(0, str(Path(__file__).parents[2]))  # the benchmarks are run from the source tree, no part of the package

from benchmarks import __main__ as command
from benchmarks import bars, kernels, options, overhead, plots, session
from benchmarks.cases import PAIR, Case, decode_cases, fused_cases, pair_cases
from benchmarks.cell import check, inference, training
from benchmarks.competitors import NAMES, Unsupported, answered, entrants, load
from benchmarks.measure import fastest, memory_growth, time_calls
from benchmarks.oracle import Check, Wrong
from benchmarks.plan import Job, Options, jobs

pytestmark = pytest.mark.best_backend

SMALL: dict[str, Any] = {"heads": 2, "dim": 8, "threads": 1}
SHARED = (*PAIR, "fused")  # operators whose kernels are measured alone
DECODE: dict[str, Any] = {"heads": 4, "kv_heads": 2, "dim": 8, "threads": 1, "causal": True}
SIZES = [(64, 8), (128, 16), (192, 32), (64, 32), (320, 5)]  # length, window; some shorter than the blocks see, one without chunks


def exact(case: Case, inputs: tuple[Tensor, ...], g: Tensor) -> tuple[Tensor, ...]:
    """Output and gradients by the definition in float64."""
    leaves = [x.detach().double().requires_grad_() for x in inputs]
    w = case.left, case.right
    if case.op == "window":
        output = reference.window_matmul(*leaves, w)
    elif case.op == "unwindow":
        output = reference.unwindow_matmul(*leaves, w)
    else:
        output = reference.window_attention(leaves[0], *(x.repeat_interleave(case.heads // x.shape[1], 1) for x in leaves[1:]), w)
    return output.detach(), *torch.autograd.grad(output, leaves, g.double())


def prepared(case: Case, name: str, backward: bool) -> Any:
    try:
        return load(name).prepare(case, backward, fastest)[0]
    except Unsupported as reason:
        assert name != "ours" and str(reason)
        return None


PAIR_ENTRANTS = {"ours", "band_bmm", "sliding_chunks", "dense"}
FUSED_ENTRANTS = {"ours", "explicit", "band_attention", "sliding_chunks", "local_attention", "flex_attention", "sdpa", "sdpa_causal"}
ENTRANTS = {"window": PAIR_ENTRANTS, "unwindow": PAIR_ENTRANTS, "attention": {"ours", "sdpa"}, "fused": FUSED_ENTRANTS}


@pytest.mark.parametrize("op", ENTRANTS)
@pytest.mark.parametrize("name", NAMES)
def test_competitors_are_right(op: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "flex_attention":
        monkeypatch.setattr(torch, "compile", lambda function, **_: function)  # which would take half a minute
    done = 0
    for length, window in SIZES:
        case = Case(op, length, window, **SMALL)
        inputs, g, competitor = case.inputs(), case.output_gradient(), load(name)
        inside = case.inside(0, length)
        for backward in (False, True):
            if (function := prepared(case, name, backward)) is None:
                continue
            done += 1
            call = training(function, inputs, g) if backward else inference(function, inputs)
            check(case, competitor, call, inputs, g)
            for number, (actual, wanted) in enumerate(zip(call(), exact(answered(competitor, case), inputs, g), strict=False)):
                assert actual.shape == wanted.shape
                if number == 0 and op == "window":
                    wanted = wanted.masked_fill(~inside, competitor.OUTSIDE)
                if number == 1 and op == "unwindow" and not competitor.EXACT_OUTSIDE:
                    actual, wanted = actual[..., inside], wanted[..., inside]
                torch.testing.assert_close(actual.double(), wanted, rtol=1e-5, atol=1e-4)
    assert bool(done) == (name in ENTRANTS[op])


def test_all_tilings_of_the_torch_formulation_are_right() -> None:
    from benchmarks.competitors import band_bmm

    case = Case("window", 256, 16, "fp64", **SMALL)
    (q, k), g = case.inputs(), case.output_gradient()
    wanted = exact(case, (q, k), g)
    for block in (16, 32):
        for scratch in (1, 40000, 1 << 24):  # one block at a time, some, all
            tiling = band_bmm.Tiling(16, block, scratch)
            for plan in (band_bmm.Plan(tiling, tiling, tiling), band_bmm.Plan(tiling, tiling, tiling, tiling)):
                actual = training(lambda x, y, plan=plan: band_bmm._Window.apply(x, y, plan), (q, k), g)()
                for one, other in zip(actual, wanted, strict=True):
                    torch.testing.assert_close(one, other)


def middle(x: Tensor) -> Tensor:
    return x[0, 1, x.shape[2] // 2, x.shape[3] // 2]


@pytest.mark.parametrize(("op", "causal"), [("window", False), ("unwindow", False), ("attention", False), ("fused", True)])
@pytest.mark.parametrize("dtype", ["fp32", "fp64", "bf16", "fp16"])
def test_oracle_agrees_with_the_reference_and_sees_one_wrong_number(op: str, causal: bool, dtype: str) -> None:
    case = Case(op, 300, 20, dtype, causal=causal, **SMALL)
    inputs, g = case.inputs(), case.output_gradient()
    right = [x.to(inputs[0].dtype) for x in exact(case, inputs, g)]
    Check(case).run(inputs, right[0], g, tuple(right[1:]))
    for number in range(len(right)):
        wrong = [x.clone() for x in right]
        middle(wrong[number]).add_(0.1 * wrong[number].abs().max())
        with pytest.raises(Wrong, match="output" if number == 0 else "gradient of"):
            Check(case).run(inputs, wrong[0], g, tuple(wrong[1:]))
    lost = [x.clone() for x in right]
    middle(lost[1]).fill_(torch.nan)
    with pytest.raises(Wrong, match="nan"):
        Check(case).run(inputs, lost[0], g, tuple(lost[1:]))


def test_oracle_sees_what_slots_without_a_key_hold() -> None:
    case = Case("window", 64, 8, **SMALL)
    inputs, g = case.inputs(), case.output_gradient()
    output = exact(case, inputs, g)[0].float()
    output[0, 0, 0, 0] = 1.0
    with pytest.raises(Wrong, match="slots without a key"):
        Check(case).run(inputs, output, g)


@pytest.mark.parametrize(("length", "window"), [(10, 0), (10, 3), (64, 16), (7, 7)])
def test_useful_work_is_counted_exactly(length: int, window: int) -> None:
    case = Case("window", length, window, **SMALL)
    pairs = 2 * int(reference.band_mask(window, length, length).sum())
    assert case.pairs == pairs and case.flops(False) == 2 * 8 * pairs and case.flops(True) == 3 * case.flops(False)
    assert case.inside(0, length).sum() * 2 == pairs
    causal = Case("fused", length, window, causal=True, **SMALL)
    pairs = 2 * int(reference.band_mask((window, 0), length, length).sum())
    assert causal.pairs == pairs and causal.flops(False) == 4 * 8 * pairs and causal.flops(True) == 14 * 8 * pairs
    assert causal.sees(0, length, 0, length).sum() * 2 == causal.inside(0, length).sum() * 2 == pairs
    assert window == 0 or Case("decode", length, window - 1, **DECODE).pairs == 4 * window


def test_memory_and_page_faults_are_seen() -> None:
    size = 48 << 20
    growth = memory_growth(lambda: torch.ones(size // 4))
    assert size <= growth < size * 1.2
    timing = time_calls(lambda: torch.ones(size // 4), 0.0)
    assert timing.faults > 16 and len(timing.seconds) == 5  # in huge pages it would be 24


def test_plan_covers_every_cell() -> None:
    plan = jobs(Options())
    cells = {(j.arguments["name"], j.malloc, str(Case(**j.arguments["case"]))) for j in plan if j.task == "cell"}
    for case in pair_cases(2, quick=False):
        for malloc in ("default", "keeps blocks"):
            assert {("ours", malloc, str(case)), ("band_bmm", malloc, str(case)), ("sliding_chunks", malloc, str(case))} <= cells
    for case in (*fused_cases(2, quick=False), *decode_cases(2, quick=False)):
        assert {(name, "default", str(case)) for name in entrants(case, "default")} <= cells
    assert {"cell", "shares", "threads", "options", "overhead"} == {j.task for j in plan}
    assert {j.arguments["name"] for j in jobs(Options(sections=("attention",), patterns=("L4096-w64",)))} == {"ours", "sdpa"}
    assert {j.arguments["name"] for j in jobs(Options(sections=("fused",), patterns=("causal",)))} >= {"ours", "onnxruntime"}


def cell_entry(name: str, seconds: float, spread: float = 0.0, case: Case | None = None) -> dict[str, Any]:
    case = case or Case("window", 4096, 64)
    measured: dict[str, Any] = {"median": seconds, "best": seconds, "spread": spread, "others": 0.0, "gflops": 1.0, "peak_gflops": 9.0}
    measured |= {"growth_bytes": 1, "faults": 0.0, "setting": "", "read_gbytes": 10.0}
    result = {"case": case.to_json(), "name": str(case), "competitor": name, "title": name, "forward": measured}
    return {"task": "cell", "label": name, "malloc": "default", "result": result}


def test_bars_are_judged() -> None:
    def verdicts(ours: float) -> dict[str, str]:
        entries = [cell_entry("ours", ours), cell_entry("band_bmm", 0.020), cell_entry("sliding_chunks", 0.060)]
        return {bar.goal: bar.verdict for bar in bars.bars(entries)}

    fast, slow = verdicts(0.005), verdicts(0.016)
    others = [goal for goal in fast if goal.endswith("malloc default") and not goal.startswith("fused") and "two threads" not in goal]
    ancestor = [goal for goal in fast if "ancestor" in goal]
    assert len(others) == 4 and {fast[goal] for goal in others + ancestor} == {"**met**"}
    assert {slow[goal] for goal in others[:2] + ancestor} == {"**missed**"}
    assert {fast[goal] for goal in fast if "cpu.avx512" in goal or "microseconds" in goal} == {"not measured"}


def test_a_second_reading_counts_only_where_it_is_less_disturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([cell_entry("ours", 0.010, 0.9), cell_entry("ours", 0.011, 0.1)])
    monkeypatch.setattr(session.Workers, "run", lambda self, job: next(readings)["result"])
    job = Job("cell", {}, "ours")
    assert session.run_all([job], 60, lambda line: None)[0]["result"]["forward"]["median"] == 0.011
    readings = iter([cell_entry("ours", 0.010, 0.5), cell_entry("ours", 0.002, 0.9)])
    assert session.run_all([job], 60, lambda line: None)[0]["result"]["forward"]["median"] == 0.010


def test_slope_of_a_power_law() -> None:
    assert plots.slope([(x, 3 * x**1.5) for x in (2.0, 5.0, 90.0)]) == pytest.approx(1.5)


@pytest.mark.long
def test_a_tiny_run_ends_with_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Cells in processes of their own; the one-thread part and the overhead in this one."""
    plan = [
        Job("cell", {"case": Case(op, length, 16, **SMALL).to_json(), "name": name, "seconds": 0.0}, f"{op} {name}")
        for op, length, name in [("window", 64, "ours"), ("attention", 64, "sdpa"), ("fused", 64, "ours")]
    ]
    monkeypatch.setattr(command, "jobs", lambda options: plan)
    monkeypatch.setitem(command.MINUTES, "full", 0)  # no time for repetitions
    assert command.main(["--output", str(tmp_path), "--threads", "1"]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert [set(e["result"]) & {"forward", "forward_backward"} for e in results["entries"]] == [{"forward", "forward_backward"}] * 3

    monkeypatch.setattr(kernels, "LENGTH", 128)
    monkeypatch.setattr(overhead, "CALLS", 2)
    monkeypatch.setattr(options, "LENGTHS", (600, 700))
    monkeypatch.setattr(options, "LEAST", 1)
    results["entries"] += [
        {
            "task": "shares",
            "label": "",
            "malloc": "default",
            "result": kernels.run_shares(["fp32", "bf16"], [16], 1, 0.0, (*PAIR, "fused")),
        },
        {"task": "options", "label": "", "malloc": "default", "result": options.run_options(1, 0.0, quick=False)},
        {"task": "threads", "label": "", "malloc": "default", "result": kernels.run_threads([16], 0.0)},
        {"task": "overhead", "label": "", "malloc": "default", "result": overhead.run_overhead()},
    ]
    results["entries"] += [cell_entry(name, seconds) for name, seconds in (("ours", 0.001), ("sliding_chunks", 0.004))]
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert command.main(["--render", str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text()
    headings = [
        "Goals",
        "The explicit pair, fp32, malloc default",
        "Kernels",
        "Two threads",
        "Fused attention, fp32, malloc default",
        "Speed with an option",
        "Microseconds",
        "Memory",
        "How it was measured",
    ]
    assert all(f"\n## {heading}" in text for heading in headings)
    assert "4.00x" in text and "Sapphire" in capsys.readouterr().out


def test_unknown_cases_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--cases", "w17"]) == 2
    assert "w17" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--threads", "0"], "--threads: got 0, needs at least 1"),
        (["--minutes", "5"], "--minutes is given without --device cuda"),
        (["--resume"], "--resume is given without --device cuda"),
        (["--device", "cuda", "--minutes", "nan"], "--minutes: got nan, needs a number above 0"),
        (["--render", "nowhere"], "--render is nowhere; it needs to be a folder with a results.json"),
        (["--output", "/dev/null/results"], "--output is /dev/null/results; it needs to be a folder that can be written"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_wrong_arguments_are_said_before_anything_is_measured(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert ended.value.code == 2 and says in capsys.readouterr().err
