#!/usr/bin/env bash
# torch.utils.checkpoint forgets the random state of mps, without a word.
#
# Package:  torch 2.13.0, torch.utils.checkpoint.checkpoint
# Guess:    preserve_rng_state=True, the default, restores the random state of the device
#           of the arguments for the second forward pass. Dropout then drops the same
#           values in both passes, and the gradient is that of the value.
# Found:    The state is only kept if the module of the device, such as torch.cuda, has a
#           true attribute _initialized. torch.cuda, torch.xpu and torch.mtia have one,
#           torch.mps has none. On mps, every draw in a checkpointed block is drawn anew
#           in the second pass: the gradient is that of another mask. There is no error
#           and no warning. Reentrant or not makes no difference.
# Remedy:   Draw outside of the block, or restore the state inside of it.
#
# No mps or xpu is needed: the tensors of this script say that they lie on one, and the
# device's random state is a generator in host memory, reached as torch reaches it, by
# torch.mps.get_rng_state and set_rng_state. The output, on Linux with torch 2.13.0+cpu:
#
#     xpu, use_reentrant=False: state read, gradient of the same mask
#     xpu, use_reentrant=True: state read, gradient of the same mask
#     mps, use_reentrant=False: state never read, gradient of another mask
#     mps, use_reentrant=True: state never read, gradient of another mask
#
# Exits with 0 if this is still so, otherwise with 1.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6

cat > "$folder/observe.py" <<'PYTHON'
import contextlib
import warnings

import torch
from torch.utils.checkpoint import checkpoint


class Elsewhere(torch.Tensor):
    """A tensor in host memory that says that it lies on a device."""

    kind = "cpu"
    device = property(lambda self: torch.device(self.kind, 0))

    def get_device(self):
        return 0


def observe(kind, use_reentrant):
    """Return the calls for the state, and whether value and gradient have one mask."""
    module, calls, warned = torch.get_device_module(kind), [], []
    generator = torch.Generator().manual_seed(0)  # of the device

    def get_rng_state(device=0):
        calls.append("get")
        return generator.get_state()

    def set_rng_state(state, device=0):
        calls.append("set")
        generator.set_state(state)

    module.get_rng_state, module.set_rng_state = get_rng_state, set_rng_state
    module.device = contextlib.nullcontext  # else the driver is asked
    if hasattr(module, "_initialized"):
        module._initialized = True  # as on every machine that has the device

    def drop_half(rows):
        mask = torch.rand(rows.shape, generator=generator) < 0.5
        return (rows.as_subclass(torch.Tensor) * mask).square()

    leaf = torch.ones(1000, requires_grad=True)
    rows = leaf.as_subclass(type("Rows", (Elsewhere,), {"kind": kind}))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        value = checkpoint(drop_half, rows, use_reentrant=use_reentrant)
        value.sum().backward()
    assert not warned, warned
    return calls, torch.equal(leaf.grad, 2 * value.detach())


as_documented = True
for kind in ("xpu", "mps"):
    for use_reentrant in (False, True):
        calls, is_same = observe(kind, use_reentrant)
        read = "state read" if "get" in calls else "state never read"
        mask = "the same mask" if is_same else "another mask"
        print(f"{kind}, use_reentrant={use_reentrant}: {read}, gradient of {mask}")
        as_documented &= (is_same, "get" in calls) == ((kind == "xpu"),) * 2
raise SystemExit(0 if as_documented else 1)
PYTHON

"$folder/venv/bin/python" "$folder/observe.py"
