#!/usr/bin/env bash
# An autograd.Function with setup_context has its signature inspected again at every call.
#
# Package:  torch 2.13.0 (CPU), torch.autograd.Function
# Guess:    The two ways to write a Function, forward(ctx, ...) and forward(...) with
#           setup_context(ctx, inputs, output), cost the same per call. The second is the one
#           that torch.func and torch.vmap ask for, and differs in who fills the context.
# Found:    With setup_context, apply calls inspect.signature(forward) each time, to fill in
#           defaults of arguments, also where there are none and no transform is active. It
#           took longer than the rest of the call (50 of 70 microseconds on one core), which a
#           training step of small tensors repeats for every such Function.
# Remedy:   Fewer Functions that do more each. A signature stored as forward.__signature__ is
#           found at once, and saves about half of that time.
#
# Output, on Linux with torch 2.13.0+cpu:
#
#     forward(ctx, z): 0 signatures in 5 calls
#     forward(z) and setup_context: 5 signatures in 5 calls
#
# Exits with 0 if this is still so, otherwise with 1.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0

cat > "$folder/observe.py" <<'PYTHON'
import inspect

import torch


class Joined(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        return 2 * z

    @staticmethod
    def backward(ctx, outer):
        return 2 * outer


class Separate(torch.autograd.Function):
    @staticmethod
    def forward(z):
        return 2 * z

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, outer):
        return 2 * outer


read, n_read = inspect.signature, 0


def counted(*args, **kwargs):
    global n_read
    n_read += 1
    return read(*args, **kwargs)


inspect.signature = counted
z = torch.ones(3, requires_grad=True)
for name, function in (
    ("forward(ctx, z)", Joined),
    ("forward(z) and setup_context", Separate),
):
    function.apply(z)
    n_read = 0
    for _ in range(5):
        function.apply(z)
    print(f"{name}: {n_read} signatures in 5 calls")
PYTHON

cat > "$folder/expected" <<'TEXT'
forward(ctx, z): 0 signatures in 5 calls
forward(z) and setup_context: 5 signatures in 5 calls
TEXT
"$folder/venv/bin/python" "$folder/observe.py" > "$folder/seen"
cat "$folder/seen"
diff "$folder/expected" "$folder/seen"
