"""Columns of a file to float32 features: declared centre and scale for numbers, declared words for categories.

Declared, not estimated, so that no policy knows anything of rows it has not met.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Column = NDArray[np.generic]


def features(
    table: Mapping[str, Column],
    numbers: Mapping[str, tuple[float, float]],
    words: Mapping[str, Sequence[object]],
) -> tuple[tuple[str, ...], NDArray[np.float32]]:
    """Encode a table: a constant, standardised numbers, one column per declared word.

    Parameters
    ----------
    table
        Columns by name, all of one length.
    numbers
        Centre and scale by name.
    words
        Values by name; one that is not declared gets no column.

    Returns
    -------
    names, float32[n, d]

    Examples
    --------
    >>> names, x = features(
    ...     {"age": np.array([30, 50]), "zip": np.array(["a", "b"])}, {"age": (40, 10)}, {"zip": ["a", "b"]}
    ... )
    >>> names, x.tolist()
    (('one', 'age', 'zip=a', 'zip=b'), [[1.0, -1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 1.0]])
    """
    names = ["one"]
    columns = [np.ones(len(next(iter(table.values()))), np.float32)]
    for name, (centre, scale) in numbers.items():
        names.append(name)
        columns.append(((table[name].astype(np.float64) - centre) / scale).astype(np.float32))
    for name, values in words.items():
        for value in values:
            names.append(f"{name}={value}")
            columns.append((table[name] == value).astype(np.float32))
    return tuple(names), np.ascontiguousarray(np.column_stack(columns))
