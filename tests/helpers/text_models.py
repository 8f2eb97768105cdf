"""Tiny transformers with random weights, and texts of a few words for them."""

import numpy as np
import torch
from torch import nn

WORDS = {
    "food": ["apple", "bread", "cheese", "soup", "rice", "honey"],
    "sport": ["ball", "goal", "match", "coach", "race", "team"],
    "music": ["song", "drum", "piano", "tune", "choir", "opera"],
}
FILLER = ["the", "a", "my", "your", "very", "some", "this", "that"]


def texts_and_labels(n_per_class=12, seed=0):
    """Return texts of 2 to 12 words, of which two tell the class, and their labels."""
    rng = np.random.default_rng(seed)
    texts, labels = [], []
    for label, words in WORDS.items():
        for _ in range(n_per_class):
            chosen = [*rng.choice(words, 2), *rng.choice(FILLER, rng.integers(0, 11))]
            texts.append(" ".join(rng.permutation(chosen)))
            labels.append(label)
    return texts, np.array(labels)


def tokenizer(max_length=16):
    """Return a fast tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    words = special + FILLER + [word for some in WORDS.values() for word in some]
    vocabulary = {word: index for index, word in enumerate(words)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    names |= {"cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=made, model_max_length=max_length, **names
    )


def bert(seed=0, max_length=16):
    """Return a transformer with random weights, and its tokenizer."""
    from transformers import BertConfig, BertModel

    made = tokenizer(max_length)
    config = BertConfig(
        vocab_size=len(made),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=max_length,
    )
    return _seeded(BertModel, config, seed), made


def roberta(n_positions=16):
    """Return a transformer whose first positions are of the padding, and its tokenizer."""
    from transformers import RobertaConfig, RobertaModel

    made = tokenizer(1000)
    config = RobertaConfig(
        vocab_size=len(made),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        pad_token_id=1,
        max_position_embeddings=n_positions + 2,
    )
    return _seeded(RobertaModel, config), made


def llama(attention_dropout=0.0):
    """Return a decoder with rotary positions, and its tokenizer."""
    from transformers import LlamaConfig, LlamaModel

    made = tokenizer(1000)
    config = LlamaConfig(
        vocab_size=len(made),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        attention_dropout=attention_dropout,
        pad_token_id=0,
    )
    return _seeded(LlamaModel, config), made


def _seeded(model_type, config, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return model_type(config).eval()


def phobert(folder):
    """Return a transformer, and its tokenizer of a vocabulary and codes."""
    from transformers import PhobertTokenizer

    words = FILLER + [word for some in WORDS.values() for word in some]
    (folder / "vocab.txt").write_text("".join(f"{word} 1\n" for word in words))
    (folder / "bpe.codes").write_text("t h 10\nth e</w> 9\n")
    made = PhobertTokenizer(
        str(folder / "vocab.txt"), str(folder / "bpe.codes"), model_max_length=64
    )
    model, _ = roberta(64)
    model.resize_token_embeddings(len(made))
    return model, made


def sparse_encoder():
    """Return a model of sentence-transformers that embeds texts as sparse vectors."""
    from sentence_transformers import SparseEncoder

    return SparseEncoder(modules=[nn.Identity()], device="cpu")


def cross_encoder():
    """Return a model of sentence-transformers that compares pairs of texts."""
    from sentence_transformers import CrossEncoder

    return CrossEncoder.__new__(CrossEncoder)


class WithAdapter(nn.Module):
    """A frozen transformer whose embeddings a small layer changes."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.config = model.config
        self.adapter = nn.Linear(model.config.hidden_size, model.config.hidden_size)
        nn.init.zeros_(self.adapter.weight)

    def forward(self, **features):
        output = self.model(**features)
        output.last_hidden_state = output.last_hidden_state + self.adapter(
            output.last_hidden_state
        )
        return output


def write_sentence_transformer(folder, seed=0, max_length=16):
    """Write a sentence transformer with random weights, and return it."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    model, made = bert(seed, max_length)
    model.save_pretrained(folder / "transformer")
    made.save_pretrained(folder / "transformer")
    transformer = Transformer(str(folder / "transformer"), max_seq_length=max_length)
    pooling = Pooling(model.config.hidden_size)
    whole = SentenceTransformer(modules=[transformer, pooling], device="cpu")
    whole.save(str(folder / "whole"), create_model_card=False)
    return whole
