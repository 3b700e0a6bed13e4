# benchmarks/ranks/report.py: what was seen, what the model says of it, and what it says of runs that nobody has seen.
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ..bar import Bar, at_least, at_most
from ..markdown import table
from .cases import CAUSAL, METHOD_NAMES, THE_BAR, THE_FREE, USUAL, RankCase
from .methods import METHODS
from .model import Cost, Machine, agreement_rounds, case_of, fitted, predicted, seen
from .network import Wire

Entry = dict[str, Any]
FAST = Wire(25.0, 0.05)
LENGTHS, RANKS = (10**6, 10**7, 10**8), (8, 64, 1024)


def render(results: dict[str, Any]) -> str:
    entries = results["entries"]
    machine = fitted(entries) if any(entry["fitted"] for entry in entries) else None
    parts = ["# Attention over ranks", _how(results), _goals(bars(entries)), _seen(entries)]
    if machine is not None:
        parts += [_fit(machine, entries), _beyond(machine)]
    return "\n\n".join(parts) + "\n"


def bars(entries: Sequence[Entry]) -> list[Bar]:
    found = {entry["case"]["method"]: seen(entry) for entry in entries if entry["run"] == THE_BAR}
    halo, gather = found.get("halo"), found.get("gather")
    share = None if halo is None else 100 * halo.share
    ratio = None if halo is None or gather is None else gather.exposed / max(halo.exposed, 1e-6)
    where = f"4 processes, L 65536, window 512, {USUAL}"
    return [
        at_most(f"{where}: exposed communication at most 10 % of a step", 10.0, share, "{:.1f} %"),
        at_least(f"{where}: all-gather of K and V exposes at least 3 times as much", 3.0, ratio, "{:.0f} times"),
    ]


def _how(results: dict[str, Any]) -> str:
    facts = table(["", ""], results["machine"].items())
    reasons = {entry["loopback"] for entry in results["entries"]} - {""}
    network = "; ".join(reasons) or "a namespace for each rank, with the bandwidth for itself, both ways at once; the delay is one way's"
    return f"""A step is `window_attention` forward and backward: B = 1, 8 heads, d = 64, fp32, one thread a process. Times are of the
slowest rank, medians of steps that take turns with the same computation without communication ("alone"): one call on numbers that are
already there. All that a step takes longer counts as exposed communication: waiting for the wire, handing bytes to it, the agreement,
computing in pieces, and waiting for ranks that come later. Where processes share a core, computing takes so many times longer in both: on
machines of their own, shares would be larger, by that factor at most.

Processes have a malloc that keeps big blocks, as allocators of training do, but where "default malloc" is said: glibc's gives what is
larger than 32 MiB back to the system at once, and each new block's pages are faulted in again.

Network: {network}.

{facts}"""


def _goals(found: Sequence[Bar]) -> str:
    return "## Goals\n\n" + table(["goal", "seen", ""], [(bar.goal, bar.seen, bar.verdict) for bar in found])


def _of_the_wire(entries: Sequence[Entry]) -> str:
    """The narrower count: what the same step takes longer than on a wire without limits."""
    steps = {(entry["run"], entry["case"]["method"]): seen(entry).step for entry in entries}
    lines = [
        [METHODS[name].title, *(f"{steps[run, name] * 1e3:.0f}" for run in (THE_FREE, THE_BAR)), _share_of_wire(steps, name)]
        for name in METHOD_NAMES
        if (THE_FREE, name) in steps and (THE_BAR, name) in steps
    ]
    if not lines:
        return ""
    return "The same steps on a wire without limits:\n\n" + table(["", "no limits, ms", f"{USUAL}, ms", "of a step"], lines) + "\n\n"


def _share_of_wire(steps: dict[tuple[str, str], float], name: str) -> str:
    return f"{100 * (1 - steps[THE_FREE, name] / steps[THE_BAR, name]):.1f} %"


