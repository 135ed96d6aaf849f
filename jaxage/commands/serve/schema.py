"""The JSON schema of the answers of `POST /api/predict`."""

from jaxage.types import Json

_YEARS: Json = {"type": ["number", "null"], "minimum": 0}
_PIXELS: Json = {"type": ["number", "null"], "description": "pixels of the upright photo"}

_FACE: Json = {
    "type": "object",
    "required": ["face", "left", "top", "right", "bottom", "score", "age", "low", "high", "reason"],
    "properties": {
        "face": {"type": "integer", "minimum": 1, "description": "from left to right"},
        **dict.fromkeys(("left", "top", "right", "bottom"), _PIXELS),
        "score": {"type": ["number", "null"], "description": "how sure the detector is, 0-1"},
        "age": _YEARS | {"description": "years; null for a face that is too small"},
        "low": _YEARS | {"description": "the interval's lower end; null if the model has no intervals"},
        "high": _YEARS | {"description": "its upper end; null beside a low if any age is possible"},
        "reason": {"type": "string", "description": "why there is no age, or empty"},
        "probabilities": {
            "type": "array",
            "items": {"type": "number", "minimum": 0, "maximum": 1},
            "description": "of each whole year from 0, for models that predict a distribution",
        },
    },
    "additionalProperties": False,
}

SCHEMA: Json = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "The answer of POST /api/predict",
    "description": (
        "The body of the request is the bytes of a photo. The query parameter faces is auto (the default), crop or "
        'photo. Errors are {"error": SENTENCE}: 400 for a photo that cannot be used, 413 for one that is too large, '
        "415 for a file that is no image, 503 for too many at once. POST /api/explain?face=N gives a PNG of what the "
        "network looked at in the Nth face."
    ),
    "type": "object",
    "required": ["width", "height", "faces", "reason"],
    "properties": {
        "width": {"type": "integer", "description": "of the upright photo in pixels"},
        "height": {"type": "integer"},
        "faces": {"type": "array", "items": _FACE},
        "reason": {"type": "string", "description": "why there is no face, or empty"},
    },
    "additionalProperties": False,
}
