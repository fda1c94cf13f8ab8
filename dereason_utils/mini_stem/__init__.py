"""`mini_stem`: STEM problems with a known number of dependent steps, and a teacher who solves them."""

from dereason_utils.mini_stem.generate import (
    FAMILIES,
    JUDGE_FAMILIES,
    MAX_STEPS,
    NUMBERS,
    generate,
    generate_judge_calibration,
    rebuild,
    split_of,
)
from dereason_utils.mini_stem.teacher import solve

__all__ = [
    "FAMILIES",
    "JUDGE_FAMILIES",
    "MAX_STEPS",
    "NUMBERS",
    "generate",
    "generate_judge_calibration",
    "rebuild",
    "solve",
    "split_of",
]
