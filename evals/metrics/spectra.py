"""How the variance of latents is spread over dimensions (docs/evaluators.md 5): pure functions of covariances and of sums
of powers, which are mergeable, so that a delete-one-block jackknife costs no second look at the points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import linalg


def correlation(covariance: np.ndarray) -> np.ndarray:
    """Correlation matrix, which is the covariance of standardized points; constant dimensions get zeros."""
    spread = np.sqrt(np.clip(np.diag(covariance), 0, None))
    scale = np.where(spread > 1e-12, 1 / np.maximum(spread, 1e-12), 0.0)
    return covariance * scale[:, None] * scale[None, :]


def _spectrum(matrix: np.ndarray) -> np.ndarray:
    return np.clip(linalg.eigvalsh(matrix), 0, None)


def effective_rank(matrix: np.ndarray) -> float:
    """exp(entropy of s_i / sum s), s = singular values of the centred points = roots of their scatter's eigenvalues."""
    s = np.sqrt(_spectrum(matrix))
    if s.sum() == 0:
        return 0.0
    p = s[s > 0] / s.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def participation_ratio(matrix: np.ndarray) -> float:
    """(sum l)^2 / sum l^2, l = eigenvalues of the covariance."""
    values = _spectrum(matrix)
    return float(values.sum() ** 2 / np.square(values).sum()) if values.any() else 0.0


def first_component_share(matrix: np.ndarray) -> float:
    """Share of the variance in the first principal component."""
    values = _spectrum(matrix)
    return float(values[-1] / values.sum()) if values.any() else 0.0


def collapsed_share(covariance: np.ndarray) -> float:
    """Share of dimensions whose standard deviation is under 1 % of the median one (before standardizing)."""
    spread = np.sqrt(np.clip(np.diag(covariance), 0, None))
    return float((spread < 0.01 * np.median(spread)).mean()) if spread.any() else 1.0


def mean_correlation(matrix: np.ndarray) -> float:
    """Mean absolute correlation between two different dimensions; 0 for a single dimension."""
    d = len(matrix)
    return float((np.abs(matrix).sum() - np.abs(np.diag(matrix)).sum()) / (d * (d - 1))) if d > 1 else 0.0


@dataclass(frozen=True)
class Powers:
    """``sums`` float64 [5, d]: over some points, of z^0 .. z^4 per dimension, z = (x - centre) / scale [d]."""

    sums: np.ndarray
    centre: np.ndarray
    scale: np.ndarray

    def __add__(self, other: Powers) -> Powers:
        return Powers(self.sums + other.sums, self.centre, self.scale)

    def __sub__(self, other: Powers) -> Powers:
        return Powers(self.sums - other.sums, self.centre, self.scale)

    @property
    def mean(self) -> np.ndarray:
        return self.centre + self.scale * self.sums[1] / self.sums[0]

    @property
    def variance(self) -> np.ndarray:
        """Of the population (divided by N): [d]."""
        return self._central(2) * self.scale**2

    def _central(self, order: int) -> np.ndarray:
        """Central moment of z: [d]."""
        raw = self.sums / self.sums[0]
        m = raw[1]
        if order == 2:
            return np.clip(raw[2] - m**2, 0, None)
        if order == 3:
            return raw[3] - 3 * m * raw[2] + 2 * m**3
        return raw[4] - 4 * m * raw[3] + 6 * m**2 * raw[2] - 3 * m**4


def powers(points: np.ndarray, centre: np.ndarray, scale: np.ndarray) -> Powers:
    """Sums of powers of points [M, d]; ``centre`` and ``scale`` near their mean and deviation keep the digits."""
    z = (np.asarray(points, np.float64) - centre) / scale
    square = z * z
    sums = np.stack([np.full(z.shape[1], float(len(z))), z.sum(0), square.sum(0), (square * z).sum(0)])
    return Powers(np.concatenate([sums, np.square(square).sum(0)[None]]), centre, scale)


def skewness(of: Powers) -> np.ndarray:
    """m_3 / m_2^1.5 per dimension [d]; 0 for a constant dimension."""
    second = of._central(2)
    return np.where(second > 1e-24, of._central(3) / np.maximum(second, 1e-24) ** 1.5, 0.0)


def excess_kurtosis(of: Powers) -> np.ndarray:
    """m_4 / m_2^2 - 3 per dimension [d]; 0 for a constant dimension."""
    second = of._central(2)
    return np.where(second > 1e-24, of._central(4) / np.maximum(second, 1e-24) ** 2 - 3, 0.0)


def kl_to_normal(of: Powers) -> np.ndarray:
    """KL(N(m, s^2) || N(0, 1)) = (s^2 + m^2 - 1 - ln s^2) / 2 in nats per dimension [d], m and s^2 those of the
    points; infinite for a constant dimension."""
    variance = of.variance
    with np.errstate(divide="ignore"):
        return 0.5 * (variance + of.mean**2 - 1 - np.log(variance))
