"""Draws a batch of faces with numpy: soft-edged shapes, painted back to front.

A point of the face has coordinates (x, y): right and down, the eyes near y = 0, the chin near y = 0.75. Every array
has the batch first; a `Field` is one number for each pixel, a trait is a column that broadcasts over them.
"""

from typing import NamedTuple

import numpy as np

Field = np.ndarray

_SKIN = np.float32([[0.98, 0.85, 0.76], [0.93, 0.74, 0.60], [0.80, 0.58, 0.42], [0.55, 0.37, 0.26], [0.36, 0.23, 0.17]])
_HAIR = np.float32([[0.08, 0.06, 0.05], [0.20, 0.12, 0.07], [0.36, 0.22, 0.12], [0.75, 0.58, 0.32], [0.55, 0.24, 0.10]])
_EYES = np.float32([[0.24, 0.14, 0.08], [0.35, 0.24, 0.12], [0.30, 0.42, 0.28], [0.32, 0.48, 0.62]])


class Traits(NamedTuple):
    """age: (n,) years. looks: (n,) the age a person looks. who, photo: (n, k) uniform 0-1, of the person and the photo.

    blotches: (n, 9, 9), grain: (n, size, size, 3), standard normal.
    """

    age: np.ndarray
    looks: np.ndarray
    who: np.ndarray
    photo: np.ndarray
    blotches: np.ndarray
    grain: np.ndarray


class _Face(NamedTuple):
    """What the parts share: coordinates, the width of a pixel, and the columns of traits that several parts use."""

    x: Field
    y: Field
    pixel: float
    child: Field
    old: Field
    lines: Field
    who: list[Field]
    photo: list[Field]
    skin: Field
    hair: Field


def draw(traits: Traits, size: int) -> np.ndarray:
    """The photos, uint8 (n, size, size, 3)."""
    face = _frame(traits, size)
    image = _background(face, size)
    image = _body(face, image)
    image, skin = _head(face, image)
    image = _skin_texture(face, image, skin, traits.blotches)
    image = _lines(face, image)
    image = _beard(face, image, skin, traits)
    image = _nose(face, image)
    image = _mouth(face, image)
    for side in (-1, 1):
        image = _eye(face, image, side)
    image = _fringe(face, image)
    image = _glasses(face, image)
    return _camera(face, image, traits.grain)


def _frame(traits: Traits, size: int) -> _Face:
    who, photo = _columns(traits.who), _columns(traits.photo)
    looks = traits.looks[:, None, None]
    child = np.clip(1 - looks / 18, 0, 1)
    old = np.clip((looks - 28) / 60, 0, 1.2)
    grid = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1
    right, down = grid[None, None, :], grid[None, :, None]
    angle, scale = 0.3 * (photo[0] - 0.5), 1.05 + 0.2 * (photo[1] - 0.5)
    right, down = right - 0.16 * (photo[2] - 0.5), down - 0.16 * (photo[3] - 0.5)
    x = (np.cos(angle) * right + np.sin(angle) * down) * scale
    y = (np.cos(angle) * down - np.sin(angle) * right) * scale
    grey = _rise(looks, 46 + 14 * who[1], 9)
    hair = _mix(_pick(_HAIR, traits.who[:, 2] ** 1.5), np.float32([0.80, 0.80, 0.80]), 0.95 * grey)
    return _Face(x, y, 2.0 / size, child, old, old**1.3, who, photo, _pick(_SKIN, traits.who[:, 3]), hair)


def _background(face: _Face, size: int) -> np.ndarray:
    colours = [np.stack([face.photo[4 + k + j][:, 0, 0] for k in range(3)], -1) * 0.75 + 0.1 for j in (0, 1)]
    colours = [0.45 * colour + 0.55 * colour.mean(-1, keepdims=True) for colour in colours]
    share = np.clip(0.5 + 0.4 * face.y + 0.3 * face.x * (face.photo[8] - 0.5), 0, 1)
    return _mix(colours[0][:, None, None], colours[1][:, None, None], share)


