"""Methods of bench_finetune.py: each trains on texts, and returns how it embeds others."""

import tempfile
from collections.abc import Callable

import numpy as np
from finetune_classifier import STEP_SIZE, n_steps, train_classifier
from sklearn.feature_extraction.text import TfidfVectorizer
from torch import Tensor, nn

from sklearn_hscl import HSCLEmbedder

Embed = Callable[[list[str]], np.ndarray]
# Pairs that SetFit draws by default grow with the square of the texts: at most so many
# steps of 16 pairs.
_MAX_SETFIT_STEPS = 400
_RATE = 6e-5  # of the losses of others


def frozen(model: str, texts: list[str], y: np.ndarray, seed: int) -> Embed:
    return _encode(_load(model))


def tfidf(model: str, texts: list[str], y: np.ndarray, seed: int) -> Embed:
    words = TfidfVectorizer().fit(texts)
    return lambda some: words.transform(some).toarray()


def tfidf_hscl(model: str, texts: list[str], y: np.ndarray, seed: int) -> Embed:
    words = TfidfVectorizer()
    rows = words.fit_transform(texts)
    embedder = HSCLEmbedder(random_state=seed).fit(rows, y)
    return lambda some: embedder.transform(words.transform(some))


def _ours(**changes: object) -> Callable[[str, list[str], np.ndarray, int], Embed]:
    def method(model: str, texts: list[str], y: np.ndarray, seed: int) -> Embed:
        settings = {"random_state": seed, "n_threads": 1} | changes
        embedder = HSCLEmbedder(encoder=f"sentence-transformers:{model}", **settings)
        return embedder.fit(texts, y).transform

    return method


def setfit(model: str, texts: list[str], y: np.ndarray, seed: int) -> Embed:
    """Fine-tune by SetFit with its defaults, at most _MAX_SETFIT_STEPS steps."""
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    codes = np.unique(y, return_inverse=True)[1]
    whole = SetFitModel.from_pretrained(model, device="cpu")
    arguments = TrainingArguments(
        max_steps=_MAX_SETFIT_STEPS, seed=seed, report_to="none", save_strategy="no"
    )
    data = Dataset.from_dict({"text": texts, "label": codes.tolist()})
    Trainer(whole, arguments, train_dataset=data).train()
    return _encode(whole.model_body)


def triplet(model: str, texts: list[str], y: np.ndarray, seed: int) -> Embed:
    """Fine-tune by triplets, the hardest ones of each batch."""
    from sentence_transformers.sentence_transformer.losses import BatchHardTripletLoss

    codes = np.unique(y, return_inverse=True)[1]
    columns = {"text": texts, "label": codes.tolist()}
    return _by_sentence_transformers(
        model, columns, BatchHardTripletLoss, "group_by_label", seed
    )


def in_batch(model: str, texts: list[str], y: np.ndarray, seed: int) -> Embed:
    """Fine-tune by pairs of a class, with the other pairs of the batch as negatives."""
    from sentence_transformers.sentence_transformer.losses import (
        MultipleNegativesRankingLoss,
    )

    rng = np.random.default_rng(seed)
    n_pairs = n_steps(len(texts)) * STEP_SIZE // 2
    anchors = np.resize(rng.permutation(len(texts)), n_pairs)
    others = [rng.choice(np.flatnonzero(y == y[anchor])) for anchor in anchors]
    columns = {
        "anchor": [texts[i] for i in anchors],
        "positive": [texts[i] for i in others],
    }
    return _by_sentence_transformers(
        model, columns, MultipleNegativesRankingLoss, "no_duplicates", seed
    )


def classifier(model: str, texts: list[str], y: np.ndarray, seed: int) -> Embed:
    """Fine-tune encoder and linear classifier by cross-entropy, in our number of steps."""
    encoder = _load(model)

    def embed(batch: np.ndarray) -> Tensor:
        features = encoder.preprocess([texts[i] for i in batch])
        # Scores of embeddings of norm 1 are too small otherwise.
        return 10 * encoder(features)["sentence_embedding"]

    train_classifier(encoder, embed, y, _RATE, seed)
    return _encode(encoder)


def _by_sentence_transformers(
    model: str, columns: dict[str, list], loss: type, sampler: str, seed: int
) -> Embed:
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )

    encoder = _load(model)
    n_columns = sum(name != "label" for name in columns)
    n_texts = n_columns * len(next(iter(columns.values())))
    arguments = SentenceTransformerTrainingArguments(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=STEP_SIZE // n_columns,
        max_steps=n_steps(n_texts) if "label" in columns else n_texts // STEP_SIZE,
        learning_rate=_RATE,
        warmup_steps=0.05,
        batch_sampler=sampler,
        seed=seed,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
    )
    SentenceTransformerTrainer(
        encoder, arguments, train_dataset=Dataset.from_dict(columns), loss=loss(encoder)
    ).train()
    return _encode(encoder.eval())


def _load(model: str) -> nn.Module:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(model, device="cpu")


def _encode(encoder: nn.Module) -> Embed:
    return lambda texts: encoder.encode(texts, batch_size=32, show_progress_bar=False)


METHODS: dict[str, Callable[[str, list[str], np.ndarray, int], Embed]] = {
    "frozen": frozen,
    "tfidf": tfidf,
    "tfidf_hscl": tfidf_hscl,
    "setfit": setfit,
    "triplet": triplet,
    "in_batch": in_batch,
    "classifier": classifier,
    "scl": _ours(loss="scl"),
    "hscl": _ours(),
    "hscl_beta2": _ours(beta=2.0),
}
