"""Draw a batch of faces with NumPy, back to front.

A point of the face has coordinates (x, y), to the right and down: the eyes are near y = 0, the chin is near y = 0.75.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from jaxage.data.synthetic.canvas import (
    Color,
    Field,
    Grid,
    Picture,
    box,
    distance,
    ellipse,
    glow,
    mix,
    paint,
    pick,
    rgb,
    rise,
    soft,
    stroke,
    window,
)
from jaxage.types import StoredImages

_SKIN = ((0.98, 0.85, 0.76), (0.93, 0.74, 0.60), (0.80, 0.58, 0.42), (0.55, 0.37, 0.26), (0.36, 0.23, 0.17))
_HAIR = ((0.08, 0.06, 0.05), (0.20, 0.12, 0.07), (0.36, 0.22, 0.12), (0.75, 0.58, 0.32), (0.55, 0.24, 0.10))
_EYES = ((0.24, 0.14, 0.08), (0.35, 0.24, 0.12), (0.30, 0.42, 0.28), (0.32, 0.48, 0.62))
_GRAY = rgb(0.80, 0.80, 0.80)


class Traits(NamedTuple):
    """Everything random about n photos, or, without the first axis, about one.

    age: years. looks: the age that the person seems to have.
    who, photo: uniform in 0-1, of the person and of the photo.
    blotches, grain: standard normal, of the skin and of the camera.
    """

    age: Float32[np.ndarray, "*n"]
    looks: Float32[np.ndarray, "*n"]
    who: Float32[np.ndarray, "*n traits"]
    photo: Float32[np.ndarray, "*n traits"]
    blotches: Float32[np.ndarray, "*n 9 9"]
    grain: Float32[np.ndarray, "*n 3 size size"]


@dataclass(frozen=True)
class _Face(Grid):
    """What several parts share: coordinates that turn with the head, and traits."""

    child: Field
    old: Field
    sex: Field
    eyes: Field
    turn: Field
    who: Field
    photo: Field
    skin: Color
    hair: Color


def draw(traits: Traits, size: int) -> StoredImages:
    """Draw the photos, uint8 (n, size, size, 3), of these traits."""
    face = _frame(traits, size)
    picture = _background(face)
    _body(face, picture)
    skin = _head(face, picture)
    _skin_texture(face, picture, skin, traits.blotches)
    _lines(face, picture)
    _beard(face, picture, skin, traits)
    _nose(face, picture)
    _mouth(face, picture)
    for side in (-1, 1):
        _eye(face, picture, side)
        _brow(face, picture, side)
    _fringe(face, picture)
    _glasses(face, picture)
    return _camera(face, picture, traits.grain)


def _frame(traits: Traits, size: int) -> _Face:
    who, photo = (columns.T[..., None, None] for columns in (traits.who, traits.photo))
    looks = traits.looks[:, None, None]
    child = np.clip(1 - looks / 18, 0, 1)
    old = np.clip((looks - 20) / 68, 0, 1.2)
    middles = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1
    angle, scale = 0.3 * (photo[0] - 0.5), 1.05 + 0.2 * (photo[1] - 0.5)
    right, down = middles - 0.16 * (photo[2] - 0.5), middles[:, None] - 0.16 * (photo[3] - 0.5)
    gray = rise(looks, 46 + 14 * who[1], 9)
    return _Face(
        x=(np.cos(angle) * right + np.sin(angle) * down) * scale,
        y=(np.cos(angle) * down - np.sin(angle) * right) * scale,
        pixel=2.0 / size,
        child=child,
        old=old,
        # a child's sex shows only in the hair
        sex=np.where(who[4] * 7 % 1 < 0.5, np.float32(-1), np.float32(1)) * (child < 0.6),
        eyes=0.11 * child,
        turn=0.14 * (photo[7] - 0.5),
        who=who,
        photo=photo,
        skin=pick(_SKIN, traits.who[:, 3]),
        hair=mix(pick(_HAIR, traits.who[:, 2] ** 1.5), _GRAY, 0.95 * gray),
    )


def _background(face: _Face) -> Picture:
    upper, lower = (0.1 + 0.75 * face.photo[first : first + 3] for first in (4, 5))
    share = np.clip(0.5 + 0.4 * face.y + 0.3 * face.x * (face.photo[8] - 0.5), 0, 1)
    return mix(_faded(upper), _faded(lower), share)


def _faded(color: Color) -> Color:
    return mix(color, color.mean(0), 0.55)


def _body(face: _Face, picture: Picture) -> None:
    """Long hair behind, neck and shoulders."""
    long_hair = (face.sex > 0) & (face.who[5] > 0.35) & (face.child < 0.8)
    paint(picture, face.hair * 0.7, ellipse(face, 0, 0.15, 0.66 + 0.1 * face.who[6], 0.85) * long_hair)
    neck = 0.26 - 0.08 * face.child + 0.03 * (face.sex < 0)
    paint(picture, face.skin * 0.8, box(face, 0, 0.95, neck, 0.45))
    shoulders = ellipse(face, 0, 1.45, 0.95 - 0.2 * face.child, 0.55)
    paint(picture, 0.1 + 0.7 * face.photo[9:12], shoulders)


def _head(face: _Face, picture: Picture) -> Field:
    """Ears, cranium and jaw, shaded like a ball lit from one side. Returns where the skin is."""
    width = 0.53 + 0.05 * (face.who[7] - 0.5) + 0.03 * face.child
    jaw = 0.43 + 0.07 * (face.who[8] - 0.5) - 0.03 * (face.sex > 0) + 0.06 * face.child + 0.07 * face.old
    chin = 0.76 + 0.06 * (face.who[9] - 0.5) - 0.16 * face.child + 0.03 * face.old
    ear = 0.13 + 0.05 * face.old
    for side in (-1, 1):
        paint(picture, face.skin * 0.82, ellipse(face, side * width * 0.99, 0.06 + 0.3 * ear, 0.07, ear))
    cranium = ellipse(face, 0, -0.15, width, 0.60 + 0.06 * face.child)
    skin = np.maximum(cranium, ellipse(face, 0, chin - 0.48, jaw, 0.48))
    roundness = np.clip((face.x / width) ** 2, 0, 1.3)
    light = 1 - 0.22 * roundness**2 + 0.35 * (face.photo[12] - 0.5) * face.x - 0.10 * np.clip(face.y, 0, 1)
    paint(picture, face.skin * light, skin)
    cheeks = glow(face, -0.27, 0.25, 0.16) + glow(face, 0.27, 0.25, 0.16)
    paint(picture, rgb(0.85, 0.35, 0.30), skin * cheeks * (0.10 + 0.22 * face.child))
    return skin


def _skin_texture(face: _Face, picture: Picture, skin: Field, blotches: Field) -> None:
    """Uneven skin and age spots, which grow with age."""
    points = np.linspace(0, blotches.shape[-1] - 1.001, face.x.shape[-1])
    low, part = points.astype(int), (points % 1).astype(np.float32)
    rows = mix(blotches[:, low], blotches[:, low + 1], part[:, None])
    field = mix(rows[:, :, low], rows[:, :, low + 1], part)
    picture *= 1 + 0.09 * face.old * skin * field
    spots = np.clip(field - 1.1, 0, 1) * 0.8 * face.old
    paint(picture, face.skin * rgb(0.66, 0.55, 0.48), skin * spots)


def _lines(face: _Face, picture: Picture) -> None:
    """Forehead lines, crow's feet, bags under the eyes and folds beside the mouth; all deepen with age."""
    dark = face.skin * rgb(0.52, 0.42, 0.38)
    wave = 14 * face.x + 6 * face.who[10]
    for k in range(3):
        bend = -0.46 + 0.075 * k + 0.05 * face.x**2 + 0.008 * np.sin(wave + 2 * k)
        depth = np.clip(1.1 * face.old - 0.12 * k, 0, 0.8)
        paint(picture, dark, stroke(face, face.y - bend, 0.011, 0, 0.30) * depth)
    for side in (-1, 1):
        x = side * face.x
        for slope in (-0.45, 0.05, 0.5):
            foot = face.y - (face.eyes + 0.01 + slope * (x - 0.36))
            paint(picture, dark, stroke(face, foot, 0.009, side * 0.43, 0.05) * np.clip(face.old, 0, 0.75))
        bag = face.y - (face.eyes + 0.115 - 3.6 * (x - 0.23) ** 2)
        thick = 0.014 + 0.012 * face.old
        paint(picture, dark, stroke(face, bag, thick, side * 0.23, 0.09) * 0.7 * np.clip(face.old, 0, 1))
        fold = np.abs(x - 0.15 - 0.40 * np.maximum(face.y - 0.30, 0)) - 0.013
        depth = window(face.y, 0.31, 0.56, 0.04) * np.clip(1.2 * face.old + 0.06, 0, 0.75)
        paint(picture, dark, soft(fold, 2 * face.pixel) * depth)


