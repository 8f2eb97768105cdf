"""HSCLEmbedder, the scikit-learn estimator of the library."""

import os
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)
from sklearn.callback import CallbackSupportMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted
from torch import nn

from sklearn_hscl._sklearn_compat import AttrsDict, _fit_context
from sklearn_hscl.data.texts import content_for
from sklearn_hscl.data.validation import FitInput, check_rows
from sklearn_hscl.encoders.inference import EmbeddingOptions, embed_array
from sklearn_hscl.encoders.tabular.encoder import AllMembers
from sklearn_hscl.losses import BetaSchedule, ContrastiveLoss
from sklearn_hscl.losses.hardening import LogHardening
from sklearn_hscl.persistence.bundle import PersistenceMixin
from sklearn_hscl.reports.training_report import AttributesWithReport
from sklearn_hscl.runtime.global_setting import default_settings
from sklearn_hscl.runtime.processes import training_together
from sklearn_hscl.training.config import AugmentParameter, Schedule
from sklearn_hscl.training.ensemble import norm_of_means
from sklearn_hscl.training.fitting import (
    SklearnCallbackBridge,
    fit,
    fit_chunk,
    refuse_fit_params,
    requires_labels,
    take_over,
)
from sklearn_hscl.training.param_constraints import (
    CONSTRAINTS,
    warn_if_below_floor,
    warn_of_lr,
    warn_of_params,
)


