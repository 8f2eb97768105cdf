"""HSCLEmbedder: the scikit-learn face of the library."""

import copy
import os
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, Self, cast

import joblib
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
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
from sklearn_hscl.data.categorical import FROM_DTYPE
from sklearn_hscl.data.validation import (
    FitInput,
    FittedInput,
    TargetOptions,
    check_rows,
    embedding_dtype,
    read_training_data,
)
from sklearn_hscl.encoders.batches import TABLE_SIZES
from sklearn_hscl.encoders.inference import embed_array
from sklearn_hscl.encoders.tabular.encoder import AllMembers
from sklearn_hscl.losses import BetaSchedule, ContrastiveLoss
from sklearn_hscl.losses.hardening import LogHardening
from sklearn_hscl.losses.presets import REQUIRE_LABELS, check_one_loss
from sklearn_hscl.persistence.mixin import PersistenceMixin
from sklearn_hscl.reports.training_report import AttributesWithReport
from sklearn_hscl.runtime.random_state import Seeds, draw_seeds
from sklearn_hscl.runtime.threads import choose_threads, has_small_steps, torch_threads
from sklearn_hscl.training.batches.views import AugmentParameter
from sklearn_hscl.training.callbacks.checkpoint import (
    Checkpoint,
    environment_of_fit,
    fingerprint_of_fit,
    open_checkpoint,
    refuse_checkpoint,
)
from sklearn_hscl.training.callbacks.sklearn_tasks import SklearnCallbackBridge
from sklearn_hscl.training.config import GivenConfig
from sklearn_hscl.training.ensemble import norm_of_means
from sklearn_hscl.training.fitted_state import OPTIONAL_ATTRIBUTES
from sklearn_hscl.training.interruption import called_by_another_estimator
from sklearn_hscl.training.loop.callback import TrainingCallback
from sklearn_hscl.training.loop.learning_rate import Schedule
from sklearn_hscl.training.param_constraints import CONSTRAINTS
from sklearn_hscl.training.prepared_data import PreparedData
from sklearn_hscl.training.run import TrainingRun, WarmStart, prepare_run
from sklearn_hscl.training.stacked.auto_select import (
    DEFAULT_SCALES,
    LossScales,
    is_auto,
    loss_scales,
    train_best,
)

# Width of the kernel of continuous targets, in their standard deviations.
TARGET_BANDWIDTH = 0.5