def _seen(entries: Sequence[Entry]) -> str:
    lines = []
    for entry in entries:
        case = case_of(entry)
        lines.append([*_names(entry, case), *_cost(seen(entry)), _mega(max(entry["payload"])), _mega(max(entry["sent"]))])
    header = ["ranks, network", "L, window", "", "alone, ms", "exposed, ms", "of a step", "to send, MB", "sent, MB"]
    wires = {(entry["run"], *entry["wire seen"]) for entry in entries if entry["wire seen"]}
    probed = "; ".join(f"{run}: {trip:.2f} ms, {way:.2f} and {both:.2f} Gbit/s" for run, trip, way, both in sorted(wires))
    return f"""## Measured

Two ranks alone on the wire saw, a byte there and back, many one way, and many both ways at once: {probed}.

{_of_the_wire(entries)}To send: the bytes of tensors, of the rank that has most. Sent: those that its device counted, headers, answers and
barriers included.

{table(header, lines)}"""


def _fit(machine: Machine, entries: Sequence[Entry]) -> str:
    lines, errors = [], {True: [0.0], False: [0.0]}
    for entry in entries:
        case, step = case_of(entry), seen(entry).step
        model = predicted(machine, case, Wire(**entry["wire"]), entry["cores"])
        errors[entry["fitted"]].append(abs(model.step / step - 1))
        off = f"{100 * (model.step / step - 1):+.0f} %"
        fit = "fitted" if entry["fitted"] else ""
        lines.append([*_names(entry, case), f"{step * 1e3:.0f}", f"{model.step * 1e3:.0f}", off, *_cost(model)[1:], fit])
    numbers = ", ".join(f"{name} {value:.3g}" for name, value in asdict(machine).items())
    header = ["ranks, network", "L, window", "", "step, ms", "model, ms", "off by", "exposed, ms", "of a step", ""]
    return f"""## Model

`benchmarks/ranks/model.py` has it; fitted, in seconds: {numbers}. Steps are off by at most {100 * max(errors[True]):.0f} % in the runs that
it was fitted on, by at most {100 * max(errors[False]):.0f} % in the others.

{table(header, lines)}"""


def _beyond(machine: Machine) -> str:
    """Ranks on machines of their own; the halo without its agreement too."""
    lines = []
    for wire in (USUAL, FAST):
        for length in LENGTHS:
            for ranks in RANKS:
                costs = {name: _far(machine, name, ranks, length, wire) for name in METHOD_NAMES}
                unchecked = _far(machine, "halo", ranks, length, wire, checked=False)
                shown = [costs["halo"], unchecked, costs["gather"], costs["ulysses"]]
                lines.append([str(wire), f"{length:,}", ranks, _time(costs["halo"].computed), *map(_exposed, shown)])
    header = ["network", "L", "ranks", "computed", "halo", "halo, `check=False`", "all-gather", "all-to-all"]
    return f"""## Beyond what was run

It is assumed that a rank is one core of this processor, alone on its machine; that each has the bandwidth for itself, and that the
delay does not grow, however many there are; that collectives are gloo's, their rounds one after another; that all ranks are equally
fast; that memory suffices for what all-gather keeps (up to {2 * LENGTHS[-1] * 8 * 64 * 4 / 1e9:,.0f} GB of keys and values a layer);
and that all-to-all can cut 8 heads among more than 8 ranks, which it cannot. Then a step with window (511, 0) exposes, by the model:

{table(header, lines)}"""


def _far(machine: Machine, name: str, ranks: int, length: int, wire: Wire, checked: bool = True) -> Cost:
    case = RankCase(name, ranks, length // ranks * ranks, CAUSAL)
    cost = predicted(machine, case, wire, ranks)
    if checked:
        return cost
    agreement = agreement_rounds(ranks) * (wire.milliseconds / 1e3 * machine.delays + machine.round)
    return cost._replace(exposed=max(0.0, cost.exposed - agreement))


def _names(entry: Entry, case: RankCase) -> list[str]:
    where = "loopback" if entry["loopback"] else str(Wire(**entry["wire"]))
    where += ", default malloc" if entry["malloc"] == "default" else ""
    return [f"{case.ranks}, {where}", f"{case.length}, {case.window}", METHODS[case.method].title]


def _cost(cost: Cost) -> list[str]:
    return [f"{cost.computed * 1e3:.0f}", f"{cost.exposed * 1e3:.1f}", f"{100 * cost.share:.1f} %"]


def _exposed(cost: Cost) -> str:
    return f"{_time(cost.exposed)}, {100 * cost.share:.0f} %"


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _mega(size: int) -> str:
    return f"{size / 1e6:.2f}"