def _body(face: _Face, image: np.ndarray) -> np.ndarray:
    """Long hair behind, neck and shoulders."""
    long_hair = (_sex(face) > 0) & (face.who[5] > 0.35) & (face.child < 0.8)
    back = _ellipse(face, 0, 0.15, 0.66 + 0.1 * face.who[6], 0.85) * long_hair
    image = _paint(image, face.hair * 0.7, back)
    neck = _box(face, 0, 0.95, 0.26 - 0.08 * face.child + 0.03 * (_sex(face) < 0), 0.45)
    image = _paint(image, face.skin * 0.8, neck)
    shirt = np.stack([face.photo[9][:, 0, 0], face.photo[10][:, 0, 0], face.photo[11][:, 0, 0]], -1)[:, None, None]
    return _paint(image, 0.1 + 0.7 * shirt, _ellipse(face, 0, 1.45, 0.95 - 0.2 * face.child, 0.55))


def _head(face: _Face, image: np.ndarray) -> tuple[np.ndarray, Field]:
    """Ears, cranium and jaw, shaded as a round thing lit from one side; also gives where the skin is."""
    width = 0.53 + 0.05 * (face.who[7] - 0.5) + 0.03 * face.child
    jaw = 0.43 + 0.07 * (face.who[8] - 0.5) - 0.03 * (_sex(face) > 0) + 0.06 * face.child + 0.07 * face.old
    chin = 0.76 + 0.06 * (face.who[9] - 0.5) - 0.16 * face.child + 0.03 * face.old
    ear = 0.13 + 0.05 * face.old
    for side in (-1, 1):
        image = _paint(image, face.skin * 0.82, _ellipse(face, side * width * 0.99, 0.06 + 0.3 * ear, 0.07, ear))
    cranium = _ellipse(face, 0, -0.15, width, 0.60 + 0.06 * face.child)
    lower = _ellipse(face, 0, chin - 0.48, jaw, 0.48)
    skin = np.maximum(cranium, lower)
    roundness = np.clip((face.x / width) ** 2, 0, 1.3)
    light = 1 - 0.22 * roundness**2 + 0.35 * (face.photo[12] - 0.5) * face.x - 0.10 * np.clip(face.y, 0, 1)
    image = _paint(image, face.skin * light[..., None], skin)
    cheeks = sum(_glow(face, side * 0.27, 0.25, 0.16) for side in (-1, 1))
    blush = np.float32([0.85, 0.35, 0.30])
    return _paint(image, blush, skin * cheeks * (0.10 + 0.22 * face.child)), skin


def _skin_texture(face: _Face, image: np.ndarray, skin: Field, blotches: np.ndarray) -> np.ndarray:
    """Unevenness and age spots, from the late thirties on."""
    size = face.x.shape[-1]
    points = np.linspace(0, blotches.shape[-1] - 1.001, size)
    low, part = points.astype(int), (points % 1).astype(np.float32)
    rows = blotches[:, low] * (1 - part)[None, :, None] + blotches[:, low + 1] * part[None, :, None]
    field = rows[:, :, low] * (1 - part) + rows[:, :, low + 1] * part
    image = image * (1 + (0.09 * face.old * skin * field)[..., None])
    return _paint(image, face.skin * np.float32([0.66, 0.55, 0.48]), skin * np.clip(field - 1.1, 0, 1) * 0.8 * face.old)


