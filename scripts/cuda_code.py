# scripts/cuda_code.py: the machine code of the kernels in what nvcc made, read from the file itself: no disassembler is needed.
"""A fat binary, alone in a file or in an object's section .nv_fatbin: a header, then entries, each PTX or an ELF file for one architecture,
as it is or compressed by zstd, whose library undoes that. In such a file section .text.<kernel> is the kernel's code, 16 bytes an
instruction. The low 12 bits of an instruction are its opcode; of loads and stores the bits 73 to 75 are the size of an access. Opcodes and
fields were found by compiling kernels of known instructions.
"""

import ctypes
import ctypes.util
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

HMMA, DMMA, LDSM, LDGSTS, STG, LDL, STL = 0x23C, 0x23F, 0x83B, 0xFAE, 0x986, 0x983, 0x387
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 8, 6: 16}  # bytes of an access
FAT_MAGIC, ZSTD_MAGIC = struct.pack("<I", 0xBA55ED50), struct.pack("<I", 0xFD2FB528)
FAT_PTX, FAT_ELF = 1, 2  # kinds of entries


class Code(NamedTuple):
    kernel: str  # as mangled
    arch: int
    opcodes: Counter[int]
    stores: Counter[int]  # of global memory, by bytes


def sections(elf: bytes) -> Iterator[tuple[str, bytes]]:
    """Name and contents of each section of a 64-bit little-endian ELF file."""
    (first,) = struct.unpack_from("<Q", elf, 0x28)
    size, count, names = struct.unpack_from("<HHH", elf, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", elf, first + size * n) for n in range(count)]
    for name, kind, _, _, offset, length in headers:
        begin = headers[names][4] + name
        contents = b"" if kind == 8 else elf[offset : offset + length]  # 8: takes no place in the file
        yield elf[begin : elf.index(b"\0", begin)].decode(), contents


def unpacked(frame: bytes, size: int) -> bytes:
    """What zstd made `frame` of: so many bytes."""
    name = ctypes.util.find_library("zstd")
    if name is None:
        raise RuntimeError("the code of the kernels is compressed: reading it needs libzstd")
    zstd = ctypes.CDLL(name)
    zstd.ZSTD_decompress.restype = ctypes.c_size_t
    whole = ctypes.create_string_buffer(size)
    done = zstd.ZSTD_decompress(whole, ctypes.c_size_t(size), frame, ctypes.c_size_t(len(frame)))
    if done != size:
        raise RuntimeError(f"zstd made {done} of {size} bytes: the object is damaged")
    return whole.raw


def entries_of(path: Path, wanted: int) -> Iterator[tuple[int, bytes]]:
    """Architecture and contents of each entry of a kind, of an object or a fat binary."""
    contents = path.read_bytes()
    parts = sections(contents) if contents.startswith(b"\x7fELF") else [(".nv_fatbin", contents)]
    for name, fat in parts:
        if name == ".nv_fatbin":
            yield from entries(fat, wanted)


def entries(fat: bytes, wanted: int) -> Iterator[tuple[int, bytes]]:
    begin = fat.find(FAT_MAGIC)
    while begin >= 0:
        header, length = struct.unpack_from("<HQ", fat, begin + 6)
        entry, end = begin + header, begin + header + length
        while entry < end:
            kind, _, skip, size, packed = struct.unpack_from("<HHIQI", fat, entry)
            (arch,) = struct.unpack_from("<I", fat, entry + 28)
            if kind == wanted:
                contents = fat[entry + skip : entry + skip + (packed or size)]
                is_packed = contents.startswith(ZSTD_MAGIC)
                yield arch, unpacked(contents, struct.unpack_from("<Q", fat, entry + 56)[0]) if is_packed else contents
            entry += skip + size
        begin = fat.find(FAT_MAGIC, end)


def kernels_of(path: Path) -> Iterator[Code]:
    for arch, cubin in entries_of(path, FAT_ELF):
        for section, code in sections(cubin):
            if section.startswith(".text."):
                words = list(struct.iter_unpack("<QQ", code[: len(code) // 16 * 16]))
                opcodes = Counter(low & 0xFFF for low, _ in words)
                stores = Counter(SIZES[high >> 9 & 7] for low, high in words if low & 0xFFF == STG)
                yield Code(section[len(".text.") :], arch, opcodes, stores)