def _beard(face: _Face, picture: Picture, skin: Field, traits: Traits) -> None:
    """Some grown men have stubble or a beard."""
    grown = (face.sex < 0) * np.clip((traits.looks[:, None, None] - 17) / 6, 0, 1)
    strength = np.clip(1.6 * face.photo[13] - 0.75, 0, 0.9) * grown
    region = rise(face.y - 0.9 * face.x**2, 0.28, 0.12) * skin * (1 - ellipse(face, 0, 0.51, 0.15, 0.055, 0.05))
    bristles = np.clip(0.8 + 0.25 * traits.grain[:, 0], 0.3, 1)
    paint(picture, face.hair * 0.8, region * strength * bristles)


def _nose(face: _Face, picture: Picture) -> None:
    tip = 0.30 - 0.05 * face.child + 0.035 * face.old
    wide = 0.085 + 0.03 * face.who[11] - 0.025 * face.child + 0.02 * face.old
    dark_side = np.where(face.photo[12] > 0.5, np.float32(-1), np.float32(1))
    ridge = ellipse(face, face.turn + 0.045 * dark_side, 0.12, 0.03, 0.20, 0.05)
    paint(picture, face.skin * 0.70, ridge * (0.30 - 0.15 * face.child))
    paint(picture, face.skin * 0.80, ellipse(face, face.turn, tip, wide, 0.055, 0.05) * 0.8)
    paint(picture, np.clip(face.skin * 1.12, 0, 1), glow(face, face.turn - 0.02 * dark_side, tip - 0.03, 0.04) * 0.7)
    for side in (-1, 1):
        hole = ellipse(face, face.turn + side * wide * 0.5, tip + 0.035, 0.024, 0.014, 0.02)
        paint(picture, face.skin * 0.35, hole * 0.85)