def _lines(face: _Face, image: np.ndarray) -> np.ndarray:
    """Forehead lines, crow's feet, bags under the eyes, folds beside the mouth, all deepening with age."""
    dark = face.skin * np.float32([0.52, 0.42, 0.38])
    eye = _eye_height(face)
    for k in range(3):
        bend = -0.46 + 0.075 * k + 0.05 * face.x**2 + 0.008 * np.sin(14 * face.x + 6 * face.who[10] + 2 * k)
        image = _paint(image, dark, _stroke(face, face.y - bend, 0.011, 0, 0.30) * np.clip(1.1 * face.lines - 0.12 * k, 0, 0.8))
    for side in (-1, 1):
        x = side * face.x
        for slope in (-0.45, 0.05, 0.5):
            foot = face.y - (eye + 0.01 + slope * (x - 0.36))
            image = _paint(image, dark, _stroke(face, foot, 0.009, side * 0.43, 0.05) * np.clip(face.lines, 0, 0.75))
        bag = face.y - (eye + 0.115 - 0.9 * (x - 0.23) ** 2 * 4)
        image = _paint(image, dark, _stroke(face, bag, 0.014 + 0.012 * face.old, side * 0.23, 0.09) * 0.7 * np.clip(face.old, 0, 1))
        fold = x - (0.15 + 0.40 * (face.y - 0.30) ** 1 * (face.y > 0.30))
        inside = _window(face.y, 0.31, 0.56, 0.04)
        image = _paint(image, dark, _soft(np.abs(fold) - 0.013, 2 * face.pixel) * inside * np.clip(1.2 * face.lines + 0.06, 0, 0.75))
    return image


def _beard(face: _Face, image: np.ndarray, skin: Field, traits: Traits) -> np.ndarray:
    """Stubble or a beard, of some grown men."""
    grown = (_sex(face) < 0) * np.clip((traits.looks[:, None, None] - 17) / 6, 0, 1)
    strength = np.clip(1.6 * face.photo[13] - 0.75, 0, 0.9) * grown
    region = _rise(face.y - 0.9 * face.x**2, 0.28, 0.12) * skin
    region = region * (1 - _ellipse(face, 0, 0.51, 0.15, 0.055, 0.05))
    grain = np.clip(0.8 + 0.25 * traits.grain[..., 0], 0.3, 1)
    return _paint(image, face.hair * 0.8, region * strength * grain)


def _nose(face: _Face, image: np.ndarray) -> np.ndarray:
    tip = 0.30 - 0.05 * face.child + 0.035 * face.old
    wide = 0.085 + 0.03 * face.who[11] - 0.025 * face.child + 0.02 * face.old
    shift = _turn(face)
    side = np.where(face.photo[12] > 0.5, np.float32(-1), np.float32(1))
    ridge = _ellipse(face, shift + 0.045 * side, 0.12, 0.03, 0.20, 0.05) * (0.30 - 0.15 * face.child)
    image = _paint(image, face.skin * 0.70, ridge)
    image = _paint(image, face.skin * 0.80, _ellipse(face, shift, tip, wide, 0.055, 0.05) * 0.8)
    image = _paint(image, np.clip(face.skin * 1.12, 0, 1), _glow(face, shift - 0.02 * side, tip - 0.03, 0.04) * 0.7)
    for which in (-1, 1):
        hole = _ellipse(face, shift + which * wide * 0.5, tip + 0.035, 0.024, 0.014, 0.02)
        image = _paint(image, face.skin * 0.35, hole * 0.85)
    return image


def _mouth(face: _Face, image: np.ndarray) -> np.ndarray:
    height = 0.51 - 0.07 * face.child + 0.01 * face.old
    wide = 0.17 + 0.05 * (face.who[12] - 0.5) - 0.045 * face.child + 0.015 * face.old
    thick = (0.062 + 0.03 * (face.who[13] - 0.5)) * (1 - 0.6 * np.clip(face.old, 0, 1))
    smile = 0.9 * (face.photo[14] - 0.25)
    x = face.x - _turn(face)
    middle = height - smile * (x**2 - 0.5 * wide**2)
    inside = np.sqrt(np.clip(1 - (x / wide) ** 2, 0, 1))
    lips = _soft(np.abs(face.y - middle) - thick * inside, 2 * face.pixel) * (np.abs(x) < wide)
    red = np.float32([0.78, 0.36, 0.36]) * (0.55 + 0.45 * face.skin)
    image = _paint(image, red, lips * (0.85 - 0.35 * face.old))
    return _paint(image, face.skin * np.float32([0.40, 0.22, 0.22]), _stroke(face, face.y - middle, 0.012, _turn(face), wide))


