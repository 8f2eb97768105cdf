#!/usr/bin/env bash
# Under torchrun without a GPU, each process is the only one to Accelerate, and yet connected.
#
# Package:  accelerate 1.15.0, PartialState and Accelerator, with torchrun of torch 2.13.0
# Guess:    In two processes that torchrun started, PartialState() counts two of them, as it does
#           on GPUs; or it connects nothing, and says that there is one.
# Found:    It connects the two: torch.distributed is initialized, with ranks 0 and 1. But each
#           PartialState says one process, index 0. A script that trains with it has each process
#           train on all rows, sum no gradients and write the files of the main process. No
#           warning says so.
# Remedy:   PartialState(cpu=True), Accelerator(cpu=True) or ACCELERATE_USE_CPU=1; or ask
#           torch.distributed for rank and world size once it is initialized.
#
# Output, on Linux, without a GPU:
#
#     PartialState(): rank 0 of torch.distributed is index 0 of 1, main: True
#     PartialState(): rank 1 of torch.distributed is index 0 of 1, main: True
#     PartialState(cpu=True): rank 0 of torch.distributed is index 0 of 2, main: True
#     PartialState(cpu=True): rank 1 of torch.distributed is index 1 of 2, main: False
#
# Exits with 0 if this is still so, otherwise with 1.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 accelerate==1.15.0

cat > "$folder/observe.py" <<'PYTHON'
import sys
from pathlib import Path

import torch.distributed as dist
from accelerate import PartialState

folder, arguments = sys.argv[1:]
state = PartialState(cpu=True) if arguments else PartialState()
line = (
    f"PartialState({arguments}): rank {dist.get_rank()} of torch.distributed is index "
    f"{state.process_index} of {state.num_processes}, main: {state.is_main_process}\n"
)
Path(folder, f"{len(arguments)}-{dist.get_rank()}").write_text(line)
dist.destroy_process_group()
PYTHON

cat > "$folder/expected" <<'TEXT'
PartialState(): rank 0 of torch.distributed is index 0 of 1, main: True
PartialState(): rank 1 of torch.distributed is index 0 of 1, main: True
PartialState(cpu=True): rank 0 of torch.distributed is index 0 of 2, main: True
PartialState(cpu=True): rank 1 of torch.distributed is index 1 of 2, main: False
TEXT
mkdir "$folder/lines"
for arguments in "" "cpu=True"; do
    CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS=1 "$folder/venv/bin/torchrun" \
        --standalone --nproc-per-node 2 \
        "$folder/observe.py" "$folder/lines" "$arguments" 2> "$folder/log"
done
cat "$folder"/lines/* > "$folder/seen"
cat "$folder/seen"
diff "$folder/expected" "$folder/seen"
