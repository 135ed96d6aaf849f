"""How sure a prediction is: split-conformal intervals from the validation split."""

from typing import NamedTuple


class Intervals(NamedTuple):
    """What turns a prediction into an interval that holds the true age with a given probability.

    edges: predicted ages in years that divide the bands, rising; one fewer than there are bands.
    coverages: probabilities, rising, of the columns of `radii`.
    radii: for each band and coverage the interval's half width: in years, or in multiples of the predicted
        distribution's standard deviation if `scaled`.
    scaled: whether the model predicts a distribution, whose spread scales the intervals.
    """

    edges: tuple[float, ...]
    coverages: tuple[float, ...]
    radii: tuple[tuple[float, ...], ...]
    scaled: bool
