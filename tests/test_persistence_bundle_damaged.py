"""Damaged files are refused or harmless; a fraction of the cases of the offline run.

The offline run: `python benchmarks/fuzz_bundles.py`.
"""

import numpy as np
import pytest
from helpers.damaged_bundles import BLIND, SIGNED, Trial, flipped_header, header_length
from helpers.stored_models import SMALL, frame, images, labels, words

from sklearn_hscl import HSCLEmbedder

TINY = {"n_components": 4, **SMALL}
KINDS = {
    "tabular": ({"hidden_layer_sizes": [8, 8]}, frame, words),
    "mlp": ({"encoder": "mlp", "hidden_layer_sizes": [8]}, frame, labels),
    "conv": ({"encoder": "conv", "hidden_layer_sizes": [4]}, images, labels),
}
N_CASES = 60  # per type of damage
STEP = 20  # every 20th byte of the header is flipped


@pytest.mark.parametrize("kind", KINDS)
def test_refused_or_harmless(kind, tmp_path):
    parameters, rows, targets = KINDS[kind]
    X = rows()
    trial = Trial(HSCLEmbedder(**TINY | parameters).fit(X, targets()), X, tmp_path)
    assert trial.outcome(trial.data) == "loaded"
    rng = np.random.default_rng(0)
    for damage in BLIND + SIGNED:
        outcomes = [
            trial.outcome(damage(rng, trial.data), is_signed=damage in SIGNED)
            for _ in range(N_CASES)
        ]
        assert outcomes.count("refused") >= N_CASES / 4, damage
    outcomes = [
        trial.outcome(flipped_header(rng, trial.data, position))
        for position in range(0, header_length(trial.data), STEP)
    ]
    assert outcomes.count("refused") >= 0.95 * len(outcomes) > 100
