"""How a row of a table is printed."""

from __future__ import annotations

import math


def line(name: str, value: str, floor: str, aim: str, verdict: str = "") -> None:
    print(f"  {name:<66} {value:>16}  floor {floor:<10} aim {aim:<10} {verdict}", flush=True)


def judge(value: float, floor: float | None, aim: float, *, more: bool = False) -> str:
    """Say whether the floor is met, where there is one, and how far the aim is."""
    if math.isnan(value):
        return "NOT MEASURED"
    distance = (aim / value if more else value / aim) if value else 0
    words = ["aim met" if distance <= 1 else f"aim {distance:.2f}x away"]
    if floor is not None:
        met = value >= floor if more else value <= floor
        words.insert(0, "floor met" if met else "FLOOR MISSED")
    return ", ".join(words)


def ms(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.1f}"
