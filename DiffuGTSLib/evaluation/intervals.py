"""Shares with the interval that they deserve: 9 of 10 and 900 of 1000 are both 90 %, and not equally sure."""

from dataclasses import dataclass
from math import nan, sqrt

from scipy.stats import norm

from DiffuGTSLib.errors import InputError

_Z = float(norm.ppf(0.5 + 0.95 / 2))


@dataclass(frozen=True)
class Proportion:
    """So many out of so many, and where the share would lie with endless data.

    Attributes:
        count: How many did.
        total: How many could have.
        low: Lower end of the interval, 0 to 1; NaN when there was none that could.
        high: Upper end.
    """

    count: int
    total: int
    low: float
    high: float

    @property
    def share(self) -> float:
        """Count divided by total; NaN when there was none that could."""
        return self.count / self.total if self.total else nan

    def __str__(self) -> str:
        if not self.total:
            return "n/a (0 of 0)"
        return f"{self.share:.3f} ({self.low:.3f} to {self.high:.3f}; {self.count} of {self.total})"


def wilson(count: int, total: int) -> Proportion:
    """Return a share with its 95 % Wilson score interval.

    Unlike the textbook's p ± 1.96 standard errors it stays within 0 and 1 and has a width at 0 of n and n of n, which
    is where small studies end. Wilson, J. Am. Stat. Assoc. 22, 1927.

    Args:
        count: How many did; 0 to `total`.
        total: How many could have.

    Raises:
        InputError: If the numbers are not as above.
    """
    if not 0 <= count <= total:
        raise InputError(f"Expected a count of 0 to {total}, got {count}.")
    if not total:
        return Proportion(count, total, nan, nan)
    share, weight = count / total, 1 + _Z * _Z / total
    middle = (share + _Z * _Z / (2 * total)) / weight
    half = _Z / weight * sqrt(share * (1 - share) / total + _Z * _Z / (4 * total * total))
    low = 0.0 if count == 0 else middle - half  # exact there; rounding would leave 1e-17
    high = 1.0 if count == total else middle + half
    return Proportion(count, total, low, high)
