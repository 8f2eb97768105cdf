"""What an augmentation is: rows in, one random view of each row out."""

from collections.abc import Callable
from typing import Self

import torch
from sklearn.base import BaseEstimator
from torch import Tensor


class Augmentation(BaseEstimator):
    """Base class of augmentations; the one here leaves every row as it is.

    An augmentation is a scikit-learn parameter object, so that a grid search reaches
    its settings. :meth:`fitted` returns what is needed from the training rows as a
    new object: the original never holds data.
    """

    @property
    def is_identity(self) -> bool:
        """Whether every view is the row itself; False in subclasses that do not say."""
        return type(self) is Augmentation

    def fitted(self, rows: Tensor) -> Self:
        """Return an augmentation that knows the training rows.

        Parameters
        ----------
        rows : Tensor of shape (n_samples, ...)
            The training rows, on the training device. Rows that stay on the host (sparse
            ones, memory maps, datasets) are no tensor, but indexing gives one.

        Returns
        -------
        Augmentation
            Ready to be called; `self` where nothing has to be learnt.
        """
        return self

    def __call__(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Return one random view of each row.

        Parameters
        ----------
        rows : Tensor of shape (B, ...)
            A batch, on the device of `generator`; not to be written on, as each view of it
            starts from the same rows.
        generator : torch.Generator
            Source of all randomness.

        Returns
        -------
        Tensor of shape (B, ...)
        """
        return rows


class ClassAugmentation(Augmentation):
    """Base class of augmentations that look at the classes of rows.

    They get class codes as their last argument, and can be used with losses that look at
    labels, and with classes in y.
    """

    def fitted(self, rows: Tensor, codes: Tensor | None = None) -> Self:
        """Return an augmentation that knows the training rows and their classes.

        Parameters
        ----------
        rows : Tensor of shape (n_samples, ...)
            As for :class:`Augmentation`.
        codes : Tensor of int64, shape (n_samples,), or None
            Class codes, -1 for no label; None if no row has one. In an ensemble whose
            members keep rows unseen, rows of a class that different members do not see
            have different codes: what rows of one code share, no member must not know.

        Returns
        -------
        ClassAugmentation
            Ready to be called.
        """
        return self

    def __call__(
        self, rows: Tensor, generator: torch.Generator, codes: Tensor | None = None
    ) -> Tensor:
        """Return one random view of each row.

        Parameters
        ----------
        rows : Tensor of shape (B, ...)
            A batch, on the device of `generator`; not to be written on.
        generator : torch.Generator
            Source of all randomness.
        codes : Tensor of int64, shape (B,), or None
            Class codes of the batch, as in :meth:`fitted`.

        Returns
        -------
        Tensor of shape (B, ...)
        """
        return rows


class FunctionAugmentation(Augmentation):
    """A user's function as an augmentation.

    Parameters
    ----------
    function : callable
        ``function(rows, generator) -> views``, with tensors of shape (B, ...).
    """

    def __init__(self, function: Callable[[Tensor, torch.Generator], Tensor]) -> None:
        self.function = function

    def __call__(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Call the function and check that it kept the shape."""
        try:
            # A copy, as it may write on what it gets: other views need the row as it is.
            views = self.function(rows.clone(), generator)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise ValueError(
                f"augment={self.function!r} failed on (rows, generator): {error}"
            ) from error
        wanted = (tuple(rows.shape), rows.dtype)
        got = (
            (tuple(views.shape), views.dtype) if isinstance(views, Tensor) else type(views)
        )
        if got != wanted:
            raise ValueError(
                f"augment={self.function!r} must return a tensor of the shape and dtype "
                f"it was given, {wanted}, got {got}."
            )
        return views