def _eye(face: _Face, image: np.ndarray, side: int) -> np.ndarray:
    """White, iris, pupil, lids and brow of one eye; a child's are large and round, an old person's narrow."""
    centre = side * (0.225 + 0.03 * (face.who[14] - 0.5)) + _turn(face)
    height = _eye_height(face)
    wide, high = 0.105 + 0.025 * face.child, 0.056 + 0.032 * face.child - 0.018 * np.clip(face.old, 0, 1)
    socket = _ellipse(face, centre, height, wide * 1.35, high * 1.8, 0.07)
    image = _paint(image, face.skin * 0.72, socket * (0.25 + 0.35 * np.clip(face.old, 0, 1)))
    white = _ellipse(face, centre, height, wide, high)
    image = _paint(image, np.float32([0.95, 0.94, 0.92]), white)
    colour = _pick(_EYES, face.who[15][:, 0, 0])
    gaze = centre + 0.04 * (face.photo[15] - 0.5)
    iris = 0.052 + 0.014 * face.child
    image = _paint(image, colour, white * _ellipse(face, gaze, height, iris, iris))
    image = _paint(image, np.float32([0.04, 0.03, 0.03]), white * _ellipse(face, gaze, height, iris * 0.45, iris * 0.45))
    image = _paint(image, np.float32([1, 1, 1]), white * _glow(face, gaze - 0.018, height - 0.02, 0.013))
    x = face.x - centre
    lid = face.y - (height - high * np.sqrt(np.clip(1 - (x / wide) ** 2, 0, 1)) + 0.10 * face.old * np.clip(side * x, 0, 1))
    image = _paint(image, face.skin * 0.30, _stroke(face, lid, 0.014, centre, wide))
    arch = face.y - (height - 0.145 - 0.015 * face.child + 0.9 * (x - side * 0.02) ** 2)
    thick = 0.016 + 0.012 * (_sex(face) < 0) - 0.006 * face.child
    return _paint(image, face.hair * 0.75, _stroke(face, arch, thick, centre, 0.125) * (0.8 - 0.5 * face.child))


def _fringe(face: _Face, image: np.ndarray) -> np.ndarray:
    """Hair over the cranium, down to a hairline that rises with age in some men; babies have little."""
    balding = (_sex(face) < 0) * np.clip(face.who[4] * 1.7 - 0.5, 0, 1) * np.clip(face.old * 1.5, 0, 1)
    volume = 0.09 + 0.08 * face.who[6] * (1 - face.child)
    cap = _ellipse(face, 0, -0.15, 0.55 + volume, 0.62 + volume)
    parting = 0.10 * (face.who[5] - 0.5) * face.x
    hairline = -0.42 + 0.08 * face.who[10] - 0.38 * balding + parting + 1.1 * np.abs(face.x) ** 2.2 * (1 - 0.35 * balding)
    below = _soft(face.y - hairline, 4 * face.pixel)
    strand = 0.94 + 0.06 * np.sin(90 * face.x + 9 * np.sin(5 * face.y + 6 * face.who[6]))
    density = np.clip(1.05 - 1.0 * np.clip(face.child - 0.75, 0, 1) * 4 * 0.8 - 0.55 * balding, 0.12, 1)
    shade = face.hair * (strand * (1 - 0.18 * face.x * np.sign(0.5 - face.photo[12])))[..., None]
    return _paint(image, shade, cap * below * density)


def _glasses(face: _Face, image: np.ndarray) -> np.ndarray:
    worn = face.photo[16] < 0.08 + 0.25 * np.clip(face.old, 0, 1)
    height = _eye_height(face) + 0.01
    frame = sum(
        _soft(np.abs(_distance(face, side * 0.23 + _turn(face), height, 0.165, 0.125)) - 0.012, 2 * face.pixel)
        for side in (-1, 1)
    )
    bridge = _box(face, _turn(face), height - 0.02, 0.07, 0.012)
    return _paint(image, np.float32([0.12, 0.10, 0.10]), np.clip(frame + bridge, 0, 1) * worn)


