"""Shapes with soft edges, and paint: `drawing` draws faces with them. All numbers are float32, colors are in 0-1."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Num

Field = Num[np.ndarray, "..."]
"""A number for each pixel of n pictures: (n, height, width), or an array that broadcasts to it."""

Number = Num[np.ndarray, "..."] | float | int
"""A field, or one number for all pixels."""

Color = Num[np.ndarray, "3 _ 1 1"]
"""RGB, (3, n, 1, 1), or (3, 1, 1, 1) for all pictures."""

Picture = Num[np.ndarray, "3 _ _ _"]
"""RGB, (3, n, height, width)."""

Paint = Num[np.ndarray, "3 _ _ _"]
"""A color for each pixel, or an array that broadcasts to it."""


@dataclass(frozen=True)
class Grid:
    """Coordinates of every pixel, right and down, and the width of one."""

    x: Field
    y: Field
    pixel: float


def rgb(red: Number, green: Number, blue: Number) -> Color:
    """One color for all pictures."""
    return np.array([red, green, blue], np.float32)[:, None, None, None]


def pick(palette: Sequence[Sequence[float]], where: Num[np.ndarray, " n"]) -> Color:
    """Colors between neighbors of the palette, for positions (n,) in 0-1."""
    points = np.linspace(0, 1, len(palette))
    channels = zip(*palette, strict=True)
    return np.array([np.interp(where, points, channel) for channel in channels], np.float32)[..., None, None]


def mix(a: Field, b: Field, share: Number) -> Field:
    """`a` where the share is 0, `b` where it is 1."""
    return a + (b - a) * share


def paint(picture: Picture, color: Paint, mask: Field) -> None:
    """Cover the picture, in place, where the mask is 1."""
    change = color - picture
    change *= mask
    picture += change


def soft(distance: Field, width: Number) -> Field:
    """1 inside, where the distance is negative, and 0 outside, with a ramp of `width` between."""
    return np.clip(0.5 - distance / width, 0, 1)


def rise(value: Field, middle: Number, width: Number) -> Field:
    """0 below the middle, 1 above, with a ramp of twice `width` between."""
    return np.clip(0.5 + (value - middle) / (2 * width), 0, 1)


def window(value: Field, low: Number, high: Number, width: Number) -> Field:
    """1 from low to high, with ramps of `width` inside."""
    return np.clip((value - low) / width, 0, 1) * np.clip((high - value) / width, 0, 1)


def distance(grid: Grid, x: Number, y: Number, wide: Number, high: Number) -> Field:
    """Approximate distance of each point from an ellipse; negative inside."""
    return (np.hypot((grid.x - x) / wide, (grid.y - y) / high) - 1) * np.minimum(wide, high)


def ellipse(grid: Grid, x: Number, y: Number, wide: Number, high: Number, blur: Number = 0) -> Field:
    """An ellipse with these half axes."""
    return soft(distance(grid, x, y, wide, high), 1.5 * grid.pixel + blur)


def box(grid: Grid, x: Number, y: Number, wide: Number, high: Number) -> Field:
    """A rectangle with these half sides."""
    return soft(np.maximum(np.abs(grid.x - x) - wide, np.abs(grid.y - y) - high), 1.5 * grid.pixel)


def glow(grid: Grid, x: Number, y: Number, radius: Number) -> Field:
    """A Gaussian spot."""
    return np.exp(-((grid.x - x) ** 2 + (grid.y - y) ** 2) / (2 * radius**2))


def stroke(grid: Grid, offset: Field, thick: Number, x: Number, reach: Number) -> Field:
    """A line where `offset` is 0, from x - reach to x + reach, thinner towards its ends."""
    along = np.clip(1 - ((grid.x - x) / reach) ** 2, 0, 1)
    return soft(np.abs(offset) - thick * along, 2 * grid.pixel) * (along > 0)
