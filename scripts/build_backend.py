# scripts/build_backend.py: the hooks that pip, uv and build call: scikit-build-core's, and a wheel that states the glibc it needs.
"""A wheel tagged linux_x86_64 installs everywhere and then may not load. What the compiler of this machine made it need is known only
when it is built: the newest symbol version of glibc in its libraries. That becomes the tag, manylinux_2_34_x86_64 for 2.34, which every
installer compares with the machine. libtorch_cpu.so, which the libraries need too, comes with torch, on which the package depends.
"""

from __future__ import annotations

import base64
import hashlib
import re
import zipfile
from pathlib import Path

from scikit_build_core import build as _hooks
from scikit_build_core.build import (  # noqa: F401
    build_editable,
    build_sdist,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)


def needed_glibc(binary: bytes) -> int:
    """34 for glibc 2.34; 0 where it needs none. The names of symbol versions are strings of the ELF file."""
    return max((int(minor) for minor in re.findall(rb"\0GLIBC_2\.(\d+)(?=[\0.])", binary)), default=0)


def record_line(name: str, content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(content)}"


def retag(wheel: Path, platform: str, tag: str) -> Path:
    """The same wheel with another platform in its name and metadata."""
    target = wheel.with_name(wheel.name.replace(platform, tag))
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        (name,) = (name for name in old.namelist() if name.endswith(".dist-info/WHEEL"))
        says = old.read(name).replace(f"-{platform}".encode(), f"-{tag}".encode())
        for item in old.infolist():
            content = says if item.filename == name else old.read(item)
            if item.filename.endswith(".dist-info/RECORD"):
                content = re.sub(rf"(?m)^{re.escape(name)},.*$", record_line(name, says), content.decode()).encode()
            new.writestr(item, content)
    wheel.unlink()
    return target


def build_wheel(
    wheel_directory: str, config_settings: dict[str, list[str] | str] | None = None, metadata_directory: str | None = None
) -> str:
    wheel = Path(wheel_directory, _hooks.build_wheel(wheel_directory, config_settings, metadata_directory))
    with zipfile.ZipFile(wheel) as archive:
        binaries = (archive.read(name) for name in archive.namelist() if "/lib/" in name or "/bin/" in name)
        glibc = max(map(needed_glibc, binaries), default=0)
    platform = re.search(r"linux_\w+(?=\.whl$)", wheel.name)
    if not glibc or not platform or "manylinux" in wheel.name:
        return wheel.name
    return retag(wheel, platform[0], f"many{platform[0].replace('linux_', f'linux_2_{glibc}_')}").name
