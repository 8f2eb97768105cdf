#!/usr/bin/env bash
# Rows that no label reaches get the first class in the alphabet by label spreading.
#
# Package:  scikit-learn 1.9.1, LabelSpreading and LabelPropagation with kernel="knn"
# Guess:    A cluster without a single label stays unlabelled (-1) or undecided among all
#           classes, or fit warns.
# Found:    All its rows get the first class in sorted order, in transduction_ and by
#           predict, however rare that class is. fit says nothing. label_distributions_
#           has rows of zeros for them, and predict_proba rows of NaN.
# Remedy:   Look for label_distributions_.sum(axis=1) == 0, and let another model decide.
#
# Output, on Linux with scikit-learn 1.9.1, scipy 1.17.1 and numpy 2.4.6:
#
#     LabelSpreading: transduction_ absent, predict absent, NaN True, zeros True, warnings 0
#     LabelPropagation: transduction_ absent, predict absent, NaN True, zeros True, warnings 0
#
# Exits with 0 if this is still so, otherwise with 1.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet \
    scikit-learn==1.9.1 scipy==1.17.1 numpy==2.4.6

cat > "$folder/observe.py" <<'PYTHON'
import warnings

import numpy as np
from sklearn.semi_supervised import LabelPropagation, LabelSpreading

rng = np.random.default_rng(0)
far = rng.normal(size=(60, 2)) + 50
X = np.vstack([rng.normal(size=(60, 2)), far])
names = np.array(["absent", "present"])
y = np.full(120, -1)
y[:30], y[30] = 1, 0  # all labels are in the first cluster, and one of them is "absent"
for kind in (LabelSpreading, LabelPropagation):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        model = kind("knn", n_neighbors=5).fit(X, y)
    with np.errstate(invalid="ignore"):
        is_nan = np.isnan(model.predict_proba(far)).all()
        predicted = " ".join(set(names[model.predict(far)]))
    assigned = " ".join(set(names[model.transduction_[60:]]))
    zeros = (model.label_distributions_[60:] == 0).all()
    told = f"NaN {is_nan}, zeros {zeros}, warnings {len(seen)}"
    print(f"{kind.__name__}: transduction_ {assigned}, predict {predicted}, {told}")
PYTHON

cat > "$folder/expected" <<'TEXT'
LabelSpreading: transduction_ absent, predict absent, NaN True, zeros True, warnings 0
LabelPropagation: transduction_ absent, predict absent, NaN True, zeros True, warnings 0
TEXT
"$folder/venv/bin/python" "$folder/observe.py" > "$folder/seen"
cat "$folder/seen"
diff "$folder/expected" "$folder/seen"
