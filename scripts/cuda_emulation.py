# scripts/cuda_emulation.py: the tests of the CUDA emulation, linked anew with kernels compiled in another way or from other sources.
"""All but the files with the kernels comes from a build with tests: `cmake --workflow --preset release` makes one in build/release."""

import os
import shlex
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# What the types of kernels are called in the names of tests.
NAMES = {"f64": "float64", "f32": "float32", "tf32": "float32_high", "bf16": "bfloat16", "f16": "float16"}
TYPES = tuple(NAMES)
STEMS = ("emulated", "emulated_attention", "emulated_backward")  # of the files with kernels: stem_type.cpp


def tests_of_kernels(kind: str) -> str:
    """A filter for the tests that run kernels of this type: those of each operator, and of fused attention."""
    name = NAMES[kind]
    tests = f"Cuda/Kernels.*/{name}_*:Cuda/SoftmaxRows.*/{name}:Cuda/Attention*.*/{name}:SplitFactors.*"
    return tests + ("-Cuda/*.*/float32_high*" if kind == "f32" else "")


def link_tests(
    build: Path,
    sources: Path,
    folder: Path,
    flags: list[str],
    types: tuple[str, ...] = TYPES,
    jobs: int = 2,
    stems: tuple[str, ...] = STEMS,
) -> Path:
    """Compiles the kernels of these types from `sources` into `folder`, and links them there with the rest."""
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    names = {f"{stem}_{kind}" for stem in stems for kind in types}
    targets = ("cuda_tests", "cuda_emulation", "test_tools")
    objects = [p for target in targets for p in build.glob(f"CMakeFiles/window_matmul_{target}.dir/**/*.o")]
    others = [p for p in objects if p.name.split(".")[0] not in names]
    if not others:
        raise SystemExit(f"{build} holds no build of the tests; make one: cmake --workflow --preset release")

    def compile_one(name: str) -> Path:
        source, target = sources / f"src/cuda/arch/{name}.cpp", folder / f"{name}.o"
        includes = [f"-I{sources}/include", f"-I{sources}/src"]
        command = [*compiler, "-std=c++20", *flags, *includes, "-c", str(source), "-o", str(target)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
        if done.returncode != 0:
            raise SystemExit(f"{source} does not compile:\n{done.stderr[:2000]}")
        return target

    with ThreadPoolExecutor(jobs) as pool:
        kernels = list(pool.map(compile_one, sorted(names)))
    libraries = [str(build / "libwindow_matmul_core.a"), "-lgtest_main", "-lgtest", "-lpthread"]
    program = folder / "tests"
    subprocess.run([*compiler, *flags, *kernels, *others, *libraries, "-o", program], check=True, capture_output=True)
    return program
