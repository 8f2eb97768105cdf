"""Embed the texts of bench_text.py by a sentence transformer in a local folder.

    python benchmarks/embed_text.py FOLDER_OF_MODEL FOLDER_FOR_ARRAYS

writes an array NAME.npy (rows of the set, width) for each set, to be given to
bench_text.py by --embeddings. It needs the package transformers, and a BERT whose mean
over tokens is the embedding, such as all-MiniLM-L6-v2; nothing is downloaded.
"""

import argparse
from pathlib import Path

import numpy as np
import texts
import torch
from transformers import AutoModel, AutoTokenizer

MAX_TOKENS = 128  # as in the training of the model
BATCH = 32


class MeanOfTokens:
    """Mean of the last layer over the tokens of a text, scaled to unit norm."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.model = AutoModel.from_pretrained(folder, local_files_only=True).eval()

    def __call__(self, batch: list[str]) -> np.ndarray:
        tokens = self.tokenizer(
            batch,
            padding=True,
            truncation=True,
            max_length=MAX_TOKENS,
            return_tensors="pt",
        )
        with torch.inference_mode():
            hidden = self.model(**tokens).last_hidden_state  # (B, T, D)
        mask = tokens["attention_mask"].unsqueeze(-1)
        mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
        return torch.nn.functional.normalize(mean).numpy()


def embed(model: MeanOfTokens, rows: np.ndarray) -> np.ndarray:
    """Embed texts in batches of similar length."""
    order = np.argsort([len(text) for text in rows], kind="stable")
    parts = [
        model(rows[order[start : start + BATCH]].tolist())
        for start in range(0, len(order), BATCH)
    ]
    embeddings = np.concatenate(parts)
    result = np.empty_like(embeddings)
    result[order] = embeddings
    return result


def main() -> None:
    """Embed all data sets without an array."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    model = MeanOfTokens(options.model)
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in texts.names():
        path = options.folder / f"{name}.npy"
        if not path.exists():
            np.save(path, embed(model, texts.load(name).texts))
            print(path, flush=True)


if __name__ == "__main__":
    main()
