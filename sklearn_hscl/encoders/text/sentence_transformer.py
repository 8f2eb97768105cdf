"""A SentenceTransformer that takes tokens as well as its own features."""

from typing import Any

import sentence_transformers
from torch import Tensor

from sklearn_hscl.encoders.text.tokens import Tokenization, embed_batch, n_positions


class SentenceTransformer(sentence_transformers.SentenceTransformer):
    """A ``sentence_transformers.SentenceTransformer`` that also maps tokens.

    It is used and saved as any other one.
    """

    reads_texts = True

    @property
    def tokenization(self) -> Tokenization:
        """Map of texts to the tokens that this module takes."""
        prompt = self.prompts.get(self.default_prompt_name, "")
        return Tokenization(self.tokenizer, self.max_seq_length, prompt)

    def forward(self, input: Any, **kwargs: Any) -> Any:  # noqa: A002 - as torch has it
        """Map tokens (B, 2, L) to embeddings (B, n_components); features as ever."""
        if not isinstance(input, Tensor):
            return super().forward(input, **kwargs)
        return embed_batch(self._embed, input, self.max_seq_length, training=self.training)

    def _embed(self, indices: Tensor, mask: Tensor) -> Tensor:
        features = {"input_ids": indices, "attention_mask": mask}
        embedding: Tensor = super().forward(features)["sentence_embedding"]
        return embedding[:, : self.truncate_dim]


def load(name: str) -> sentence_transformers.SentenceTransformer:
    """Load a model by the path of its folder, or by its name.

    Raises
    ------
    ValueError
        If there is no such model in reach.
    """
    try:
        return sentence_transformers.SentenceTransformer(name, device="cpu")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"encoder='sentence-transformers:{name}' cannot be loaded: {error}. Pass the "
            f"path of a folder with the model, as in 'sentence-transformers:./model', or "
            f"connect to the network for a name that is not cached."
        ) from error


def of_tokens(model: Any) -> SentenceTransformer:
    """Turn a model into one that also takes tokens, in place."""
    tokenizer = getattr(model, "tokenizer", None)
    if not callable(tokenizer) or model.max_seq_length is None:
        raise ValueError(
            f"encoder={type(model).__name__} has no tokenizer of transformers with a "
            f"maximum length, so that its texts cannot be batched. Pass a model whose "
            f"first module is a Transformer."
        )
    if type(model) not in (SentenceTransformer, sentence_transformers.SentenceTransformer):
        raise ValueError(
            f"encoder={type(model).__name__} is a subclass of SentenceTransformer, whose "
            f"own methods would be lost. Pass a SentenceTransformer of the same modules."
        )
    has_prompt = bool(model.prompts.get(model.default_prompt_name))
    if has_prompt and not all(getattr(part, "include_prompt", True) for part in model):
        raise ValueError(
            "encoder pools without its prompt (include_prompt=False), which is not "
            "supported here. Set include_prompt=True, or default_prompt_name=None."
        )
    positions = n_positions(model)
    if positions is not None and model.max_seq_length > positions:
        model.max_seq_length = positions
    model.__class__ = SentenceTransformer
    return model
