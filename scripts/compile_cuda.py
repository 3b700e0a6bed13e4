#!/usr/bin/env python3
# scripts/compile_cuda.py: runs nvcc and keeps what ptxas said of each kernel, for scripts/check_cuda_kernels.py.
"""compile_cuda.py --log FILE -- nvcc ARGUMENT..."""

import argparse
import subprocess
import sys
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    done = subprocess.run(arguments.command, capture_output=True, text=True)
    said = done.stdout + done.stderr
    if done.returncode != 0:
        sys.stderr.write(said)
    else:
        arguments.log.write_text(said)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