def _camera(face: _Face, image: np.ndarray, grain: np.ndarray) -> np.ndarray:
    """Blur, exposure, contrast, colour cast and noise."""
    soft = image.copy()
    for axis in (1, 2):
        soft = 0.5 * soft + 0.25 * (np.roll(soft, 1, axis) + np.roll(soft, -1, axis))
    image = _mix(image, soft, 0.25 + 0.75 * face.photo[17])
    cast = 1 + 0.16 * (np.stack([face.photo[k][:, 0, 0] for k in (18, 19, 20)], -1)[:, None, None] - 0.5)
    contrast, exposure = 0.75 + 0.45 * face.photo[21], 0.85 + 0.3 * face.photo[22]
    image = (0.5 + (image - 0.5) * contrast[..., None]) * exposure[..., None] * cast
    image = image + (0.004 + 0.025 * face.photo[23] ** 2)[..., None] * grain
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _columns(traits: np.ndarray) -> list[Field]:
    return [column[:, None, None] for column in traits.T]


def _sex(face: _Face) -> Field:
    """-1 or 1; of children only the hair will tell."""
    return np.where(face.who[4] * 7 % 1 < 0.5, np.float32(-1), np.float32(1)) * (face.child < 0.6)


def _eye_height(face: _Face) -> Field:
    return 0.0 + 0.11 * face.child


def _turn(face: _Face) -> Field:
    """How far the features shift sideways as the head turns."""
    return 0.14 * (face.photo[7] - 0.5)


def _pick(palette: np.ndarray, where: np.ndarray) -> np.ndarray:
    """A colour (n, 1, 1, 3) between neighbours of the palette, for positions (n,) 0-1."""
    points = np.arange(len(palette)) / (len(palette) - 1)
    colours = np.stack([np.interp(where, points, channel) for channel in palette.T], -1)
    return colours[:, None, None].astype(np.float32)


def _mix(a: np.ndarray, b: np.ndarray, share: Field) -> np.ndarray:
    return a + (b - a) * share[..., None]


def _paint(image: np.ndarray, colour: np.ndarray, mask: Field) -> np.ndarray:
    return image + (colour - image) * mask[..., None]


def _soft(distance: Field, width: float) -> Field:
    """1 inside, 0 outside, a ramp of `width` between."""
    return np.clip(0.5 - distance / width, 0, 1)


def _rise(value: Field, middle: Field | float, width: float) -> Field:
    """0 below the middle, 1 above, a ramp of twice `width` between."""
    return np.clip(0.5 + (value - middle) / (2 * width), 0, 1)


def _distance(face: _Face, x: Field | float, y: Field | float, wide: Field | float, high: Field | float) -> Field:
    """About how far outside an ellipse a point lies."""
    return (np.hypot((face.x - x) / wide, (face.y - y) / high) - 1) * np.minimum(wide, high)


def _ellipse(
    face: _Face, x: Field | float, y: Field | float, wide: Field | float, high: Field | float, blur: float = 0.0
) -> Field:
    return _soft(_distance(face, x, y, wide, high), 1.5 * face.pixel + blur)


def _box(face: _Face, x: Field | float, y: Field | float, wide: Field | float, high: Field | float) -> Field:
    return _soft(np.maximum(np.abs(face.x - x) - wide, np.abs(face.y - y) - high), 1.5 * face.pixel)


def _glow(face: _Face, x: Field | float, y: Field | float, radius: float) -> Field:
    return np.exp(-((face.x - x) ** 2 + (face.y - y) ** 2) / (2 * radius**2))


def _stroke(face: _Face, offset: Field, thick: Field | float, x: Field | float, reach: Field | float) -> Field:
    """A line where `offset` is 0, from x - reach to x + reach, thinner towards its ends."""
    along = np.clip(1 - ((face.x - x) / reach) ** 2, 0, 1)
    return _soft(np.abs(offset) - thick * along, 2 * face.pixel) * (along > 0)


def _window(value: Field, low: float, high: float, width: float) -> Field:
    return np.clip((value - low) / width, 0, 1) * np.clip((high - value) / width, 0, 1)
