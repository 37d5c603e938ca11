"""GPUs by name, and how many of them."""

import re
from dataclasses import dataclass

from sercache.errors import SercacheError, did_you_mean

TFLOPS = {
    "A10": 125.0,
    "A100": 312.0,
    "A6000": 155.0,
    "B200": 2250.0,
    "H100": 989.0,
    "H200": 989.0,
    "L4": 121.0,
    "L40S": 362.0,
    "MI300X": 1307.0,
    "RTX3090": 71.0,
    "RTX4090": 165.0,
    "T4": 65.0,
    "V100": 125.0,
}
"""Dense bfloat16 TFLOP/s as their makers publish them (of T4 and V100: float16); no sparsity."""


@dataclass(frozen=True, slots=True)
class Gpus:
    """So many GPUs of one kind."""

    count: int
    kind: str

    def __str__(self) -> str:
        return f"{self.count} x {self.kind}"

    @property
    def flops(self) -> float:
        """Published FLOP/s of one."""
        return TFLOPS[self.kind] * 1e12


def parse_gpus(text: str) -> Gpus:
    """Return what ``8xA100`` means.

    >>> parse_gpus("8xA100"), parse_gpus("h100")
    (Gpus(count=8, kind='A100'), Gpus(count=1, kind='H100'))

    Raises:
        SercacheError: no such GPU is known.
    """
    match = re.fullmatch(r"(?:(\d+)\s*x\s*)?([a-z][a-z0-9]*)", text.strip().lower().replace("-", ""))
    kinds = {kind.lower(): kind for kind in TFLOPS}
    if match is None or int(match[1] or 1) < 1 or match[2] not in kinds:
        hint = did_you_mean(match[2].upper(), TFLOPS) if match else ""
        raise SercacheError(f"--gpus {text}: write 8xA100; known are {', '.join(TFLOPS)}.{hint}")
    return Gpus(int(match[1] or 1), kinds[match[2]])