class HSCLEmbedder(
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    CallbackSupportMixin,
    PersistenceMixin,
    BaseEstimator,
):
    """Embed rows or images by contrastive learning with hard negatives.

    Trains an encoder so that rows of one class (or views of one row) lie close
    together and all others far apart, where the others that are hard to tell apart
    count most. :meth:`transform` returns the encoder's output, for any estimator that
    follows in a pipeline.

    Read more in the :ref:`user guide <user_guide>`.

    Parameters
    ----------
    loss : str or ContrastiveLoss, default="auto"
        Who is pulled together and who is pushed apart:

        - ``"ucl"``: views of the same row against all other rows; labels are ignored.
        - ``"scl"``: rows of one class against rows of other classes.
        - ``"hucl"``, ``"hscl"``: the same two with hardened negatives.
        - ``"supcon"``: as ``"scl"`` with all positives in the denominator (Khosla).
        - ``"sscl"``: synthetic hard negatives; with labels or without.
        - ``"schane"``: hard negatives with a jointly trained cross-entropy.
        - ``"auto"``: ``"hscl"`` with labels, ``"hucl"`` without, as the paper bounds
          the loss of the first by that of the second.
        - a :class:`~sklearn_hscl.losses.ContrastiveLoss`: used as it is; the parameters
          from `preset` to `ce_weight` are then ignored, but for a schedule as `beta`.

    preset : {None, "official"}, default=None
        ``"official"``: what the authors' code of ``"hscl"``, ``"scl"`` or ``"hucl"``
        computes. Parameters that are given override it.
    hardening : str or callable, default="exponential"
        How negatives are tilted towards the anchor. ``"exponential"``: with weight
        e^(beta * s), s the cosine divided by `temperature`. ``"threshold"``: only those
        whose cosine is at least `threshold`. ``"polynomial"``: with weight
        ((1 + cosine) / 2)^beta. ``"top_k"``: only the `top_k` hardest. Or a function
        from s to the logarithm of the weight. Ignored by losses without hardening.
    beta : float, "auto" or BetaSchedule, default=1.0
        Strength of the exponential or polynomial tilt, at least 0 (no tilt). 1 is where
        the authors advise to start; what matters on the cosine is beta / temperature.
        ``"auto"`` trains five strengths from 0 to 4 at once and keeps the one with the
        best held-out score of `early_stopping`, which has to be on and takes class
        labels; callbacks do not see these epochs. It takes some two to four times as
        long. What was chosen is `beta_`.
        A schedule (:class:`~sklearn_hscl.losses.WarmUpBeta`, ``LinearBeta``,
        ``CosineBeta``, ``StepBeta``) changes it from epoch to epoch.
    threshold : float, default=-0.25
        Cosine in [-1, 1] from which a negative counts under threshold hardening; the
        authors' start value at temperature 0.5.
    top_k : int, default=16
        Negatives of each anchor that count under ``hardening="top_k"``.
    temperature : float or "auto", default=0.5
        Scale of the cosine similarities, above 0; the authors' value. Lower values look
        at fewer, closer rows. ``"auto"`` chooses from 0.2, 0.5 and 1.0, as for `beta`.
    tau_plus : float or None, default=None
        Share in [0, 1) of negatives that are expected to be positives, taken out by the
        debiased loss. None here and in the next five: as the loss has it, see
        :mod:`sklearn_hscl.losses.presets`.
    negative_mass : {"negatives", "batch"}, float or None, default=None
        What the mean over negatives is multiplied by: their number, the batch size
        minus 2, or a constant.
    reduction : {"anchors", "pairs", "classes"} or None, default=None
        What weighs the same in a batch: each row, each pair of positives (large
        classes then weigh more), or each class.
    detach_weights : bool or None, default=None
        Whether the tilt is a constant in the gradient.
    positives : {"all", "view"} or None, default=None
        Rows of the same class, or only views of the same row.
    ce_weight : float or None, default=None
        Share in [0, 1] of the cross-entropy of a linear classifier on the embedding that
        is trained along and dropped; needs class labels. None here: half in
        ``"tabular"`` and ``"conv"`` where the loss is given by name and without preset,
        else as the loss has it.
    target_type : {"auto", "class", "multilabel", "continuous"}, default="auto"
        What y holds: class labels; an indicator matrix of several labels per row, whose
        overlap says how much two rows are positives; or numbers, where closeness does
        (a Gaussian kernel of half a standard deviation). ``"auto"`` asks
        ``type_of_target``, and raises for integers where most rows have one of their own,
        unless `unlabeled_label` says that they are classes.
    unlabeled_label : int, str or None, default=None
        Class label that marks rows without label: positives of such a row are its views
        only. None: there are none, as -1 is an everyday class label.
    encoder : str, torch.nn.Module or callable, default="auto"
        The trained map from a row to its embedding.

        - ``"tabular"``: :class:`~sklearn_hscl.encoders.TabularEncoder`, an ensemble for
          dense tables: robustly scaled numbers and their quantile bins, embedded
          categories, residual layers. Where there are at least 16 columns and at most 64
          classes, random forests say what each column counts at first.
        - ``"mlp"``: Linear-ReLU layers on the standardised columns of a table, or on the
          pixels of an image. Missing values are allowed: they become the mean, with an
          indicator where training rows had some. Categories become one-hot columns for
          the 64 most frequent levels.
        - ``"conv"``: :class:`~sklearn_hscl.encoders.ConvEncoder`, a small convolutional
          network for images, quick enough for a CPU.
        - ``"resnet18"``, ``"resnet50"``: :class:`~sklearn_hscl.encoders.ResNetEncoder`,
          for images on a GPU; up to 64 pixels in the form that the papers train.
        - ``"timm:NAME"``, ``"torchvision:NAME"``: a model of a library that is installed,
          for images, with new weights and without its classifier; grey images become
          its three channels. For pretrained weights, pass the model as a module.
        - ``"auto"``: where the loss uses classes, ``"tabular"`` for dense tables and
          ``"conv"`` for images; else ``"mlp"``.
        - a module maps (B, n_features) or (B, C, H, W) in float32 to
          (B, n_components). It is copied; its weights are the start of training.
          Table columns reach it as they are, uint8 images divided by 255; columns
          named in `categorical_features` as codes, 1, 2, … and 0 for new levels.
        - a callable returns such a module. It is called with those of the keywords
          `input_shape`, `n_features` and `n_components` that it accepts.

    hidden_layer_sizes : sequence of int or None, default=None
        Widths of the hidden layers of built-in encoders, equal ones in ``"tabular"``; None
        for (128, 128, 128) in ``"tabular"`` and (256, 256) in ``"mlp"``, or (256,) for
        sparse rows with classes, such as words of texts. In ``"conv"`` one number, the
        channels of the first convolution; None for 32.
    dropout : float or None, default=None
        Share in [0, 1) of hidden units that built-in encoders leave out of each training
        step; None for 0.15 in ``"tabular"`` and 0 elsewhere.
    freeze : sequence of str or None, default=None
        Parts or weights of the encoder that training leaves as they are, by the names
        that torch gives them: ``["stem", "stages.0"]`` of a resnet. Batch
        normalisation in such parts keeps its running statistics. For fine-tuning a
        module with weights; a lower rate for all of it is
        ``net_params={"optimizer__param_groups": [("encoder.*", {"lr": 1e-4})]}``.
    n_components : int or None, default=None
        Width of the embedding; None for 32 in ``"tabular"``, for 64 in ``"mlp"`` and
        ``"conv"``, or for the width of a given module, a resnet or a library's model.
    n_members : int or None, default=None
        Members of ``"tabular"``, which share most weights and whose embeddings are
        averaged; None for 4.
    projection_dim : int, "auto" or None, default="auto"
        Width of the head Linear-ReLU-Linear between embedding and loss, which is
        dropped after training; None for no head. The head takes up what only the
        contrastive task needs: with it, classifiers on the embedding of ``"mlp"`` are
        better calibrated. ``"auto"``: 64; none in ``"tabular"`` and, with classes,
        ``"conv"``, whose cross-entropy does that work.
    normalize : bool, default=False
        Whether :meth:`transform` scales embeddings to unit length. The loss always
        does; downstream models did better with the length left in, above all after
        losses without labels.
    channels : {"auto", "first", "last"}, default="auto"
        Where 4-D images hold their channels; ``"auto"`` looks for an axis of 1, 3 or 4
        and raises where that is ambiguous. 3-D input is a stack of grey images.
    cross_fit : int or None, default=None
        Number of folds, at least 2, for ``fit_transform`` to embed each row by a member
        of ``"tabular"`` that has not seen it, so that what follows in a pipeline is
        better calibrated; `n_members` is then this number. Members share weights: see the
        user guide on what that lets through. None: ``fit_transform`` gives what
        ``transform`` gives, as scikit-learn's checks demand.
    categorical_features : "from_dtype", array-like or None, default="from_dtype"
        Which columns of a table are categories, of any number of levels.

        - ``"from_dtype"``: columns of a pandas or polars frame that hold categories,
          strings or bools, by their dtype or, for objects, by their values; no column
          of an array. An `encoder` of yours gets no categories then.
        - a list or array of column names, of positions, or a mask.
        - None: all columns are numeric, bools as 0 and 1.

        Levels of a single training row and levels that come later are one, "other".
    augment : {"auto"}, callable or None, default="auto"
        How a random view of a row is made, anew for every batch.

        - ``"auto"``: images are shifted by up to an eighth of their size; table rows
          that need several views get 20 % of their values replaced by values of other
          rows (:class:`~sklearn_hscl.augment.FeatureCorruption`).
        - an :class:`~sklearn_hscl.augment.Augmentation`, or any callable
          ``augment(rows, generator) -> views`` on tensors of shape (B, ...). With classes,
          :class:`~sklearn_hscl.augment.ClassCorruption` takes values of the own class.
        - None: rows as they are.

    n_views : int or "auto", default="auto"
        Views of each row in a batch; ``"auto"`` is 1 where labels give positives and
        else 2.
    batch_size : int, default=None
        Rows in a batch, at least 2 (4 with classes): the rows that are compared with
        each other. With classes, batches hold them in proportion and rows of a class
        in pairs. None is 256, which the authors advise at least, and 32 for
        ``encoder="conv"`` with classes, where more and smaller steps learn more in the
        same time.
    device_batch_size : int or "auto", default="auto"
        Views that are embedded at a time. The loss always compares the whole batch, with
        the same gradient: smaller values trade time for memory. ``"auto"`` takes what is
        expected to fit, and half of it (with a warning) when memory runs out. For
        encoders with batch statistics (BatchNorm) the chunk is part of the model: there
        ``"auto"`` is the whole batch, and running out of memory an error.
    sampler : {"auto", "stratified", "balanced", "shuffle"}, default="auto"
        How batches are composed. ``"stratified"``: as said above. ``"balanced"``: the
        same, after rows of smaller classes were repeated until all classes are as large
        as the largest. ``"shuffle"``: without regard to classes. ``"auto"``:
        ``"stratified"`` where the loss uses class labels, else ``"shuffle"``.
    max_epochs : int or None, default=None
        Passes over the training rows, of which each sees every row once. None: 20; in
        ``"conv"`` with classes 30, but at least 400 steps, and where they are more than
        8,000 steps fewer epochs, down to 8; in ``"tabular"`` as many as make 150 steps
        for every 256 rows, but at least 400, and beyond 1,500 the square root of 1,500
        times as many, up to 6,000; early stopping spares some; 100 steps for fewer than
        40 rows.
    lr : float or None, default=None
        Learning rate of AdamW, before `lr_schedule`; None for 2e-3, and for 4e-3 in
        ``"conv"`` with classes and in ``"mlp"`` where the loss uses no labels.
    lr_schedule : {"auto", "cosine", "warm_up", "constant"} or callable, default="auto"
        ``"warm_up"``: rise over the first 5 % of the steps. ``"cosine"``: the same, then
        fall to 0 along a cosine. A callable maps the progress of training, from 0 to 1,
        to a factor of `lr`. ``"auto"``: ``"warm_up"`` in ``"tabular"``, which stops
        early, and ``"cosine"`` elsewhere, unless `net_callbacks` has an ``LRScheduler``.
    lr_backoff : float or None, default=None
        Share in (0, 1) of the learning rate at which training goes on, once and with a
        warning, from the end of the last epoch before loss or weights became infinite or
        NaN, or of the one before if that shows in a first batch; copies of the training's
        state are kept for that. None: this is an error.
    weight_decay : float or None, default=None
        Weight decay of AdamW; None for 0.03 in ``"tabular"`` (biases excepted) and 1e-4
        elsewhere.
    clip_norm : float or None, default=None
        Largest norm of the gradient of a batch; longer ones are scaled down.
    early_stopping : bool or "auto", default="auto"
        Whether to hold out rows, score them after every epoch, stop when the score no
        longer improves, and keep the weights of the best epoch. The score is the
        accuracy of 5 nearest neighbours where there are class labels, and minus the
        held-out loss elsewhere. ``"auto"``: only with `X_val`; but in ``"tabular"`` with
        several members, at least 40 rows and cross-entropy each member is kept from its
        own share of the rows, which it then scores (minus the Brier score of the
        class probabilities), so that no row is lost. The same rows settle the length
        of the embeddings: the power of 2, from 1/16 to 16, at which a default
        ``LogisticRegression`` on them gives the better probabilities.
    validation_fraction : float, default=0.1
        Share of the rows in (0, 1) that early stopping holds out, by class where the
        classes are large enough, and in whole groups where `fit` gets `groups`; unused
        where it gets `X_val`.
    n_iter_no_change : int or None, default=None
        Scores without improvement after which early stopping stops; None for 10, and for
        5 in ``"tabular"``, whose members give 30 scores over the longest training.
    tol : float, default=1e-4
        Smallest improvement of the score that counts.
    device : str or torch.device, default="auto"
        Where to compute; ``"auto"`` is the GPU when there is one. In workers of joblib,
        ``"auto"`` spreads over all GPUs.
    precision : {"auto", "float64", "float32", "tf32", "bf16"}, default="auto"
        Types of numbers. ``"tf32"`` and ``"bf16"`` keep weights in float32 and multiply
        in less. ``"auto"``: float32; on an NVIDIA GPU tf32 for tables, bf16 for images.
    compile : bool, default=False
        Whether ``torch.compile`` translates the network first. It takes tens of seconds,
        and a C++ compiler on CPU: for long training of large encoders.
    n_threads : int or None, default=None
        Threads of torch in `fit` and `transform`, at most the cores that this process
        may use. None: 1 in workers of joblib and for tables in batches of at most 1,024
        views, which more threads make no faster; else what torch is set to.
    random_state : int, RandomState instance or None, default=None
        Seed of initial weights, batches, views and the held-out rows. An int gives the
        same embedding in every fit; None a new one. Global generators are not touched.
    warm_start : bool, default=False
        Whether `fit` goes on from the weights of the previous fit, with its columns'
        scales and its classes.
    checkpoint_dir : str, path-like or None, default=None
        Directory in which `fit` keeps ``checkpoint.pt``, the state of its training: the
        last epoch's weights and the best ones so far, optimizer, random generators. It is
        written at ends of epochs, as often as takes at most 5 % of the time, and replaced
        as a whole; reading it executes nothing. One directory is for one fit, without
        `net_callbacks`.
    resume : bool, default=False
        Whether `fit` goes on from what `checkpoint_dir` holds, if it holds something, to
        the same bits as without interruption. Data and parameters have to be the same.
    verbose : int or bool, default=0
        Whether to print a line for every epoch.
    net_params : dict or None, default=None
        Settings of the skorch net by skorch's names, such as
        ``{"optimizer": torch.optim.SGD, "optimizer__momentum": 0.9}``.
    net_callbacks : list or None, default=None
        skorch callbacks, or pairs (name, callback), copied in each fit (find them in
        ``net_.callbacks_``); they see epochs, not batches, in the history.
        scikit-learn's callbacks are set by ``set_callbacks``.

    Attributes
    ----------
    module_ : torch.nn.Module
        The trained encoder, without head.
    net_ : skorch.NeuralNet
        The net that trained it. In an embedder that was stored, what is left of it:
        ``module_``, ``history``, how rows were compared, and ``optimizer_`` where that
        was asked for.
    history_ : list of dict
        One entry per epoch: ``train_loss``; ``skipped_anchors``, how many anchors had
        no positive or no negative in their batch; ``effective_negatives``, how many
        negatives really count after the tilt; ``beta`` where it has a schedule;
        ``valid_score`` with early stopping.
    loss_curve_ : list of float
        The training loss of each epoch.
    n_iter_ : int
        Epochs that were run.
    best_epoch_ : int
        The epoch, counted from 1, whose weights were kept.
    chance_loss_ : float
        What the training loss of a batch would be if all rows had one embedding: a curve
        that stays there has learnt nothing, or collapsed.
    valid_score_name_ : str
        What ``valid_score`` is, with early stopping: ``"k-NN accuracy"``, ``"negative
        Brier score"`` (out of fold) or ``"negative loss"``.
    beta_, temperature_ : float
        Those of the loss: as given, or as chosen where they were ``"auto"``.
    classes_ : ndarray of shape (n_classes,)
        The class labels, where the loss uses them.
    is_categorical_ : ndarray of bool, shape (`n_features_in_`,)
        Which columns are categorical, where some are.
    categories_ : list of ndarray
        Levels of each categorical column in the rows passed to `fit`, where there are
        such columns.
    device_ : torch.device
        Where the encoder lies.
    n_threads_ : int
        Threads of torch in training.
    input_shape_ : tuple of int
        Shape of one row: (n_features,) or (channels, height, width).
    n_features_in_ : int
        Number of features, or of channels.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, where X has names that are all strings.

    See Also
    --------
    sklearn_hscl.diagnose : What is wrong with a fitted embedder, and what to try next.
    sklearn_hscl.losses.ContrastiveLoss : The loss alone, for plain torch.
    sklearn.neighbors.NeighborhoodComponentsAnalysis : A linear supervised embedding.

    References
    ----------
    Jiang, Nguyen, Ishwar, Aeron, "Supervised Contrastive Learning with Hard Negative
    Samples", arXiv 2209.00078.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.model_selection import train_test_split
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn_hscl import HSCLEmbedder
    >>> X, y = load_wine(return_X_y=True)
    >>> X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
    >>> pipe = make_pipeline(HSCLEmbedder(random_state=0), LogisticRegression())
    >>> pipe.fit(X_train, y_train).score(X_test, y_test) > 0.9
    True
    """

    _parameter_constraints = CONSTRAINTS

    def __init__(
        self,
        loss: str | ContrastiveLoss = "auto",
        *,
        preset: str | None = None,
        hardening: str | LogHardening = "exponential",
        beta: float | str | BetaSchedule = 1.0,
        threshold: float = -0.25,
        top_k: int = 16,
        temperature: float | str = 0.5,
        tau_plus: float | None = None,
        negative_mass: str | float | None = None,
        reduction: str | None = None,
        detach_weights: bool | None = None,
        positives: str | None = None,
        ce_weight: float | None = None,
        target_type: str = "auto",
        unlabeled_label: Any = None,
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
        categorical_features: ArrayLike | None = FROM_DTYPE,
        augment: AugmentParameter = "auto",
        n_views: int | str = "auto",
        batch_size: int | None = None,
        device_batch_size: int | str = "auto",
        sampler: str = "auto",
        max_epochs: int | None = None,
        lr: float | None = None,
        lr_schedule: str | Schedule = "auto",
        lr_backoff: float | None = None,
        weight_decay: float | None = None,
        clip_norm: float | None = None,
        early_stopping: bool | str = "auto",
        validation_fraction: float = 0.1,
        n_iter_no_change: int | None = None,
        tol: float = 1e-4,
        device: str | torch.device = "auto",
        precision: str = "auto",
        compile: bool = False,  # noqa: A002 - skorch and torch call it so
        n_threads: int | None = None,
        random_state: int | np.random.RandomState | None = None,
        warm_start: bool = False,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        resume: bool = False,
        verbose: int | bool = 0,
        net_params: dict[str, Any] | None = None,
        net_callbacks: Sequence[Any] | None = None,
    ) -> None:
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
        self.augment = augment
        self.n_views = n_views
        self.batch_size = batch_size
        self.device_batch_size = device_batch_size
        self.sampler = sampler
        self.max_epochs = max_epochs
        self.lr = lr
        self.lr_schedule = lr_schedule
        self.lr_backoff = lr_backoff
        self.weight_decay = weight_decay
        self.clip_norm = clip_norm
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.device = device
        self.precision = precision
        self.compile = compile
        self.n_threads = n_threads
        self.random_state = random_state
        self.warm_start = warm_start
        self.checkpoint_dir = checkpoint_dir
        self.resume = resume
        self.verbose = verbose
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
    ) -> Self:
        """Train the encoder.

        Parameters
        ----------
        X : array-like, frame, sparse or Dataset of shape (n_samples, n_features), or images
            Table of numbers and, in frames, categories, where built-in encoders allow
            missing values (NaN, None, NA); or images of shape (n_samples, H, W),
            (n_samples, H, W, C) or (n_samples, C, H, W), uint8 or float. At least 2
            rows. Sparse rows are scaled but not centred, and made dense by the batch.
            Memory maps stay in their file and are read by the batch, as is a torch
            map-style ``Dataset`` of rows or images, or of tuples that start with one
            (table rows for a built-in encoder are read at once). A list of paths names
            pictures of one size, decoded when they are needed; see
            :class:`~sklearn_hscl.data.image_files.ImageFiles`.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Class labels (strings, bools or integers), an indicator matrix, or numbers;
            see `target_type`. Ignored by ``"ucl"`` and ``"hucl"``, optional for
            ``"auto"`` and ``"sscl"``, required by the others. For those, None takes the
            second entries of the items of a ``Dataset``, and reads it once for that.
        X_val : array-like, default=None
            Held-out rows for early stopping, in the form of `X`; in place of
            `validation_fraction`. A pipeline passes them through its earlier steps
            with ``Pipeline(..., transform_input=["X_val"])``.
        y_val : array-like, default=None
            Labels of `X_val`, where the loss uses labels.
        groups : array-like of shape (n_samples,), default=None
            What rows belong together, such as the patient or the session that they come
            from. Rows of a group are never on both sides of a split made here: that of
            `validation_fraction` (then a share of the rows as near as whole groups come),
            and the shares of the rows that members of ``"tabular"`` do not see, for
            early stopping and for `cross_fit`. `X_val` leaves nothing to hold out, and
            without any split groups are not used. None: each row is its own.

        Returns
        -------
        HSCLEmbedder
            The fitted estimator itself. If fit fails, it stays as it was before.

        Raises
        ------
        ValueError
            If a parameter or the data cannot be used; the message names parameter or
            column, value and remedy.
        TypeError
            If X is sparse, but the encoder takes dense tables.
        FloatingPointError
            If the loss, a weight or an embedding becomes infinite or NaN; it is a
            ``ValueError``, too, and names epoch, batch and rows.

        Warns
        -----
        UserWarning
            If Ctrl-C ends training after at least one epoch, and nobody but the user has
            called `fit`: the embedder then is what the completed epochs made of it.
            Inside of a pipeline or a search, and where `beta` or `temperature` is chosen,
            the ``KeyboardInterrupt`` goes on.
        """
        self._fit(FitInput(X, y, X_val, y_val, groups))
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def _fit(self, given: FitInput) -> TrainingRun:
        tasks = self._init_callback_context(max_subtasks=self.max_epochs)
        tasks.call_on_fit_task_begin(estimator=self, X=given.X, y=given.y)
        previous = self._warm_start() if self.warm_start else None
        if previous is not None and self.cross_fit is not None:
            raise ValueError(
                f"cross_fit={self.cross_fit} cannot go on from a fit whose members have "
                f"seen rows of all folds: set warm_start=False."
            )
        checkpoint = open_checkpoint(self)
        seeds = self._draw_seeds(previous, checkpoint)
        data = self._read(given, previous)
        scales = self._loss_scales(data, previous)
        if len(scales) > 1:
            refuse_checkpoint(self, "beta='auto' and temperature='auto' train several")
            run = train_best(partial(self._prepare_run, data, seeds), scales)
            fitted = self._take_over(run)
        else:
            run = self._prepare_run(
                data, seeds, scales[0], previous=previous, checkpoint=checkpoint
            )
            report = SklearnCallbackBridge(
                tasks, self, given.X, given.y, lambda net: run.snapshot()
            )
            fitted = self._train(run, report)
        tasks.call_on_fit_task_end(
            estimator=self,
            X=given.X,
            y=given.y,
            reconstruction_attributes=lambda: fitted,
        )
        return run

    def fit_transform(
        self, X: ArrayLike, y: ArrayLike | None = None, **fit_params: Any
    ) -> NDArray[Any]:
        """Train the encoder, and embed the training rows.

        With `cross_fit`, the embedding of each row is that of the member that has not
        seen it, as unseen rows look: what follows in a pipeline then learns from
        embeddings like those that it will be asked about. They have unit length with
        `normalize`, else the one that means of members have in new rows, as estimated from
        how much the members agree. Without `cross_fit` it is that of :meth:`transform`.

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
        folds = self._fit(FitInput(X, y, **fit_params)).folds
        assert folds is not None  # as cross_fit says so
        folds = folds.cpu().numpy()
        members = self._embed(X, AllMembers(self.module_), normalize=False)
        scale = float(self.module_.output_scale)
        members = members.reshape(len(folds), self.cross_fit, -1) / scale  # (n, M, D)
        unseeing = members[np.arange(len(folds)), folds]  # (n, D), of unit length
        if self.normalize:
            return unseeing
        return unseeing * (scale * norm_of_means(members, unseeing))

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        classes: ArrayLike | None = None,
    ) -> Self:
        """Train for one epoch on some rows, for data that come piece by piece.

        The first call settles the scales of the columns, what they count at first, and
        the classes; later ones go on with the weights, at the constant rate `lr` and
        without early stopping. Pass pieces of many batches: rows are compared with rows
        of the same piece.

        Parameters
        ----------
        X, y : array-like
            As for :meth:`fit`.
        classes : array-like of shape (n_classes,), default=None
            All class labels that will come, for the first call; None for those in y.

        Returns
        -------
        HSCLEmbedder
            The estimator itself.

        Raises
        ------
        ValueError
            As in :meth:`fit`, and for labels that the first call has not announced.
        """
        once = {
            "max_epochs": 1,
            "lr_schedule": "constant",
            "early_stopping": False,
            "cross_fit": None,
            "n_members": self.n_members or self.cross_fit,
        }
        self._validate_params()  # which scikit-learn spares fitted estimators here
        refuse_checkpoint(self, "partial_fit trains piece by piece")
        previous = self._warm_start()
        data = self._read(FitInput(X, y), previous, classes)
        scales = self._loss_scales(data, previous)
        if len(scales) > 1:
            raise ValueError(
                f"beta={self.beta!r} and temperature={self.temperature!r} are selected on "
                f"held-out samples, which partial_fit does not have. Pass numbers."
            )
        seeds = self._draw_seeds(previous)
        run = self._prepare_run(data, seeds, scales[0], previous=previous, changes=once)
        self._train(run, TrainingCallback())
        return self

    def transform(self, X: ArrayLike) -> NDArray[Any]:
        """Embed rows.

        The embedding of a sample depends on that sample alone. On a CPU, any batching,
        subset or order gives the same bits, with one number of threads: the first call
        measures in which batches the encoder does so on this processor. Last bits may
        differ if it finds none, as for custom modules that mix samples.

        Parameters
        ----------
        X : array-like, frame, sparse or Dataset of shape (n_samples, n_features), or images
            Rows in the form that `fit` got; one row is enough. Arrays, memory maps,
            sparse rows and torch datasets are read chunk by chunk, never copied as a
            whole.

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
            If X has other columns or another shape than in fit, or holds values that
            the encoder does not take, such as infinity.
        """
        check_is_fitted(self)
        return self._embed(X, self.module_, normalize=self.normalize)

    def _embed(self, X: Any, encoder: nn.Module, *, normalize: bool) -> NDArray[Any]:
        return self._embed_rows(self._check_rows(X), encoder, normalize=normalize)

    def _check_rows(self, X: Any, *, name: str = "X") -> Any:
        """Validate rows in the form that `fit` got."""
        shape = self.input_shape_
        return check_rows(self, X, columns=self._columns, fitted_shape=shape, name=name)

    def _embed_rows(
        self, rows: Any, encoder: nn.Module, *, normalize: bool
    ) -> NDArray[Any]:
        """Embed validated rows."""
        small = has_small_steps(TABLE_SIZES[-1], rows.ndim)  # for any number of rows
        with torch_threads(choose_threads(self.n_threads, small_steps=small)):
            return embed_array(
                encoder,
                self._prepare,
                rows,
                device=self.device_,
                normalize=normalize,
                precision=self._precision,
                dtype=embedding_dtype(rows),
            )

    def __sklearn_tags__(self) -> Tags:
        """Return the tags; labels are required only by losses that use them."""
        tags = super().__sklearn_tags__()
        tags.target_tags.required = self._requires_labels()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        tags.input_tags.three_d_array = True
        tags.input_tags.sparse = self.encoder != "tabular"
        built_in = isinstance(self.encoder, str)
        tags.input_tags.allow_nan = built_in
        tags.input_tags.categorical = built_in and self.categorical_features is not None
        return tags

    def _get_fitted_attr_html(self, doc_link: str = "") -> AttrsDict:
        """Add what `fit` found to the fitted attributes in the HTML representation."""
        attributes = super()._get_fitted_attr_html(doc_link)
        return AttributesWithReport(self, attributes)

    def _warm_start(self) -> WarmStart | None:
        """Return what a fit can continue; None before the first one."""
        if not hasattr(self, "net_"):
            return None
        fitted = FittedInput(self._encode_targets, self._columns, self.input_shape_)
        return WarmStart(self.net_, self._prepare, fitted, self._seeds)

    def _draw_seeds(
        self, previous: WarmStart | None = None, checkpoint: Checkpoint | None = None
    ) -> Seeds:
        """Draw the seeds of a fit."""
        if previous is None and self.random_state is None and checkpoint is not None:
            return checkpoint.seeds or draw_seeds(None)
        if previous is None:
            return draw_seeds(self.random_state)
        # Another piece of data gets other random numbers, but always the same ones.
        return draw_seeds(previous.seeds.batches)

    def _read(
        self,
        given: FitInput,
        previous: WarmStart | None = None,
        classes: ArrayLike | None = None,
    ) -> PreparedData:
        """Validate what `fit` gets; nothing is written on the estimator."""
        options = self._target_options(classes)
        fitted = None if previous is None else previous.input
        return PreparedData(read_training_data(self, given, options, fitted))

    def _target_options(self, classes: ArrayLike | None = None) -> TargetOptions:
        """Return how the loss and the parameters read y."""
        loss = self._contrastive_loss(has_labels=True)
        return TargetOptions(
            loss=loss.loss,
            uses_labels=loss.uses_labels(True),
            requires_labels=self._requires_labels(),
            target_type=self.target_type,
            unlabeled_label=self.unlabeled_label,
            classes=classes,
        )

    def _reading_key(self, X: object) -> Hashable:
        """Return what is equal for embedders that validate the same data alike."""
        chosen = self.categorical_features
        return (
            replace(self._target_options(), loss=""),  # named in messages only
            chosen if chosen is None or isinstance(chosen, str) else joblib.hash(chosen),
            self.channels,
            isinstance(self.encoder, str),
            issparse(X) and self.encoder == "tabular",  # which refuses them
        )

    def _prepare_run(
        self,
        data: PreparedData,
        seeds: Seeds,
        scales: LossScales,
        *,
        previous: WarmStart | None = None,
        checkpoint: Checkpoint | None = None,
        changes: Mapping[str, object] = MappingProxyType({}),
    ) -> TrainingRun:
        """Build what training needs; `changes` are parameters."""
        params = self.get_params(deep=False) | scales._asdict() | changes
        loss = self._contrastive_loss(data.data.has_labels, scales)
        config = GivenConfig.of(params)
        run = prepare_run(config, data, loss, seeds, previous, checkpoint)
        if checkpoint is not None:
            fingerprint = fingerprint_of_fit(params, data.data, seeds, run.net)
            checkpoint.start_fit(fingerprint, environment_of_fit(run.n_threads), seeds)
        return run

    def _given_scales(self) -> LossScales:
        """Return beta and temperature as given; neither is to be selected."""
        return LossScales(cast(float, self.beta), cast(float, self.temperature))

    def _loss_scales(
        self, data: PreparedData, previous: WarmStart | None
    ) -> list[LossScales]:
        """Return the values of beta and temperature to try; one pair if they are given."""
        if not (is_auto(self.beta) or is_auto(self.temperature)):
            return [self._given_scales()]
        if isinstance(self.loss, ContrastiveLoss):
            raise ValueError(
                f"beta={self.beta!r} and temperature={self.temperature!r} are settings of "
                f"losses by name, but loss is a ContrastiveLoss with its own: leave them."
            )
        if previous is not None:
            given = self._given_scales()
            return [
                LossScales(
                    self.beta_ if is_auto(given.beta) else given.beta,
                    self.temperature_ if is_auto(given.temperature) else given.temperature,
                )
            ]
        hardened = self._contrastive_loss(data.data.has_labels).options.hardened
        return loss_scales(self.beta, self.temperature, hardened=hardened)

    def _train(self, run: TrainingRun, report: TrainingCallback) -> dict[str, Any]:
        """Train, and take over all fitted attributes, which are returned, too."""
        try:
            run.train_with(report)
        except KeyboardInterrupt:
            if run.net.n_completed == 0 or called_by_another_estimator():
                raise
            run.end_early()
            warnings.warn(
                f"Training was interrupted after {run.net.n_completed} of "
                f"{run.net.max_epochs} epochs: the embedder is what these made of it.",
                UserWarning,
                stacklevel=3,
            )
        return self._take_over(run)

    def _take_over(self, run: TrainingRun) -> dict[str, Any]:
        """Take over all fitted attributes of a run; return them, too."""
        fitted = run.fitted_state().attributes()
        for name in OPTIONAL_ATTRIBUTES:
            self.__dict__.pop(name, None)  # of a fit on other data before
        self.__dict__.update(fitted)
        return fitted

    def _contrastive_loss(
        self, has_labels: bool, scales: LossScales = DEFAULT_SCALES
    ) -> ContrastiveLoss:
        """Return a new loss by the parameters."""
        if isinstance(self.loss, ContrastiveLoss):
            check_one_loss(self.loss.options)
            return copy.deepcopy(self.loss)
        beta, temperature = scales
        automatic = "hscl" if has_labels else "hucl"
        return ContrastiveLoss(
            automatic if self.loss == "auto" else self.loss,
            preset=self.preset,
            hardening=self.hardening,
            beta=0.0 if isinstance(beta, BetaSchedule) else beta,
            threshold=self.threshold,
            top_k=self.top_k,
            temperature=temperature,
            tau_plus=self.tau_plus,
            negative_mass=self.negative_mass,
            reduction=self.reduction,
            detach_weights=self.detach_weights,
            positives=self.positives,
            ce_weight=self.ce_weight,
            bandwidth=TARGET_BANDWIDTH,
        )

    def _requires_labels(self) -> bool:
        if isinstance(self.loss, ContrastiveLoss):
            return self.loss.requires_labels
        return self.loss in REQUIRE_LABELS
