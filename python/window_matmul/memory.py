# python/window_matmul/memory.py: gives back the memory that is kept for large results.
import torch


def release_memory() -> int:
    """Gives the memory of dropped results on the CPU back to the system, and returns how many bytes that were.

    Results of 32 MiB and more, and keys and values of caches, lie in memory that is kept when they are dropped, and used for the next ones
    of the same size: malloc would give it back, and the system clear its pages anew at each step of a training loop. What is kept is at
    most a quarter of the machine's memory, or `WINDOW_MATMUL_KEEP_MIB`, where 0 keeps nothing; and the system takes it where memory is
    short.

    >>> release_memory()
    0
    """
    released: int = torch.ops.window_matmul._give_back()
    return released