class HSCLEmbedder(
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    CallbackSupportMixin,
    PersistenceMixin,
    BaseEstimator,
):
    """Embed tables, images, texts or graphs by contrastive learning.

    Trains an encoder that places samples of one class (or views of one sample) close
    together and others far apart; negatives that are hard to distinguish from the
    anchor count most. Read more in the :ref:`user guide <user_guide>`.

    Parameters come in seven groups: loss, encoder and embedding, views and batches,
    optimization, early stopping, runtime, skorch. Where None selects the encoder's
    default, see :ref:`encoder_defaults`.

    Parameters
    ----------
    loss : str or ContrastiveLoss, default="auto"
        Contrastive loss: which samples attract and which repel each other.

        - ``"ucl"``: views of a sample against all others, without labels.
        - ``"scl"``: samples of one class against those of other classes.
        - ``"hucl"``, ``"hscl"``: the same with hardened negatives.
        - ``"supcon"``: ``"scl"`` with all positives in the denominator (Khosla).
        - ``"sscl"``: synthetic hard negatives, with or without labels.
        - ``"schane"``: hard negatives and a jointly trained cross-entropy.
        - ``"auto"``: ``"hscl"`` with labels, else ``"hucl"``, which bounds it.
        - a :class:`~sklearn_hscl.losses.ContrastiveLoss`: replaces `preset` to
          `ce_weight`, except a schedule as `beta`; grids reach ``loss__beta``.

    preset : {None, "official"}, default=None
        ``"official"``: formulas of the authors' code; other parameters override it.
    hardening : str or callable, default="exponential"
        Weight of a negative: e^(beta * s), s = cosine / `temperature`, as in the paper;
        ``"polynomial"``: ((1 + cosine) / 2)^beta; ``"threshold"``, ``"top_k"``: 0 or 1.
        A callable maps s to the log-weight.
    beta : float, "auto" or BetaSchedule, default=1.0
        Strength of the tilt, at least 0 (none); the authors start at 1. ``"auto"``
        selects from five values by the score of `early_stopping`. A schedule such as
        :class:`~sklearn_hscl.losses.WarmUpBeta` changes it per epoch.
    threshold : float, default=-0.25
        Minimum cosine, in [-1, 1], of negatives under ``hardening="threshold"``; the
        authors' value.
    top_k : int, default=16
        Negatives per anchor under ``hardening="top_k"``.
    temperature : float, "auto" or None, default=None
        Scale of the cosines, above 0; lower ones focus on closer samples. None: 0.5, the
        authors' value, or 0.1 if pretrained. ``"auto"``: from three values, as for `beta`.
    tau_plus : float, default=None
        Class prior τ⁺ in [0, 1) of the debiased loss. For this and the next five
        parameters, None uses the loss's default.
    negative_mass : {"negatives", "batch"} or float, default=None
        Factor of the mean over negatives: their number, the batch size minus 2, or a
        constant.
    reduction : {"anchors", "pairs", "classes"}, default=None
        Unit of equal weight in a batch; pairs favour large classes.
    detach_weights : bool, default=None
        Whether weights of negatives are constants in the gradient.
    positives : {"all", "view"}, default=None
        All samples of the class, or only views of the same sample.
    ce_weight : float, default=None
        Weight in [0, 1] of a jointly trained linear head's cross-entropy, or squared
        error of numbers. For a loss by name, None: the encoder's default.
    target_type : {"auto", "class", "multilabel", "continuous"}, default="auto"
        Type of y: class labels, indicator matrix, or continuous targets, which attract by
        closeness. ``"auto"`` infers it.
    unlabeled_label : int, str or NaN, default=None
        Label of samples without class; NaN: missing ones. None: all have a class.
    encoder : str, torch.nn.Module or callable, default="auto"
        Trained map from a sample to its embedding, see :ref:`encoders`.

        - ``"tabular"``: :class:`~sklearn_hscl.encoders.TabularEncoder`, for tables.
        - ``"mlp"``: Linear-ReLU layers on columns or pixels.
        - ``"conv"``, ``"resnet18"``, ``"resnet50"``, ``"timm:NAME"``,
          ``"torchvision:NAME"``: for images, untrained.
        - :class:`~sklearn_hscl.encoders.PretrainedImageEncoder`: for images.
        - ``"sentence-transformers:NAME"`` for texts, see :ref:`texts`.
        - ``"gin"``: :class:`~sklearn_hscl.encoders.GINEncoder`, see :ref:`graphs`.
        - ``"auto"``: with targets ``"tabular"`` for tables, unless sparse and large, and
          ``"conv"`` for images; else ``"mlp"``.
        - a module from (B, n_features) or (B, C, H, W) in float32 to (B, n_components),
          which is copied; or a callable that returns one.

    hidden_layer_sizes : sequence of int, default=None
        Widths of the hidden layers. None: the encoder's default.
    dropout : float, default=None
        Fraction in [0, 1) of hidden units. None: the encoder's default.
    freeze : sequence of str, default=None
        Submodules or weights of the encoder, by name, that are not trained.
    n_components : int, default=None
        Embedding dimension. None selects the encoder's default, and often adds scores of
        linear models and forests, see :ref:`linear_path`.
    n_members : int, default=None
        Ensemble members of ``"tabular"``. None: the encoder's default.
    projection_dim : int, "auto" or None, default="auto"
        Output dimension of the head between embedding and loss, which is discarded after
        training. ``"auto"``: the encoder's default. None: no head.
    normalize : bool, default=False
        Whether :meth:`transform` scales embeddings to unit norm.
    channels : {"auto", "first", "last"}, default="auto"
        Channel axis of images; ``"auto"`` takes one of size 1, 3 or 4.
    cross_fit : int, default=None
        Number of folds, at least 2, for ``fit_transform`` to embed samples by members of
        ``"tabular"`` that have not seen them, for calibration.
    categorical_features : "from_dtype", array-like or None, default="from_dtype"
        Names, indices or mask of categorical columns; ``"from_dtype"``: non-numeric
        columns of frames. None: no columns.
    augment : {"auto"}, callable or None, default="auto"
        Random views: an :class:`~sklearn_hscl.augment.Augmentation` (grids reach
        ``augment__p``), or ``augment(rows, generator) -> views`` of shape (B, ...).
        ``"auto"``: shifts of images, crops and other colours without labels, corruption
        of table rows, dropped nodes. None: no augmentation.
    n_views : int or "auto", default="auto"
        Views of each sample; ``"auto"``: 1 if labels give positives, else 2.
    batch_size : int, default=None
        Samples compared with each other, at least 2 (4 with classes). None: the
        encoder's default.
    device_batch_size : int or "auto", default="auto"
        Views embedded at a time, for less memory at the same gradient. ``"auto"``: as
        many as fit, or the whole batch with BatchNorm.
    sampler : {"auto", "stratified", "balanced", "shuffle"}, default="auto"
        Batches with classes in proportion, in equal numbers by repetition, or by chance.
        ``"auto"``: ``"stratified"`` if the loss uses classes, else ``"shuffle"``.
    max_epochs : int, default=None
        Maximum epochs. None: the encoder's default.
    lr : float, default=None
        Learning rate of AdamW, above 0. None: the encoder's default.
    lr_schedule : {"auto", "cosine", "warm_up", "constant"} or callable, default="auto"
        Factor of `lr`; a callable maps progress in [0, 1] to it. ``"auto"``: the
        encoder's default.
    lr_backoff : float, default=None
        If training diverges, restart once from the last finite epoch with the learning
        rate multiplied by this factor in (0, 1), and warn. None raises instead.
    weight_decay : float, default=None
        Of AdamW, at least 0. None: the encoder's default.
    clip_norm : float, default=None
        Maximum gradient norm; None: no clipping.
    early_stopping : bool or "auto", default="auto"
        Whether to stop when the held-out score no longer improves, and restore the best
        epoch. ``"auto"``: with `X_val` or in ``"tabular"``, see :ref:`early_stopping`.
    validation_fraction : float, default=0.1
        Fraction in (0, 1) of samples held out, unless by `X_val`.
    n_iter_no_change : int, default=None
        Scores without improvement before stopping. None: the encoder's default.
    tol : float, default=1e-4
        Smallest improvement that counts, at least 0.
    device : str or torch.device, default="auto"
        ``"auto"``: GPU if available; joblib workers spread over all.
    precision : {"auto", "float64", "float32", "tf32", "bf16"}, default="auto"
        Of products. ``"auto"``: float32; on NVIDIA GPUs tf32 for tables, bf16 for images.
    compile : bool, default=False
        Use ``torch.compile``, which takes tens of seconds.
    n_threads : int, default=None
        Threads of torch. None: 1 for small steps and joblib workers, else its setting.
    random_state : int, RandomState instance, default=None
        Seed; global generators are not touched.
    warm_start : bool, default=False
        Continue from the previous fit.
    checkpoint_dir : str, path-like, default=None
        Directory of ``checkpoint.pt``, the state of one fit.
    resume : bool, default=False
        Continue from that checkpoint, if any, to the same bits.
    verbose : int or bool, default=0
        Print a line per epoch.
    net_params : dict, default=None
        Settings of the skorch net, such as ``{"optimizer": torch.optim.SGD}``.
    net_callbacks : list, default=None
        skorch callbacks, copied; scikit-learn's go to ``set_callbacks``.

    Attributes
    ----------
    module_ : torch.nn.Module
        Trained encoder, without head.
    net_ : skorch.NeuralNet
        Net that trained it.
    history_ : list of dict
        Per epoch: ``train_loss``, ``skipped_anchors``, ``effective_negatives``, ``beta``
        of a schedule, ``valid_score``, ``valid_loss``.
    loss_curve_ : list of float
        Training loss per epoch.
    n_iter_ : int
        Number of epochs.
    best_epoch_ : int
        Epoch of the retained weights, from 1.
    chance_loss_ : float
        Training loss if all samples had one embedding.
    valid_score_name_ : str
        Name of the score, with early stopping.
    held_out_readout_ : dict
        R2 of held-out targets, from embedding and X, see :ref:`linear_path`.
    beta_, temperature_ : float
        Values of the loss, as given or selected.
    classes_ : ndarray of shape (n_classes,)
        Class labels, if the loss uses them.
    is_categorical_ : ndarray of bool, shape (`n_features_in_`,)
        Mask of categorical columns.
    categories_ : list of ndarray
        Levels of each of these columns.
    device_ : torch.device
        Device of the encoder.
    n_threads_ : int
        Threads of training.
    input_shape_ : tuple of int
        Shape of a sample, (-1, n_features) for graphs.
    n_features_in_ : int
        Number of features, node features or channels.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Column names, if X has string names.

    See Also
    --------
    sklearn_hscl.diagnose : Findings on a fitted embedder, and what to try next.
    sklearn_hscl.losses.ContrastiveLoss : The loss alone, for plain torch.

    References
    ----------
    Jiang, Nguyen, Ishwar, Aeron, "Supervised Contrastive Learning with Hard Negative
    Samples", arXiv 2209.00078.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn_hscl import HSCLEmbedder
    >>> X, y = load_wine(return_X_y=True)
    >>> pipe = make_pipeline(HSCLEmbedder(random_state=0), LogisticRegression())
    >>> pipe.fit(X[::2], y[::2]).score(X[1::2], y[1::2]) > 0.9
    True
    """

    _parameter_constraints = CONSTRAINTS
    # Not routed; if the user requests it, `fit` says why there is none.
    __metadata_request__fit = MappingProxyType({"sample_weight": False})
    __metadata_request__partial_fit = __metadata_request__fit

    def __init__(
        self,
        # Loss
        loss: str | ContrastiveLoss = "auto",
        *,
        preset: str | None = None,
        hardening: str | LogHardening = "exponential",
        beta: float | str | BetaSchedule = 1.0,
        threshold: float = -0.25,
        top_k: int = 16,
        temperature: float | str | None = None,
        tau_plus: float | None = None,
        negative_mass: str | float | None = None,
        reduction: str | None = None,
        detach_weights: bool | None = None,
        positives: str | None = None,
        ce_weight: float | None = None,
        target_type: str = "auto",
        unlabeled_label: Any = None,
        # Encoder and embedding
        encoder: str | nn.Module | Callable[..., nn.Module] = "auto",
        hidden_layer_sizes: Sequence[int] | None = None,
        dropout: float | None = None,
        freeze: Sequence[str] | None = None,
        n_components: int | None = None,
        n_members: int | None = None,
        projection_dim: int | str | None = "auto",
        normalize: bool = False,
        channels: str = "auto",
        cross_fit: int | None = None,
        categorical_features: ArrayLike | None = "from_dtype",
        # Views and batches
        augment: AugmentParameter = "auto",
        n_views: int | str = "auto",
        batch_size: int | None = None,
        device_batch_size: int | str = "auto",
        sampler: str = "auto",
        # Optimization
        max_epochs: int | None = None,
        lr: float | None = None,
        lr_schedule: str | Schedule = "auto",
        lr_backoff: float | None = None,
        weight_decay: float | None = None,
        clip_norm: float | None = None,
        # Early stopping
        early_stopping: bool | str = "auto",
        validation_fraction: float = 0.1,
        n_iter_no_change: int | None = None,
        tol: float = 1e-4,
        # Runtime
        device: str | torch.device = "auto",
        precision: str = "auto",
        compile: bool = False,  # noqa: A002 - skorch and torch call it so
        n_threads: int | None = None,
        random_state: int | np.random.RandomState | None = None,
        warm_start: bool = False,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        resume: bool = False,
        verbose: int | bool = 0,
        # skorch
        net_params: dict[str, Any] | None = None,
        net_callbacks: Sequence[Any] | None = None,
    ) -> None:
        # Loss
        self.loss = loss
        self.preset = preset
        self.hardening = hardening
        self.beta = beta
        self.threshold = threshold
        self.top_k = top_k
        self.temperature = temperature
        self.tau_plus = tau_plus
        self.negative_mass = negative_mass
        self.reduction = reduction
        self.detach_weights = detach_weights
        self.positives = positives
        self.ce_weight = ce_weight
        self.target_type = target_type
        self.unlabeled_label = unlabeled_label
        # Encoder and embedding
        self.encoder = encoder
        self.hidden_layer_sizes = hidden_layer_sizes
        self.dropout = dropout
        self.freeze = freeze
        self.n_components = n_components
        self.n_members = n_members
        self.projection_dim = projection_dim
        self.normalize = normalize
        self.channels = channels
        self.cross_fit = cross_fit
        self.categorical_features = categorical_features
        # Views and batches
        self.augment = augment
        self.n_views = n_views
        self.batch_size = batch_size
        self.device_batch_size = device_batch_size
        self.sampler = sampler
        # Optimization
        self.max_epochs = max_epochs
        self.lr = lr
        self.lr_schedule = lr_schedule
        self.lr_backoff = lr_backoff
        self.weight_decay = weight_decay
        self.clip_norm = clip_norm
        # Early stopping
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        # Runtime
        self.device = device
        self.precision = precision
        self.compile = compile
        self.n_threads = n_threads
        self.random_state = random_state
        self.warm_start = warm_start
        self.checkpoint_dir = checkpoint_dir
        self.resume = resume
        self.verbose = verbose
        # skorch
        self.net_params = net_params
        self.net_callbacks = net_callbacks

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        *,
        X_val: ArrayLike | None = None,
        y_val: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        **unknown: object,
    ) -> Self:
        """Train the encoder.

        Parameters
        ----------
        X : array-like, frame, sparse or Dataset of shape (n_samples, n_features), or images
            Table of numbers and, in frames, categories; built-in encoders accept missing
            values (NaN, None, NA). Or images of shape (n_samples, H, W),
            (n_samples, H, W, C) or (n_samples, C, H, W), uint8 or float. At least 2
            samples. Sparse rows are made dense per batch; for ``"tabular"``, as a whole.
            Memory maps are read batch by batch, as is a torch map-style ``Dataset`` of
            rows or images, or of tuples whose first element is one (table rows for a
            built-in encoder are read at once). A list of paths, or a column of images,
            denotes images of the same size, decoded on demand; see
            :class:`~sklearn_hscl.image_files.ImageFiles`. A Parquet file, a folder of
            them or a ``pyarrow.dataset.Dataset`` is read by the row group. An encoder of
            texts takes a column of strings, and one of graphs a list of graphs.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Class labels (strings, bools or integers), an indicator matrix, or continuous
            values; see `target_type`. Ignored by ``"ucl"`` and ``"hucl"``, optional for
            ``"auto"`` and ``"sscl"``, required by the others. For those, None takes the
            second elements of the items of a ``Dataset``, which is read once for this. The
            name of a column if X is Parquet files.
        X_val : array-like, default=None
            Held-out samples for early stopping, in the form of `X`; replaces
            `validation_fraction`. A pipeline passes them through its earlier steps
            with ``Pipeline(..., transform_input=["X_val"])``.
        y_val : array-like, default=None
            Labels of `X_val`, if the loss uses labels; or the name of their column.
        groups : array-like of shape (n_samples,), default=None
            Group labels of the samples, e.g. patient or session; or the name of their
            column if X is Parquet files. Samples of a group are
            on the same side of every split in `fit`: that of `validation_fraction`, which
            is then approximate, and the folds that members of ``"tabular"`` do not see,
            for early stopping and for `cross_fit`. Unused without a split, as with
            `X_val`. None: each sample is a separate group.
        **unknown
            None is accepted. `sample_weight` raises an error that names alternatives.

        Returns
        -------
        HSCLEmbedder
            The fitted estimator itself. If fit fails, it is unchanged.

        Raises
        ------
        ValueError
            If a parameter or the data are invalid; the message names parameter or
            column, value and remedy.
        TypeError
            If `sample_weight` or another unknown argument is passed.
        FloatingPointError
            If the loss, a weight or an embedding becomes infinite or NaN. It is also a
            ``ValueError``, and names epoch, batch and samples.

        Warns
        -----
        UserWarning
            If Ctrl-C ends training after at least one epoch of a `fit` that the user
            called directly: the embedder keeps the model from the last completed epoch.
            The ``KeyboardInterrupt`` is raised inside a pipeline or a search, and while
            `beta` or `temperature` is selected. If a parameter of the loss or of layers
            has no effect with the others, or if `temperature` or `lr` is extreme.
        """
        refuse_fit_params("fit", unknown)
        self._fit(FitInput(X, y, X_val, y_val, groups))
        return self

    @training_together
    @default_settings()
    @_fit_context(prefer_skip_nested_validation=True)
    def _fit(self, given: FitInput) -> torch.Tensor | None:
        """Train; return the member that does not see each sample, if there is one."""
        warn_of_params(self)
        tasks = self._init_callback_context(max_subtasks=self.max_epochs)
        tasks.call_on_fit_task_begin(estimator=self, X=given.X, y=given.y)
        run = fit(
            self,
            given,
            lambda run: SklearnCallbackBridge(
                tasks, self, given.X, given.y, lambda net: run.snapshot()
            ),
        )
        fitted = take_over(self, run)
        tasks.call_on_fit_task_end(
            estimator=self,
            X=given.X,
            y=given.y,
            reconstruction_attributes=lambda: fitted,
        )
        warn_of_lr(self)
        warn_if_below_floor(self)
        return run.folds

    @default_settings()
    def fit_transform(
        self, X: ArrayLike, y: ArrayLike | None = None, **fit_params: Any
    ) -> NDArray[Any]:
        """Train the encoder, and embed the training samples.

        With `cross_fit`, each sample is embedded by the member that has not seen it, so
        that downstream estimators are fitted to embeddings that resemble those of new
        samples. They have unit norm with `normalize`, else the norm expected of the
        members' mean for new samples, as estimated from the agreement of the members.
        Without `cross_fit`, the result equals that of :meth:`transform`.

        Parameters
        ----------
        X, y : array-like
            As for :meth:`fit`.
        **fit_params
            Further arguments of :meth:`fit`, such as `groups`, which the folds of
            `cross_fit` keep whole.

        Returns
        -------
        ndarray of shape (n_samples, n_components)
        """
        if self.cross_fit is None:
            return super().fit_transform(X, y, **fit_params)
        known = {"X_val", "y_val", "groups"}
        refuse_fit_params("fit_transform", fit_params.keys() - known)
        folds = self._fit(FitInput(X, y, **fit_params))
        assert folds is not None  # as cross_fit says so
        folds = folds.cpu().numpy()
        members = self._embed(X, AllMembers(self.module_), normalize=False)
        scale = float(self.module_.output_scale)
        members = members.reshape(len(folds), self.cross_fit, -1) / scale  # (n, M, D)
        unseeing = members[np.arange(len(folds)), folds]  # (n, D), of unit length
        if self.normalize:
            return unseeing
        return unseeing * (scale * norm_of_means(members, unseeing))

    @training_together
    @default_settings()
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        classes: ArrayLike | None = None,
        **unknown: object,
    ) -> Self:
        """Train for one epoch on some samples, for data that arrive in chunks.

        The first call determines the scales and the initial importance of the columns,
        and the classes. Later calls continue from the weights, at the constant learning
        rate `lr` and without early stopping. Pass chunks of many batches, as samples are
        compared within a chunk only.

        Parameters
        ----------
        X, y : array-like
            As for :meth:`fit`.
        classes : array-like of shape (n_classes,), default=None
            All class labels, for the first call; None takes those in y. Later calls
            accept None or the same classes.
        **unknown
            None is accepted, as in :meth:`fit`.

        Returns
        -------
        HSCLEmbedder
            The estimator itself.

        Raises
        ------
        ValueError
            As in :meth:`fit`, and for labels or `classes` that were not in the first
            call's `classes`.

        Warns
        -----
        UserWarning
            If a later chunk has a single row, which is skipped unless cross-entropy is part
            of the loss.
        """
        refuse_fit_params("partial_fit", unknown)
        self._validate_params()  # which scikit-learn spares fitted estimators here
        is_first = not hasattr(self, "module_")
        run = fit_chunk(self, FitInput(X, y), classes)
        if run is not None:
            take_over(self, run)
        if is_first:
            warn_of_params(self)
            warn_of_lr(self)
        return self

    def transform(self, X: ArrayLike) -> NDArray[Any]:
        """Embed samples.

        The embedding of a sample depends on that sample alone. On a CPU with a fixed
        number of threads, any batching, subset or order gives the same bits: the first
        call measures in which batch sizes this holds for the encoder. The last bits may
        differ if it finds none, as for custom modules that mix samples.

        Parameters
        ----------
        X : array-like, frame, sparse or Dataset of shape (n_samples, n_features), or images
            Samples in the form that `fit` got; at least one. Of Parquet files, the columns
            of `fit` are read by name. Arrays, memory maps, sparse
            rows and torch datasets are read in chunks and never copied as a whole.

        Returns
        -------
        ndarray of shape (n_samples, n_components)
            float32 or float64 as X; float64 for tables of integers, float32 for images
            of integers.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the embedder was not fitted.
        ValueError
            If X has different columns or another shape than in fit, or values that the
            encoder does not accept, such as infinity.
        """
        check_is_fitted(self)
        return self._embed(X, self.module_, normalize=self.normalize)

    @default_settings()
    def _embed(self, X: Any, encoder: nn.Module, *, normalize: bool) -> NDArray[Any]:
        return self._embed_rows(self._check_rows(X), encoder, normalize=normalize)

    def _check_rows(self, X: Any, *, name: str = "X") -> Any:
        """Validate rows in the form that `fit` got."""
        shape = self.input_shape_
        return check_rows(self, X, columns=self._columns, fitted_shape=shape, name=name)

    def _embed_rows(
        self, rows: Any, encoder: nn.Module, *, normalize: bool
    ) -> NDArray[Any]:
        """Embed validated samples."""
        options = EmbeddingOptions(
            self.device_, self._precision, normalize=normalize, n_threads=self.n_threads
        )
        return embed_array(encoder, self._prepare, rows, options)

    def __sklearn_tags__(self) -> Tags:
        """Return the tags; labels are required only by losses that use them."""
        tags = super().__sklearn_tags__()
        tags.target_tags.required = requires_labels(self)
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        tags.input_tags.three_d_array = True
        tags.input_tags.sparse = True
        takes = content_for(self.encoder)
        tags.input_tags.string = takes == "texts"
        tags.input_tags.one_d_array = takes in ("texts", "graphs")
        built_in = isinstance(self.encoder, str) and takes == "tables or images"
        tags.input_tags.allow_nan = built_in
        tags.input_tags.categorical = built_in and self.categorical_features is not None
        return tags

    def _get_fitted_attr_html(self, doc_link: str = "") -> AttrsDict:
        """Add what `fit` found to the fitted attributes in the HTML representation."""
        attributes = super()._get_fitted_attr_html(doc_link)
        return AttributesWithReport(self, attributes)
