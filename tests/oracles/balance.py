"""Selection as the textbooks have it: nginx's smooth weighted round robin, and least connections."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fractions import Fraction


class SmoothRoundRobin:
    """nginx's loop: everybody gains its weight, the highest is chosen and pays the total."""

    def __init__(self, weights: Sequence[int]) -> None:
        self.weights = weights
        self.current = [0] * len(weights)

    def pick(self, among: Collection[int]) -> int:
        for index in among:
            self.current[index] += self.weights[index]
        best = min(among, key=lambda index: (-self.current[index], index))
        self.current[best] -= sum(self.weights[index] for index in among)
        return best


def least_loaded(loads: Sequence[int], weights: Sequence[int], among: Collection[int]) -> set[int]:
    """All that may be picked: the lowest load for its weight."""
    shares = {index: Fraction(loads[index], weights[index]) for index in among}
    return {index for index, share in shares.items() if share == min(shares.values())}
