#!/usr/bin/env bash
# The second derivative of a torch.autograd.Function by nested forward mode is 0.
#
# Package:  torch 2.13.0, torch.func.jvp of a torch.autograd.Function that defines `jvp`
# Guess:    jvp of jvp gives the second derivative, as it does for torch's own operations,
#           or raises an error, as for a function without `jvp`.
# Found:    It gives 0. Forward mode is off while the static method `jvp` runs, so that
#           its result counts as constant. Reverse mode over the same class is right.
#           There is no error and no warning.
# Remedy:   torch.func.hessian, which goes forward over reverse; or refuse, in `jvp`,
#           to run where levels of forward mode are nested.
#
# Output, on Linux with torch 2.13.0+cpu, for x**3 at x = 2, whose derivatives are 12, 12:
#
#     first derivative by jvp: 12.0
#     second by jvp of jvp: 0.0
#     second by jvp of jvp, of torch's own x**3: 12.0
#     second by hessian: 12.0
#
# Exits with 0 if this is still so, otherwise with 1.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6

cat > "$folder/observe.py" <<'PYTHON'
import torch
from torch.func import hessian, jvp


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x**3

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_forward(*inputs)
        ctx.save_for_backward(*inputs)

    @staticmethod
    def jvp(ctx, tangent):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * tangent

    @staticmethod
    def backward(ctx, outer):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * outer

    @staticmethod
    def vmap(info, in_dims, x):
        return Cube.apply(x.movedim(in_dims[0], 0)), 0


def derivative(function):
    return lambda x: jvp(function, (x,), (torch.ones(()),))[1]


x = torch.tensor(2.0)
print("first derivative by jvp:", derivative(Cube.apply)(x).item())
print("second by jvp of jvp:", derivative(derivative(Cube.apply))(x).item())
own = derivative(derivative(lambda x: x**3))(x).item()
print("second by jvp of jvp, of torch's own x**3:", own)
print("second by hessian:", hessian(Cube.apply)(x).item())
PYTHON

cat > "$folder/expected" <<'TEXT'
first derivative by jvp: 12.0
second by jvp of jvp: 0.0
second by jvp of jvp, of torch's own x**3: 12.0
second by hessian: 12.0
TEXT
"$folder/venv/bin/python" "$folder/observe.py" > "$folder/seen"
cat "$folder/seen"
diff "$folder/expected" "$folder/seen"
