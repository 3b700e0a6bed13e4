"""tests/python/doors/test_without_torch.py: what needs no torch imports none, and whoever imports both has the operators, in either order.

Processes of their own, since this one has torch. Most see a torch that is a file of a few lines.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = pytest.mark.best_backend
ROOT = next(path for folder in sys.path if (path := Path(folder, "window_matmul", "lib")).exists()).parents[1]
NO_TORCH = "import sys; sys.modules['torch'] = None\n"


def run(code: str, *path: Path, first: str = "") -> str:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (*path, ROOT)))}
    command = [sys.executable, "-W", "error::RuntimeWarning", "-c", first + textwrap.dedent(code)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("first", ["", NO_TORCH], ids=["torch is there", "torch is not there"])
def test_numpy_alone(first: str) -> None:
    said = run(
        """
        import sys
        import numpy as np
        from window_matmul import Window, compat
        from window_matmul.compat import numpy as door
        x = np.arange(1.0, 9.0).reshape(4, 2)
        print(door.window_matmul(x, x.T, Window(1, 1)).tolist())
        print(door.window_attention(x[None, None], x[None, None], x[None, None], (1, 0)).shape)
        assert sys.modules.get("torch") is None
        import window_matmul
        print(window_matmul.__version__, "nn" in dir(window_matmul), hasattr(window_matmul, "__wrapped__"), sys.modules.get("torch"))
        """,
        first=first,
    ).splitlines()
    assert said[0] == str([[0.0, 5.0, 11.0], [11.0, 25.0, 39.0], [39.0, 61.0, 83.0], [83.0, 113.0, 0.0]])
    assert said[1] == "(1, 1, 4, 2)" and said[2].split()[1:] == ["True", "False", "None"]


def test_names_that_need_torch_say_so() -> None:
    said = run(
        """
        import window_matmul
        for name in ("window_attention", "nn", "functional"):
            try:
                getattr(window_matmul, name)
            except ImportError as error:
                print(error)
        try:
            from window_matmul import *
        except ImportError as error:
            print(error)
        """,
        first=NO_TORCH,
    ).splitlines()
    assert len(said) == 4 and all("pip install 'torch>=2.10'" in line for line in said)


def test_torch_that_comes_later_has_the_operators_at_once() -> None:
    """Their schemas, derivatives and shapes; two threads that both want it wait for one another."""
    run(
        """
        import sys, threading
        import window_matmul
        assert "torch" not in sys.modules
        other = threading.Thread(target=lambda: window_matmul.window_softmax)
        other.start()
        import torch
        q = torch.ones(4, 2, requires_grad=True)
        torch.ops.window_matmul.band_out(q, q.mT, 1, 1, [], 0, 0.0).sum().backward()
        torch.ops.window_matmul.band_out(q.detach().to("meta"), torch.empty(2, 4, device="meta"), 1, 1, [], 0, 0.0)
        other.join()
        assert q.grad is not None and window_matmul.window_softmax is window_matmul.functional.window_softmax
        assert not [finder for finder in sys.meta_path if type(finder).__module__.startswith("window_matmul")]
        """
    )


@pytest.mark.parametrize("module", ["_load", "_band.ops", "_attention.ops", "_attention.autograd"])
def test_whatever_of_it_is_imported_first(module: str, tmp_path: Path) -> None:
    """Modules below, of which one imports torch, while the operators are being registered behind that import."""
    (tmp_path / "torch.py").write_text("")
    said = run(
        f"""
        import importlib, sys, types
        import window_matmul._registration as registration
        order = []
        def note(name): order.append((name, name in sys.modules))
        registration.register = lambda: note("window_matmul.{module}")
        try:
            importlib.import_module("window_matmul.{module}")
        except (ImportError, AttributeError):
            pass  # it is no torch
        print(order)
        """,
        tmp_path,
    )
    # False: the module itself was not begun, and is there when it is asked for again. _load may be: nothing asks it for anything then.
    assert said.strip() == str([(f"window_matmul.{module}", module == "_load")])


def test_a_torch_that_the_operators_do_not_fit_is_imported_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("class V(str):\n    __lt__ = lambda self, other: True\n__version__ = V('2.4.0')\n")
    run(
        """
        import importlib.util, sys, warnings
        import window_matmul
        assert importlib.util.find_spec("torch") is not None  # to ask is not to import
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            import torch
        assert torch.__version__ == "2.4.0", torch
        assert [str(w.message)[:51] for w in said] == ["the operators of window_matmul are not registered: "], said
        """,
        tmp_path,
    )


def test_a_torch_that_fails_is_waited_for_again(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("import sys\nif not hasattr(sys, 'again'):\n    sys.again = True\n    raise OSError('broken')\n")
    run(
        """
        import sys
        import window_matmul, window_matmul._registration as registration
        called = []
        registration.register = lambda: called.append(1)
        try:
            import torch
        except OSError:
            assert not called
        import torch
        assert called == [1]
        """,
        tmp_path,
    )


def test_reloading_watches_once() -> None:
    run(
        """
        import importlib, sys
        import window_matmul
        importlib.reload(window_matmul)
        assert [type(finder).__name__ for finder in sys.meta_path].count("_Watch") == 1
        """
    )