def _mouth(face: _Face, picture: Picture) -> None:
    height = 0.51 - 0.07 * face.child + 0.01 * face.old
    wide = 0.17 + 0.05 * (face.who[12] - 0.5) - 0.045 * face.child + 0.015 * face.old
    thick = (0.062 + 0.03 * (face.who[13] - 0.5)) * (1 - 0.6 * np.clip(face.old, 0, 1))
    smile = 0.9 * (face.photo[14] - 0.25)
    x = face.x - face.turn
    from_middle = face.y - (height - smile * (x**2 - 0.5 * wide**2))
    inside = np.sqrt(np.clip(1 - (x / wide) ** 2, 0, 1))
    lips = soft(np.abs(from_middle) - thick * inside, 2 * face.pixel) * (np.abs(x) < wide)
    red = rgb(0.78, 0.36, 0.36) * (0.55 + 0.45 * face.skin)
    paint(picture, red, lips * (0.85 - 0.35 * face.old))
    paint(picture, face.skin * rgb(0.40, 0.22, 0.22), stroke(face, from_middle, 0.012, face.turn, wide))


def _eye_centre(face: _Face, side: int) -> Field:
    return side * (0.225 + 0.03 * (face.who[14] - 0.5)) + face.turn


def _eye(face: _Face, picture: Picture, side: int) -> None:
    """Socket, white, iris, pupil and lid. A child's eye is large and round, an old person's eye is narrow."""
    centre, height = _eye_centre(face, side), face.eyes
    aged = np.clip(face.old, 0, 1)
    wide, high = 0.105 + 0.025 * face.child, 0.056 + 0.032 * face.child - 0.018 * aged
    socket = ellipse(face, centre, height, wide * 1.35, high * 1.8, 0.07)
    paint(picture, face.skin * 0.72, socket * (0.25 + 0.35 * aged))
    white = ellipse(face, centre, height, wide, high)
    paint(picture, rgb(0.95, 0.94, 0.92), white)
    gaze, iris = centre + 0.04 * (face.photo[15] - 0.5), 0.052 + 0.014 * face.child
    paint(picture, pick(_EYES, face.who[15, :, 0, 0]), white * ellipse(face, gaze, height, iris, iris))
    paint(picture, rgb(0.04, 0.03, 0.03), white * ellipse(face, gaze, height, iris * 0.45, iris * 0.45))
    paint(picture, rgb(1, 1, 1), white * glow(face, gaze - 0.018, height - 0.02, 0.013))
    x = face.x - centre
    droop = 0.10 * face.old * np.clip(side * x, 0, 1)
    lid = height - high * np.sqrt(np.clip(1 - (x / wide) ** 2, 0, 1)) + droop
    paint(picture, face.skin * 0.30, stroke(face, face.y - lid, 0.014, centre, wide))


