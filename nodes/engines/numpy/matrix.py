"""Shell. A weight matrix, laid out for few rows at a time, and products that do not depend on who else is in them.

Decoding multiplies 1 to some ten rows with matrices that fit in no cache. BLAS first copies such a matrix into its own
order, which costs more than the product, unless the product is small; so the matrix is kept as panels of 64 columns,
each small enough to be taken as it is (eight rows are 2 to 5 times as fast for it; one row or hundreds cost the same).

BLAS also rounds a row differently depending on how many rows stand beside it. `exact` products therefore always have
the same shape, TILE rows times one panel, padded with zeros. Whether a place within the tile matters is not
documented, so `agrees` tries it out; where it does, a tile is one row.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
PANEL = 64  # columns
TILE = 8  # rows
SMALL_PRODUCT = 1_000_000  # above so many multiplications OpenBLAS copies
TILED_ROWS_MAX = 48  # more rows pay for the copy


class Matrix:
    """(inputs, outputs), from `weight` (outputs, inputs) as models store it, and perhaps a bias."""

    def __init__(self, weight: Floats, bias: Floats | None = None, tile: int = 0) -> None:
        self.outputs, self.inputs = weight.shape
        count = -(-self.outputs // PANEL)
        self.panels = np.zeros((count, self.inputs, PANEL), np.float32)
        whole = self.outputs // PANEL
        self.panels[:whole] = weight[: whole * PANEL].reshape(whole, PANEL, self.inputs).transpose(0, 2, 1)
        if whole < count:
            self.panels[whole, :, : self.outputs % PANEL] = weight[whole * PANEL :].T
        self.bias = bias
        self.tile = tile  # rows of an exact product; 0: fast

    def times(self, rows: Floats) -> Floats:
        """(n, inputs) to (n, outputs)."""
        count = len(rows)
        if self.tile:
            product = self._tiled(rows, self.tile)
        elif TILE < count <= TILED_ROWS_MAX and count * PANEL * self.inputs > SMALL_PRODUCT:
            product = self._tiled(rows, TILE)
        else:
            product = np.matmul(rows, self.panels).transpose(1, 0, 2).reshape(count, -1)
        product = product[:, : self.outputs]
        if self.bias is not None:
            product = product + self.bias
        return product

    def columns(self, outputs: NDArray[np.int64]) -> Floats:
        """(n, inputs): what some outputs are made with. A tied embedding is this."""
        return self.panels[outputs // PANEL, :, outputs % PANEL]

    def agrees(self, tile: int) -> bool:
        """Whether on this processor a row's product is the same at each place of the tile, whatever its neighbours."""
        rows = np.random.Generator(np.random.PCG64(0)).standard_normal((tile, self.inputs), np.float32)
        first = self._tiled(rows, tile)
        alone = [self._tiled(rows[place : place + 1], tile)[0] for place in range(tile)]
        rolled = [np.roll(self._tiled(np.roll(rows, by, axis=0), tile), -by, axis=0) for by in range(1, tile)]
        return all(np.array_equal(first, other) for other in [np.stack(alone), *rolled])

    def _tiled(self, rows: Floats, tile: int) -> Floats:
        """All tiles by one panel, then by the next: a panel is read from memory once."""
        count = len(rows)
        tiles = -(-count // tile)
        padded = np.zeros((tiles * tile, self.inputs), np.float32)
        padded[:count] = rows
        product = np.matmul(padded.reshape(1, tiles, tile, self.inputs), self.panels[:, None])
        joined: Floats = product.transpose(1, 2, 0, 3).reshape(tiles * tile, -1)
        return joined[:count]
