#!/usr/bin/env bash
# The first optimizer of a process imports torch's compiler and sympy, though nothing is compiled.
#
# Package:  torch 2.13.0 (CPU), torch.optim
# Guess:    Training in eager mode does not load torch.compile. `import torch` keeps the
#           compiler out of a process for the sake of a short start, and a backward pass
#           does so, too.
# Found:    Constructing any optimizer imports torch._dynamo, and sympy with it: more than 500
#           modules, which takes longer than many a fit of a small network. Modules, losses,
#           backward passes and torch.inference_mode leave it out.
# Remedy:   Count one fit as a warm-up in benchmarks, and let worker processes live on. A
#           process that only predicts pays nothing.
#
# Output, on Linux with torch 2.13.0+cpu:
#
#     import torch: compiler False, sympy False
#     forward and backward: compiler False, sympy False
#     inference_mode: compiler False, sympy False
#     SGD(): compiler True, sympy True, more than 500 modules True
#
# Exits with 0 if this is still so, otherwise with 1.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0

cat > "$folder/observe.py" <<'PYTHON'
import sys

import torch


def told(step, more=""):
    loaded = ", ".join(
        f"{name} {module in sys.modules}"
        for name, module in (("compiler", "torch._dynamo"), ("sympy", "sympy"))
    )
    print(f"{step}: {loaded}{more}")


told("import torch")
model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
torch.nn.functional.cross_entropy(model(torch.ones(3, 2)), torch.zeros(3).long()).backward()
told("forward and backward")
with torch.inference_mode():
    model.eval()(torch.ones(3, 2))
told("inference_mode")
before = len(sys.modules)
torch.optim.SGD(model.parameters(), lr=0.1)
told("SGD()", f", more than 500 modules {len(sys.modules) - before > 500}")
PYTHON

cat > "$folder/expected" <<'TEXT'
import torch: compiler False, sympy False
forward and backward: compiler False, sympy False
inference_mode: compiler False, sympy False
SGD(): compiler True, sympy True, more than 500 modules True
TEXT
"$folder/venv/bin/python" "$folder/observe.py" > "$folder/seen"
cat "$folder/seen"
diff "$folder/expected" "$folder/seen"
