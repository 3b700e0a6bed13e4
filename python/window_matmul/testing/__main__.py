# python/window_matmul/testing/__main__.py: `python -m window_matmul.testing gpu`: checks this machine's GPU, from the installed package.
import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .program import check_device, check_small


def minutes(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"got {value}, needs a number above 0")
    return value


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m window_matmul.testing", description="Check the kernels of this machine's GPU.")
    commands = parser.add_subparsers(dest="command", required=True)
    gpu = commands.add_parser("gpu", help="everything; exit status 0 only if all that must run ran and passed")
    gpu.add_argument("--out", type=Path, default=Path("gpu-check"), metavar="DIR", help="for gpu.json and gpu.md (default: %(default)s)")
    gpu.add_argument("--minutes", type=minutes, default=8.0, help="after which it ends in any case (default: %(default)s)")
    gpu.add_argument("--resume", action="store_true", help="in pieces: go on with what DIR holds; exit status 4 while there is more to do")
    gpu.add_argument("--device", default="cuda", help="cuda, cuda:1; cpu to try the program itself (default: %(default)s)")
    gpu.add_argument("--seed", type=int, default=0, help="of all inputs (default: %(default)s)")
    gpu.add_argument("--quick", action="store_true", help="fewer and smaller cases")
    small = commands.add_parser("small", help="a few calls of every operator, to be run under compute-sanitizer")
    small.add_argument("--device", default="cuda")
    given = parser.parse_args(arguments)
    if given.command == "small":
        return check_small(given.device)
    return check_device(given.device, given.out, given.minutes, not given.quick, given.seed, given.resume)


if __name__ == "__main__":
    sys.exit(main())
