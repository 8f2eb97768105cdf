#!/usr/bin/env bash
# A training step under torch.autocast sees the weights of its first step for ever, if the
# caller is inside another autocast, even a disabled one.
#
# Package:  torch 2.13.0, torch.autocast (device "cpu" here)
# Guess:    Each `with torch.autocast(...)` casts the weights of the moment. A loop of
#           steps gives the same numbers wherever it is called from.
# Found:    Casts of weights are cached, and the outermost block alone clears the cache
#           when it ends, whether it is enabled or not. In a loop of steps inside an outer
#           block, forward passes use the first cast again and again: the optimizer moves
#           the weights, and the output does not change. There is no error and no warning.
# Remedy:   torch.autocast(..., cache_enabled=False) around the step.
#
# Output, on Linux with torch 2.13.0+cpu: of y = w x with x = 1, w = 1, and SGD of rate 1/4
# on y, the values of y in three steps, and w after them.
#
#     not nested: y = [1.0, 0.75, 0.5], then w = 0.25
#     inside autocast(enabled=True): y = [1.0, 1.0, 1.0], then w = 0.25
#     inside autocast(enabled=False): y = [1.0, 1.0, 1.0], then w = 0.25
#
# Exits with 0 if this is still so, otherwise with 1.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6

cat > "$folder/observe.py" <<'PYTHON'
from contextlib import nullcontext

import torch


def three_steps(outer):
    weight = torch.nn.Parameter(torch.ones(1, 1))
    optimizer = torch.optim.SGD([weight], lr=0.25)
    seen = []
    with outer:
        for _ in range(3):
            with torch.autocast("cpu", torch.bfloat16):
                y = torch.nn.functional.linear(torch.ones(1, 1), weight)
            seen.append(y.item())
            optimizer.zero_grad()
            y.float().sum().backward()
            optimizer.step()
    return f"y = {seen}, then w = {weight.item()}"


print("not nested:", three_steps(nullcontext()))
for enabled in (True, False):
    outer = torch.autocast("cpu", torch.bfloat16, enabled=enabled)
    print(f"inside autocast(enabled={enabled}):", three_steps(outer))
PYTHON

cat > "$folder/expected" <<'TEXT'
not nested: y = [1.0, 0.75, 0.5], then w = 0.25
inside autocast(enabled=True): y = [1.0, 1.0, 1.0], then w = 0.25
inside autocast(enabled=False): y = [1.0, 1.0, 1.0], then w = 0.25
TEXT
"$folder/venv/bin/python" "$folder/observe.py" > "$folder/seen"
cat "$folder/seen"
diff "$folder/expected" "$folder/seen"
