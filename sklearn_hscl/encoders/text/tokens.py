"""Texts as tokens: int32 rows (n, 2, L) of token indices, and of 1 where there is one.

The tokens of a text come first, and zeros fill its row. No encoder depends on the filling,
so that texts of all lengths fit into one array, and batches are cut to their longest text.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import joblib
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

# Texts are embedded together whose lengths are equal when rounded up to this multiple.
_LENGTH_STEP = 8
_MAX_TEXTS = 64  # texts that are embedded at a time, which keeps few activations
_GROUP_SIZE = 16  # texts of a training batch that are embedded at a time


@dataclass(frozen=True)
class Tokenization:
    """Preparation of texts for a transformer.

    Attributes
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
        The tokenizer that belongs to the weights.
    max_length : int
        Number of tokens that the transformer takes; the rest of a text is cut off.
    prompt : str
        What precedes every text.
    """

    tokenizer: Any
    max_length: int
    prompt: str = ""
    layout: None = None
    key: str = field(init=False)
    """Equal for tokenizations that give equal tokens."""

    def __post_init__(self) -> None:
        """Take the key after a call: a tokenizer remembers how it was called last."""
        self.tokenizer([""], truncation=True, max_length=self.max_length)
        key = joblib.hash((self.tokenizer, self.max_length, self.prompt))
        object.__setattr__(self, "key", key)

    def __call__(self, rows: np.ndarray, dtype: torch.dtype = torch.float32) -> Tensor:
        """Map texts (n,) to tokens (n, 2, L), where L is the length of the longest."""
        texts = [self.prompt + text for text in rows]
        encoded = self.tokenizer(texts, truncation=True, max_length=self.max_length)
        indices = encoded["input_ids"]
        lengths = np.fromiter(map(len, indices), dtype=np.int64, count=len(indices))
        is_token = np.arange(max(1, lengths.max())) < lengths[:, None]  # (n, L)
        tokens = np.zeros((len(indices), 2, is_token.shape[1]), dtype=np.int32)
        tokens[:, 0][is_token] = np.concatenate([np.zeros(0, np.int32), *indices])
        tokens[:, 1] = is_token
        return torch.from_numpy(tokens)

    def messages_of_cut(self, tokens: Tensor) -> list[str]:
        """Return a message if texts have as many tokens as the transformer takes."""
        n_full = int((lengths_of(tokens) >= self.max_length).sum())
        message = (
            f"{n_full} of {len(tokens)} texts have {self.max_length} tokens or more, of "
            f"which the encoder takes the first {self.max_length}. Split long texts, or "
            f"raise the maximum of the encoder if its weights allow it."
        )
        return [message] if n_full else []


def n_positions(transformer: nn.Module) -> int | None:
    """Return the number of tokens that have a position; None where any number has.

    A table of positions has one for each; models of the kind of RoBERTa leave out those
    up to that of the padding.
    """
    tables = [
        part.num_embeddings - (0 if part.padding_idx is None else part.padding_idx + 1)
        for name, part in transformer.named_modules()
        if isinstance(part, nn.Embedding) and _is_of_positions(name)
    ]
    if not tables:
        return None
    configs = (getattr(part, "config", None) for part in transformer.modules())
    stated = (getattr(config, "max_position_embeddings", None) for config in configs)
    return min(*tables, *(n for n in stated if n))


def _is_of_positions(name: str) -> bool:
    """Return whether a table is one of the positions of tokens, by its name."""
    if "vision" in name or "relative" in name:
        return False
    last = name.rpartition(".")[2]
    return last == "wpe" or "position" in last


def tokenization_of(encoder: Any) -> Tokenization:
    """Return the map of texts to the tokens that an encoder of texts takes."""
    return cast(Tokenization, encoder.tokenization)


def is_tokens(rows: Tensor) -> bool:
    """Return whether prepared rows are tokens: no other rows are int32."""
    return rows.dtype == torch.int32


def lengths_of(tokens: Tensor) -> Tensor:
    """Return the number of tokens of each text, (n,)."""
    return tokens[:, 1].sum(1)


def costly_rows(rows: Any, n_rows: int) -> Tensor:
    """Return rows that take as much memory as any: the longest texts, or the first rows."""
    if isinstance(rows, Tensor) and is_tokens(rows):
        return rows[lengths_of(rows).topk(min(n_rows, len(rows))).indices]
    return cast(Tensor, rows[:n_rows])


def embed_batch(
    embed: Callable[[Tensor, Tensor], Tensor],
    tokens: Tensor,
    max_length: int,
    *,
    training: bool,
) -> Tensor:
    """Embed tokens (B, 2, L) by a function of indices and mask (B, L'): (B, D).

    In training, texts of similar length are embedded together, and cut to the longest of
    them. Else L' depends on L alone; it is `max_length` at most, as filling may exceed it.
    """

    def embed_part(part: Tensor) -> Tensor:
        longest = max(1, int(lengths_of(part).max())) if training else max_length
        indices, mask = part[:, :, :longest].long().unbind(1)
        return embed(indices, mask)

    return embed_in_groups(embed_part, tokens) if training else embed_part(tokens)


def embed_in_groups(embed: Callable[[Tensor], Tensor], tokens: Tensor) -> Tensor:
    """Embed a batch (B, 2, L) in groups of similar length, which fill little: (B, D)."""
    order = lengths_of(tokens).argsort(stable=True)
    groups = tokens[order].tensor_split(-(-len(tokens) // _GROUP_SIZE))
    return torch.cat([embed(group) for group in groups])[order.argsort()]


def embed_by_length(embed: Callable[[Tensor], Tensor], tokens: Tensor) -> Tensor:
    """Embed texts (n, 2, L) of similar length together: (n, D).

    Rows are as long as the text's length, rounded up: that depends on no other text.
    """
    steps = lengths_of(tokens).clamp(min=1).sub(1) // _LENGTH_STEP
    indices: list[Tensor] = []
    parts: list[Tensor] = []
    for step in steps.unique().tolist():
        indices.append((steps == step).nonzero()[:, 0])
        # A negative padding cuts.
        rows = pad(tokens[indices[-1]], (0, (step + 1) * _LENGTH_STEP - tokens.shape[2]))
        parts.extend(embed(some) for some in rows.split(_MAX_TEXTS))
    joined = torch.cat(parts)
    return torch.empty_like(joined).index_copy_(0, torch.cat(indices), joined)
