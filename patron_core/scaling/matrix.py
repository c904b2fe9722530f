"""As much linear algebra as a fit of five parameters needs, without importing an array library. Pure."""

from __future__ import annotations

from collections.abc import Sequence

Vector = tuple[float, ...]
Matrix = tuple[Vector, ...]


def diagonal(values: Sequence[float]) -> Matrix:
    return tuple(tuple(v if i == j else 0.0 for j in range(len(values))) for i, v in enumerate(values))


def times(matrix: Matrix, vector: Sequence[float]) -> Vector:
    return tuple(sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix)


def plus_outer(matrix: Matrix, vector: Sequence[float], weight: float) -> Matrix:
    """matrix + weight v v^T."""
    return tuple(
        tuple(a + weight * v * w for a, w in zip(row, vector, strict=True))
        for row, v in zip(matrix, vector, strict=True)
    )


def quadratic(matrix: Matrix, vector: Sequence[float]) -> float:
    """v^T M v."""
    total = 0.0
    for v, row in zip(vector, matrix, strict=True):
        total += v * sum(map(float.__mul__, row, vector))
    return total


def inverse(matrix: Matrix) -> Matrix:
    """Gauss-Jordan with pivoting; the matrices here are small, symmetric and positive."""
    size = len(matrix)
    rows = [list(row) + [1.0 if i == j else 0.0 for j in range(size)] for i, row in enumerate(matrix)]
    for column in range(size):
        pivot = max(range(column, size), key=lambda r: abs(rows[r][column]))
        rows[column], rows[pivot] = rows[pivot], rows[column]
        scale = rows[column][column]
        rows[column] = [v / scale for v in rows[column]]
        for r in range(size):
            factor = rows[r][column]
            if r != column and factor:
                rows[r] = [v - factor * p for v, p in zip(rows[r], rows[column], strict=True)]
    return tuple(tuple(row[size:]) for row in rows)
