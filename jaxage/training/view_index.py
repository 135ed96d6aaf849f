"""Maps each row of cached features to an image and a view. Does not need the network."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from jaxage.data.sampler import EvalRows, ViewRows
from jaxage.types import Rows


class Wanted(NamedTuple):
    """For each row of features, the row of the image and the id of its view (see `jaxage.data.augment.view`)."""

    rows: Rows
    view_ids: Int[np.ndarray, " rows"]


@dataclass(frozen=True, eq=False)
class ViewIndex:
    """Rows of features: every image as it is, then the further views of training images, then mirrors of the others.

    images: how many images there are. train_rows: which of them are trained on.
    views: how many views of each training image there are: itself, its mirror, and random crops.
    flip: whether predictions need the mirrors of the images that are not trained on.
    """

    images: int
    train_rows: Rows
    views: int
    flip: bool

    def __len__(self) -> int:
        return self.images + len(self.train_rows) * (self.views - 1) + len(self._mirrored)

    @property
    def kinds(self) -> int:
        """Number of view ids per image. Id 1 is reserved for the mirror, even if `views` is 1."""
        return max(self.views, 1 + self.flip)

    @cached_property
    def view_rows(self) -> ViewRows:
        """The rows of features of each training image's views."""
        trained, further = len(self.train_rows), self.views - 1
        places = self.images + np.arange(trained * further).reshape(trained, further)
        return np.column_stack([self.train_rows, places]).astype(np.int32)

    @cached_property
    def eval_rows(self) -> EvalRows:
        """The rows of every image and, with `flip`, of its mirror; the same row twice for training images."""
        images = np.arange(self.images)
        mirrors = images.copy()
        mirrors[self._mirrored] = len(self) - len(self._mirrored) + np.arange(len(self._mirrored))
        return np.column_stack([images, mirrors][: 1 + self.flip]).astype(np.int32)

    def wanted(self) -> Wanted:
        """The image and the view of each row of features."""
        n, trained, views = self.images, len(self.train_rows), self.views
        rows = np.concatenate([np.arange(n), np.repeat(self.train_rows, views - 1), self._mirrored])
        further = np.arange(trained * self.kinds).reshape(trained, self.kinds)[:, 1:views]
        view_ids = np.concatenate([np.zeros(n, np.int64), further.ravel(), np.ones(len(self._mirrored), np.int64)])
        return Wanted(rows, view_ids)

    @cached_property
    def _mirrored(self) -> Rows:
        return np.setdiff1d(np.arange(self.images), self.train_rows)[: None if self.flip else 0]


def rows_of_images(rows: Rows, flip: bool) -> EvalRows:
    """The eval rows of a loader of images: each row and, with `flip`, the same row again for its mirror."""
    return np.repeat(rows[:, None], 1 + flip, axis=1).astype(np.int32)
