"""tests/python/test_kept_memory.py: results of 32 MiB and more use the memory of those before them: counted in pages, not in seconds."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest
import torch

from child import run

MIB = 2**20
PAGE = 4096
BLOCK = 34 * MIB  # a result of 8192 x 1057 numbers, in whole huge pages
pytestmark = [
    pytest.mark.best_backend,
    pytest.mark.long,  # a process each
    pytest.mark.skipif(torch.__version__ < "2.11", reason="torch lends tensors memory of ours from 2.11 on"),
]

CODE = """
import ctypes, gc, json, os, resource, threading, torch
from window_matmul import RollingCache, release_memory, window_softmax

ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: each page that is touched first is a fault
torch.set_num_threads(1)
kept = torch.ops.window_matmul._kept_bytes
said = {}

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

def softmax(a):
    return window_softmax(a, 528)

def faults(work):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    work()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

a = torch.linspace(-3, 3, 8192 * 1057).view(8192, 1057)
"""

LOOP = """
said["faults"] = [faults(lambda: softmax(a)) for _ in range(4)]
said["kept"] = kept()
first, held = softmax(a), softmax(a)
two = first.clone()
said["kept_while_held"] = kept()
view = held[5, 500:600]
was = view.clone()
del first, held
other = softmax(a.flip(0))
said["view_is_untouched"] = torch.equal(view, was) and view.data_ptr() != other[5, 500:600].data_ptr()
del view, other
said["same_again"] = torch.equal(softmax(a), two)
said["after_two"] = kept()
before = resident()
said["released"] = release_memory()
said["resident_less"] = before - resident()
said["after_release"] = kept()
x = softmax(a)
worker = threading.Thread(target=lambda box: box.clear(), args=([x],))
del x
worker.start(), worker.join()
said["dropped_elsewhere"] = kept()
longer = window_softmax(torch.zeros(3 * 8192, 1057), 528)
said["after_a_larger_one"] = kept()
try:
    longer.resize_(4 * 8192, 1057)
except RuntimeError as error:
    said["resize"] = str(error)
del longer
if (child := os.fork()) == 0:
    os._exit(0 if torch.equal(softmax(a), two) else 1)
said["child"] = os.waitpid(child, 0)[1]
print(json.dumps(said))
"""

BOUND = """
pair = softmax(a), softmax(a)
del pair
said["kept"] = kept()
said["faults"] = [faults(lambda: softmax(a)) for _ in range(3)]
print(json.dumps(said))
"""


CACHES = """
for _ in range(2):  # the second takes what the first has left
    cache = RollingCache(1, 8, 64, (17 * 1024 - 1, 0))
    state = cache.state_dict()
    said["zeros"] = not state["keys"].any() and not state["values"].any()
    cache.load_state_dict(state | {"keys": state["keys"] + 1, "values": state["values"] + 1})
    del cache
    said["kept"] = kept()
print(json.dumps({name: int(x) for name, x in said.items()}))
"""


@functools.cache
def said(code: str = LOOP, **environment: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(CODE + code, **environment))
    return found


def test_a_loop_faults_its_pages_in_once() -> None:
    first, *_, last = said()["faults"]
    assert first >= BLOCK // PAGE * 0.9  # each page but those around it
    assert last < first / 20
    assert said()["kept"] == BLOCK


def test_memory_in_use_is_nobody_elses() -> None:
    assert said()["kept_while_held"] == 0
    assert said()["view_is_untouched"] and said()["same_again"]
    assert said()["after_two"] == 2 * BLOCK  # the view's, and the other result's


def test_release_gives_it_back() -> None:
    assert said()["released"] == 2 * BLOCK
    assert said()["resident_less"] >= 1.9 * BLOCK
    assert said()["after_release"] == 0


def test_any_thread_may_drop_a_result() -> None:
    assert said()["dropped_elsewhere"] == BLOCK


def test_what_fits_no_result_is_given_back_first() -> None:
    assert said()["after_a_larger_one"] == 0


def test_a_forked_child_computes() -> None:
    assert said()["child"] == 0


def test_caches_lie_there_too() -> None:
    """8 heads of 17,408 tokens x 64 numbers are a block, of keys and of values; a new cache is empty, whatever was written before."""
    assert said(CACHES) == {"zeros": 1, "kept": 2 * BLOCK}


def test_such_results_cannot_be_resized() -> None:
    assert "not resizable" in said()["resize"]


def test_the_variable_bounds_it() -> None:
    assert said(BOUND, WINDOW_MATMUL_KEEP_MIB="50")["kept"] == BLOCK


def test_the_variable_turns_it_off() -> None:
    off = said(BOUND, WINDOW_MATMUL_KEEP_MIB="0")
    assert off["kept"] == 0


def test_a_wrong_variable_is_named() -> None:
    code = """
    import os, sys, torch, window_matmul
    for os.environ["WINDOW_MATMUL_KEEP_MIB"] in sys.argv[1:]:  # read once in a process
        if os.fork() == 0:
            try:
                window_matmul.window_softmax(torch.zeros(8192, 1057), 528)
            except ValueError as error:
                print(error, flush=True)
            os._exit(0)
        os.wait()
    """
    values = "", "many", "-1", "1.5", "99999999999999"
    need = [f"WINDOW_MATMUL_KEEP_MIB is '{value}'; it needs to be a number of MiB, at least 0" for value in values]
    assert run(code, *values).splitlines() == need
