"""The routing of examples/plot_intent_routing.py on banking77, without 10 of its intents.

    python benchmarks/bench_intents.py --texts 8 40
    HSCL_TEXT_ENCODER=sentence-transformers:FOLDER python benchmarks/bench_intents.py

The example runs first, on its own questions. Then, for each draw, 10 intents are drawn
whose questions are to be refused. Of each other intent some texts train, and 4 set the
threshold; at most 1,000 test texts are routed or refused.
"""

import argparse
import runpy
from pathlib import Path

import numpy as np
import texts

EXAMPLE = Path(__file__).parent.parent / "examples" / "plot_intent_routing.py"
N_HELD_OUT = 4  # texts of each intent


def draw(n_texts: int, seed: int) -> dict:
    """Return the arguments of the example's `evaluate`."""
    train, y_train, test, y_test = texts.few_texts("banking77", n_texts + N_HELD_OUT, seed)
    train, test = np.array(train), np.array(test)
    intents = np.random.default_rng(seed).permutation(np.unique(y_train))
    codes = {intent: i for i, intent in enumerate(intents[10:])}
    rows = {intent: np.flatnonzero(y_train == intent) for intent in codes}
    held_out = np.concatenate([some[:N_HELD_OUT] for some in rows.values()])
    used = np.concatenate([some[N_HELD_OUT:] for some in rows.values()])
    in_scope = np.isin(y_test, list(codes))
    return {
        "train": train[used].tolist(),
        "y_train": np.array([codes[intent] for intent in y_train[used]]),
        "held_out": train[held_out].tolist(),
        "test": test[in_scope].tolist(),
        "y_test": np.array([codes[intent] for intent in y_test[in_scope]]),
        "out_of_scope": [test[~in_scope].tolist()],
        "seed": seed,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--texts", type=int, nargs="+", default=[8])
    parser.add_argument("--draws", type=int, default=3)
    arguments = parser.parse_args()
    evaluate = runpy.run_path(str(EXAMPLE))["evaluate"]
    for n_texts in arguments.texts:
        draws = [evaluate(**draw(n_texts, seed)) for seed in range(arguments.draws)]
        print(
            f"\nbanking77, {n_texts} texts an intent: routed correctly; refused in scope,"
        )
        print("of intents that were held back; ROC-AUC")
        for method in draws[0]:
            percents = np.array([result[method][0] for result in draws]).T
            cells = [f"{p.mean():5.1f} ± {p.std():3.1f}" for p in percents]
            print(f"{method:30}", *cells, sep="  ", flush=True)


if __name__ == "__main__":
    main()
