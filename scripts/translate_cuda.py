#!/usr/bin/env python3
# scripts/translate_cuda.py: has ptxas translate the PTX of an object for GPUs that it holds no code for, so that their code can be checked.
"""translate_cuda.py --object FILE --fat-binary FILE -- NVCC ARGUMENT...

A developer's build compiles for few GPUs, and PTX for all others. This makes their code of it, which is what a build for all of them holds,
and FILE.ptxas beside the fat binary: both as scripts/check_cuda_kernels.py reads them.
"""

import argparse
import sys
from pathlib import Path

import compile_cuda
import cuda_code


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--object", type=Path, required=True)
    parser.add_argument("--fat-binary", type=Path, required=True)
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    target: Path = arguments.fat_binary
    ((_, text),) = cuda_code.entries_of(arguments.object, cuda_code.FAT_PTX)
    ptx = target.with_suffix(".ptx")
    ptx.write_bytes(text.rstrip(b"\0"))
    code, said = compile_cuda.compile_to([*arguments.command, str(ptx)], target)
    warnings = compile_cuda.warnings_of(target) if code == 0 else []
    return compile_cuda.fail(target, code or 1, said, may_fail=False) if code or warnings else 0


if __name__ == "__main__":
    sys.exit(main())