def _brow(face: _Face, picture: Picture, side: int) -> None:
    centre = _eye_centre(face, side)
    arch = face.eyes - 0.145 - 0.015 * face.child + 0.9 * (face.x - centre - side * 0.02) ** 2
    thick = 0.016 + 0.012 * (face.sex < 0) - 0.006 * face.child
    brow = stroke(face, face.y - arch, thick, centre, 0.125)
    paint(picture, face.hair * 0.75, brow * (0.8 - 0.5 * face.child))


def _fringe(face: _Face, picture: Picture) -> None:
    """Hair over the cranium. The hairline rises with age in some men; babies have little hair."""
    balding = (face.sex < 0) * np.clip(face.who[4] * 1.7 - 0.5, 0, 1) * np.clip(face.old * 1.5, 0, 1)
    volume = 0.09 + 0.08 * face.who[6] * (1 - face.child)
    cap = ellipse(face, 0, -0.15, 0.55 + volume, 0.62 + volume)
    temples = 1.1 * np.abs(face.x) ** 2.2 * (1 - 0.35 * balding)
    parting = 0.10 * (face.who[5] - 0.5) * face.x
    hairline = -0.42 + 0.08 * face.who[10] - 0.38 * balding + parting + temples
    strand = 0.97 + 0.03 * np.sin(90 * face.x + 9 * np.sin(5 * face.y + 6 * face.who[6]))
    density = np.clip(1.05 - 3.2 * np.clip(face.child - 0.75, 0, 1) - 0.55 * balding, 0.12, 1)
    light = 1 - 0.18 * face.x * np.sign(0.5 - face.photo[12])
    paint(picture, face.hair * (strand * light), cap * soft(face.y - hairline, 4 * face.pixel) * density)


def _glasses(face: _Face, picture: Picture) -> None:
    worn = face.photo[16] < 0.08 + 0.25 * np.clip(face.old, 0, 1)
    height = face.eyes + 0.01
    frame = box(face, face.turn, height - 0.02, 0.07, 0.012)
    for side in (-1, 1):
        rim = np.abs(distance(face, side * 0.23 + face.turn, height, 0.165, 0.125)) - 0.012
        frame = frame + soft(rim, 2 * face.pixel)
    paint(picture, rgb(0.12, 0.10, 0.10), np.clip(frame, 0, 1) * worn)


def _camera(face: _Face, picture: Picture, grain: Field) -> StoredImages:
    """Blur, contrast, exposure, color cast and noise."""
    blurred = picture
    for axis in (2, 3):
        blurred = 0.5 * blurred + 0.25 * (np.roll(blurred, 1, axis) + np.roll(blurred, -1, axis))
    picture = mix(picture, blurred, 0.25 + 0.75 * face.photo[17])
    cast = 1 + 0.16 * (face.photo[18:21] - 0.5)
    contrast, exposure = 0.75 + 0.45 * face.photo[21], 0.85 + 0.3 * face.photo[22]
    picture = (0.5 + (picture - 0.5) * contrast) * (exposure * cast)
    picture += (0.004 + 0.025 * face.photo[23] ** 2) * grain.swapaxes(0, 1)
    levels = np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(levels.transpose(1, 2, 3, 0))
