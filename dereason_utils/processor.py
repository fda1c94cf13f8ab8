"""The computer's processor: its name, and its kind of matrix products, which decides their speed and their rounding."""

import platform
import re
from collections.abc import Collection
from pathlib import Path

# By the flag of /proc/cpuinfo, the fastest first. oneDNN multiplies in bfloat16 with all but AVX2.
PRODUCTS = {
    "amx_bf16": "AMX",
    "avx512_bf16": "AVX-512 with bfloat16",
    "avx512f": "AVX-512",
    "avx2": "AVX2",
}
BFLOAT16 = {"amx_bf16", "avx512_bf16"}  # of these, instructions for bfloat16


def info() -> tuple[str, frozenset[str]]:
    """(name, flags) as /proc/cpuinfo has them; elsewhere the machine's type and no flags."""
    file = Path("/proc/cpuinfo")
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    name = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    flags = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return name[1] if name else platform.machine(), frozenset(flags[1].split() if flags else ())


def kinds(flags: Collection[str]) -> list[str]:
    """Its kinds of products, the fastest first."""
    return [kind for flag, kind in PRODUCTS.items() if flag in flags]


def described(name: str, flags: Collection[str]) -> str:
    """'AMD EPYC, AVX2'."""
    return ", ".join([name, *kinds(flags)[:1]])
