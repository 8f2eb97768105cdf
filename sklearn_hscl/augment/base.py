"""Base classes of augmentations, which map rows to one random view of each."""

from collections.abc import Callable
from typing import Self

import torch
from sklearn.base import BaseEstimator
from torch import Tensor


class Augmentation(BaseEstimator):
    """Base class of augmentations; itself the identity.

    An augmentation has `get_params` and `set_params` like a scikit-learn estimator, so
    that a search reaches its parameters, as in ``augment__p``. :meth:`fitted` returns a
    new object with the data that it needs from the training rows. The original never
    holds data, and can be cloned, pickled and stored.
    """

    @property
    def is_identity(self) -> bool:
        """Whether every view is the row itself; False unless a subclass overrides it."""
        return type(self) is Augmentation

    def fitted(self, rows: Tensor) -> Self:
        """Return an augmentation that is fitted to the training rows.

        Parameters
        ----------
        rows : Tensor of shape (n_samples, ...)
            The training rows, on the training device. Sparse rows, memory maps and
            datasets stay on the CPU; they come as an object whose indexing gives a tensor.

        Returns
        -------
        Augmentation
            Ready to be called; `self` if it needs no data.
        """
        return self

    def __call__(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Return one random view of each row.

        Parameters
        ----------
        rows : Tensor of shape (B, ...)
            A batch, on the device of `generator`. It must not be modified, since all views
            are made from the same rows.
        generator : torch.Generator
            Source of all randomness.

        Returns
        -------
        Tensor of shape (B, ...)
        """
        return rows


class ClassAugmentation(Augmentation):
    """Base class of augmentations that use the classes of rows.

    They get class codes as their last argument. They require a loss that uses labels, and
    a `y` with classes.
    """

    def fitted(self, rows: Tensor, codes: Tensor | None = None) -> Self:
        """Return an augmentation that is fitted to the training rows and their classes.

        Parameters
        ----------
        rows : Tensor of shape (n_samples, ...)
            As for :class:`Augmentation`.
        codes : Tensor of int64, shape (n_samples,), or None
            Class codes, -1 for unlabelled rows; None if all rows are unlabelled. If rows
            are held out from members of an ensemble, a code denotes a class and a fold. So
            rows with the same code are held out from the same member.

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
            A batch, on the device of `generator`. It must not be modified.
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
    """Augmentation by a function.

    Parameters
    ----------
    function : callable
        ``function(rows, generator) -> views``, with tensors of shape (B, ...).
    """

    def __init__(self, function: Callable[[Tensor, torch.Generator], Tensor]) -> None:
        self.function = function

    def __call__(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Call the function, and check the shape and dtype of its result."""
        try:
            # A copy, since the function may modify rows that other views need.
            views = self.function(rows.clone(), generator)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise ValueError(
                f"augment={self.function!r} failed on (rows, generator): {error}"
            ) from error
        wanted = (tuple(rows.shape), rows.dtype)
        is_alike = isinstance(views, type(rows))
        got = (tuple(views.shape), views.dtype) if is_alike else type(views)
        if got != wanted:
            raise ValueError(
                f"augment={self.function!r} must return a tensor of the shape and dtype "
                f"of its input, or graphs for graphs, {wanted}, got {got}."
            )
        return views
