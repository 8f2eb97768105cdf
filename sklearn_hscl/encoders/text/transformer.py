"""Transformers behind tokens: a model with its tokenizer, or a SentenceTransformer."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from sklearn_hscl.data.texts import (
    NAME_PREFIX,
    OBJECT_NAME,
    is_sentence_transformer,
    reads_texts,
)
from sklearn_hscl.encoders.text.tokens import Tokenization, embed_batch, n_positions
from sklearn_hscl.runtime.random_state import scoped_torch_seed

_POOLINGS = ("mean", "first", "last")
_MAX_LENGTH = 512  # where neither the tokenizer nor the model says what it takes


class TextEncoder(nn.Module):
    """A transformer with its tokenizer, for texts as X.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Maps `input_ids` and `attention_mask` to `last_hidden_state`.
    tokenizer : transformers.PreTrainedTokenizerBase
        The tokenizer that belongs to the weights of `model`.
    pooling : {"mean", "first", "last"}, default="mean"
        What becomes the embedding of a text: the mean of its tokens, its first token, as
        in models of the kind of BERT, or its last one, as in decoders.
    max_length : int or None, default=None
        Number of tokens that are read of a text. None: what tokenizer and model take.

    Raises
    ------
    TypeError
        If `model` or `tokenizer` is a name or a class, or `max_length` is not an integer.
    ValueError
        If `pooling` is another, or `max_length` is not positive or more than the model
        has positions.

    Examples
    --------
    >>> from sklearn_hscl import HSCLEmbedder
    >>> from sklearn_hscl.encoders import TextEncoder
    >>> from transformers import AutoModel, AutoTokenizer  # doctest: +SKIP
    >>> encoder = TextEncoder(  # doctest: +SKIP
    ...     AutoModel.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    ... )
    >>> HSCLEmbedder(encoder=encoder).fit(texts, y)  # doctest: +SKIP
    """

    reads_texts = True

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        pooling: str = "mean",
        max_length: int | None = None,
    ) -> None:
        super().__init__()
        if pooling not in _POOLINGS:
            raise ValueError(f"pooling={pooling!r} must be one of {list(_POOLINGS)}.")
        _check_parts(model, tokenizer)
        self.model = model
        self.tokenizer = tokenizer
        self.pooling = pooling
        self.max_length = _max_length(model, tokenizer, max_length)

    @property
    def tokenization(self) -> Tokenization:
        """Map of texts to the tokens that this module takes."""
        return Tokenization(self.tokenizer, self.max_length)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, 2, L) to embeddings (B, n_components)."""
        return embed_batch(self._embed, tokens, self.max_length, training=self.training)

    def _embed(self, indices: Tensor, mask: Tensor) -> Tensor:
        hidden = self.model(input_ids=indices, attention_mask=mask).last_hidden_state
        if self.pooling == "first":
            return hidden[:, 0]
        n_tokens = mask.sum(1).clamp(min=1)
        if self.pooling == "last":
            return hidden[torch.arange(len(hidden)), n_tokens - 1]
        weight = mask.unsqueeze(2).to(hidden)  # (B, L, 1)
        return (hidden * weight).sum(1) / n_tokens.unsqueeze(1)


def _check_parts(model: object, tokenizer: object) -> None:
    """Raise where model and tokenizer are names or classes."""
    if not (isinstance(model, nn.Module) and hasattr(model, "config")):
        raise TypeError(
            f"Expected model to be one of transformers, got {model!r:.80}. Pass "
            f"AutoModel.from_pretrained(path)."
        )
    if isinstance(tokenizer, type) or not hasattr(tokenizer, "model_max_length"):
        raise TypeError(
            f"Expected tokenizer to be one of transformers, got {tokenizer!r:.80}. Pass "
            f"AutoTokenizer.from_pretrained(path)."
        )


def _max_length(model: nn.Module, tokenizer: Any, given: int | None) -> int:
    """Return what was given, or else the smaller of what tokenizer and model take."""
    positions = n_positions(model)
    if given is None:
        longest = positions or getattr(model.config, "max_position_embeddings", None)
        # Some have huge placeholders.
        known = [n for n in (tokenizer.model_max_length, longest) if n and n < 2**20]
        return min(known, default=_MAX_LENGTH)
    if not isinstance(given, Integral) or isinstance(given, bool):
        raise TypeError(
            f"max_length={given!r} must be a positive integer, or None for what tokenizer "
            f"and model take."
        )
    if given < 1 or (positions is not None and given > positions):
        most = (
            ""
            if positions is None
            else f" of at most {positions}, the positions of the model"
        )
        raise ValueError(
            f"max_length={given!r} must be a positive integer{most}. Pass None for what "
            f"tokenizer and model take."
        )
    return int(given)


def open_text_encoder(encoder: Any, fitted: nn.Module | None = None) -> Any:
    """Return an encoder of texts as a module of tokens; other encoders as they are.

    Parameters
    ----------
    encoder : str, nn.Module or callable
        The parameter of the embedder.
    fitted : nn.Module or None
        Encoder of an earlier fit, which replaces one by name: its folder may be gone.

    Raises
    ------
    ImportError
        If sentence-transformers is not installed.
    ValueError
        If a name cannot be loaded, or the model reads something other than texts.
    """
    if not reads_texts(encoder):
        return encoder
    if isinstance(encoder, str) and fitted is not None:
        encoder = fitted
    if isinstance(encoder, str) and encoder == OBJECT_NAME:
        raise ValueError(
            "encoder was an object when this embedder was saved, and its file holds the "
            "weights after training alone. Pass the object again by "
            "set_params(encoder=...) to train from its weights, or the module_ of the "
            "loaded embedder to train from those."
        )
    if not isinstance(encoder, str):
        # Tokenizers change when they are called. The weights are copied later.
        shared = (*encoder.parameters(), *encoder.buffers())
        encoder = copy.deepcopy(encoder, {id(tensor): tensor for tensor in shared})
    if not (isinstance(encoder, str) or is_sentence_transformer(encoder)):
        return encoder
    try:
        from sklearn_hscl.encoders.text import sentence_transformer
    except ImportError as error:
        raise ImportError(
            f"encoder={encoder!r:.80} needs sentence-transformers. Run pip install "
            f"sklearn-hscl[texts]."
        ) from error
    if isinstance(encoder, str):
        with without_progress():
            encoder = sentence_transformer.load(encoder.removeprefix(NAME_PREFIX))
    return sentence_transformer.of_tokens(encoder)


@contextmanager
def without_progress() -> Iterator[None]:
    """Let transformers read or write without progress bars, and leave torch's seed."""
    from transformers.utils import logging

    is_shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with scoped_torch_seed(0):  # weights that a file lacks are drawn
            yield
    finally:
        if is_shown:
            logging.enable_progress_bar()
