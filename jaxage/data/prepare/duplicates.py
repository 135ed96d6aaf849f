"""Images that show the same photo: copies with the same bytes, and others that look alike."""

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Int, UInt8, UInt64
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

NEAR = 8
"""How many of the 128 bits of two fingerprints may differ before they are two photos.

On UTKFace (23,090 faces) 416 pairs outside its own groups differ in up to 8, and all of 32 that were looked at showed
one photo, cropped, colored or compressed anew; from 9 on most show two people.
"""

_GRID = 8
_BLOCK = 2**18


def fingerprint(pixels: UInt8[np.ndarray, "size size 3"]) -> UInt64[np.ndarray, "2"]:
    """Where it gets lighter to the right and downwards, over 8x8 cells: a difference hash of 128 bits."""
    gray = Image.fromarray(pixels).convert("L")
    across = np.asarray(gray.resize((_GRID + 1, _GRID), Image.Resampling.BOX))
    down = np.asarray(gray.resize((_GRID, _GRID + 1), Image.Resampling.BOX))
    bits = np.stack([across[:, 1:] > across[:, :-1], down[1:] > down[:-1]])
    return np.packbits(bits.reshape(2, -1), axis=1).view(np.uint64)[:, 0]


def near_pairs(fingerprints: UInt64[np.ndarray, "n 2"], pool: ThreadPoolExecutor) -> Int[np.ndarray, "pairs 2"]:
    """The rows of every two fingerprints that differ in at most `NEAR` bits, the smaller row first; n^2 work."""
    n = len(fingerprints)
    height = max(1, _BLOCK // max(1, n))

    def pairs(start: int) -> np.ndarray:
        block, rest = fingerprints[start : start + height, None], fingerprints[None, start:]
        differing = np.bitwise_count(block[..., 0] ^ rest[..., 0]) + np.bitwise_count(block[..., 1] ^ rest[..., 1])
        first, second = np.nonzero(differing <= NEAR)
        return np.stack([first, second], axis=1)[first < second] + start

    found = list(pool.map(pairs, range(0, n, height)))
    return np.concatenate(found) if found else np.empty((0, 2), np.int64)


def join(identity: Sequence[str], paths: Sequence[str], pairs: Int[np.ndarray, "pairs 2"]) -> list[str]:
    """The identity of every row after those of each pair are made one, over any number of pairs: the first in the
    alphabet of all that were joined, or of their paths where no row has an identity ("").
    """
    n = len(identity)
    if not n:
        return []
    named = [row for row in range(n) if identity[row]]
    first_of: dict[str, int] = {}
    links = [(row, first_of.setdefault(identity[row], row)) for row in named]
    edges = np.asarray([*links, *pairs.tolist()], np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(edges), bool), tuple(edges.T)), shape=(n, n))
    groups = connected_components(graph, directed=False)[1].tolist()
    members: dict[int, list[int]] = defaultdict(list)
    for row, group in enumerate(groups):
        members[group].append(row)
    joined = list(identity)
    for rows in members.values():
        names = sorted({identity[row] for row in rows} - {""})
        name = names[0] if names else min(paths[row] for row in rows) if len(rows) > 1 else ""
        for row in rows:
            joined[row] = name
    return joined


def copies(digests: Sequence[str], paths: Sequence[str], ages: Sequence[float]) -> dict[int, str]:
    """The rows that must go because another has the same bytes, with the reason.

    Where all have the same age the first stays. Where they have not, none does: one of the ages must be wrong, and
    nobody knows which.
    """
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, digest in enumerate(digests):
        rows_of[digest].append(row)
    reasons: dict[int, str] = {}
    for rows in rows_of.values():
        different = sorted({ages[row] for row in rows})
        if len(different) > 1:
            listed = ", ".join(f"{age:g}" for age in different)
            reasons |= dict.fromkeys(rows, f"copies of this image have the ages {listed}")
        else:
            reasons |= dict.fromkeys(rows[1:], f"a copy of {paths[rows[0]]}")
    return reasons
