"""Find images of the same photo: copies with the same bytes, and images that look alike."""

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise

import numpy as np
from jaxtyping import Int, UInt8, UInt32, UInt64
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from jaxage.utils.text import quoted

NEAR = 8
"""Two images show the same photo if at most this many of the 128 bits of their fingerprints differ.

On UTKFace (23,090 faces) 416 pairs outside its own groups differ in up to 8 bits. All of the 32 pairs that were
inspected showed one photo, cropped, colored or compressed again. From 9 bits on most pairs show two people.
"""

Fingerprint = UInt64[np.ndarray, "2"]
Pairs = Int[np.ndarray, "pairs 2"]
"""Rows of two images, the smaller row first."""

Keys = UInt32[np.ndarray, " n"]
"""Some of the bits of each fingerprint."""

_GRID = 8
_PARTS = 5
_BLOCK = 2**18


def fingerprint(pixels: UInt8[np.ndarray, "size size 3"]) -> Fingerprint:
    """A difference hash of 128 bits: whether each of 8x8 cells is darker than the next one to the right and below."""
    gray = Image.fromarray(pixels).convert("L")
    across = np.asarray(gray.resize((_GRID + 1, _GRID), Image.Resampling.BOX))
    down = np.asarray(gray.resize((_GRID, _GRID + 1), Image.Resampling.BOX))
    bits = np.stack([across[:, 1:] > across[:, :-1], down[1:] > down[:-1]])
    return np.packbits(bits.reshape(2, -1), axis=1).view(np.uint64)[:, 0]


def near_pairs(fingerprints: UInt64[np.ndarray, "n 2"], pool: ThreadPoolExecutor) -> Pairs:
    """All pairs of fingerprints that differ in at most `NEAR` bits, in ascending order.

    The bits are dealt into five parts. Of at most 8 differing bits, some part has at most one (multi-index hashing,
    Norouzi, Punjani and Fleet 2012): only pairs with such a part are compared.
    """
    n = len(fingerprints)
    if n < 2:
        return np.empty((0, 2), np.int64)
    bits = np.unpackbits(np.ascontiguousarray(fingerprints).view(np.uint8), axis=1)
    keys = [_as_numbers(bits[:, part::_PARTS]) for part in range(_PARTS)]
    found = np.unique(np.concatenate(list(pool.map(partial(_pairs_of_part, fingerprints), keys))))
    return np.stack(np.divmod(found, n), axis=1)


def _as_numbers(bits: UInt8[np.ndarray, "n bits"]) -> Keys:
    whole = np.zeros((len(bits), 32), np.uint8)
    whole[:, : bits.shape[1]] = bits
    return np.packbits(whole, axis=1, bitorder="little").view(np.uint32)[:, 0]


def _pairs_of_part(fingerprints: UInt64[np.ndarray, "n 2"], keys: Keys) -> Int[np.ndarray, " pairs"]:
    """The near pairs whose keys differ in at most one bit, each as first row x n + second row."""
    order = np.argsort(keys, kind="stable")
    values, starts = np.unique(keys[order], return_index=True)
    ends = np.append(starts[1:], len(keys))
    group = np.repeat(np.arange(len(values)), ends - starts)  # of each place in the order
    places, in_order = np.arange(len(keys)), fingerprints[order]
    found = [_near(in_order, order, places, places + 1, ends[group])]
    for bit in range(-(-128 // _PARTS)):
        flipped = values | np.uint32(1 << bit)
        other = np.minimum(np.searchsorted(values, flipped), len(values) - 1)
        is_pair = (values[other] == flipped) & (values != flipped)
        here = places[is_pair[group]]
        other = other[group[here]]
        found.append(_near(in_order, order, here, starts[other], ends[other]))
    return np.concatenate(found)


def _near(
    in_order: UInt64[np.ndarray, "n 2"],
    order: Int[np.ndarray, " n"],
    places: Int[np.ndarray, " places"],
    begins: Int[np.ndarray, " places"],
    ends: Int[np.ndarray, " places"],
) -> Int[np.ndarray, " pairs"]:
    """Of the pairs (place, begin) to (place, end - 1) of places in the order, those that are near, as rows."""
    sizes = ends - begins
    blocks = np.flatnonzero(np.diff(np.cumsum(sizes) // _BLOCK, prepend=-1))
    found = [np.empty(0, np.int64)]
    for first, last in pairwise([*blocks.tolist(), len(places)]):
        size = sizes[first:last]
        left = np.repeat(places[first:last], size)
        right = np.arange(len(left)) + np.repeat(begins[first:last] - np.cumsum(size) + size, size)
        near = np.bitwise_count(in_order[left] ^ in_order[right]).sum(1, dtype=np.uint8) <= NEAR
        rows = np.sort(np.stack([order[left[near]], order[right[near]]]), axis=0)
        found.append(rows[0] * len(order) + rows[1])
    return np.concatenate(found)


def join(identity: Sequence[str], paths: Sequence[str], pairs: Pairs) -> list[str]:
    """Give the rows of every pair, and of pairs that share a row or an identity, the same identity.

    It is the alphabetically first of the identities that were joined, or of the paths if no row has an identity.

    Args:
        identity: The identity of every row, "" if unknown.
        paths: The path of every row.
        pairs: The rows to join.
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
    """The rows to drop because another row has the same bytes, with the reason.

    If all copies have the same age, the first one stays. Otherwise none stays: an age must be wrong, and nobody knows
    which one.

    Args:
        digests: The hash of every row's file.
        paths: The path of every row.
        ages: The age of every row.
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
            reasons |= dict.fromkeys(rows[1:], f"a copy of {quoted(paths[rows[0]])}")
    return reasons
