#!/usr/bin/env bash
# A BERT that was saved without its pooler gets a random one from AutoModel, each time another.
#
# Package:  transformers 5.24.0, BertModel(add_pooling_layer=False) and AutoModel
# Guess:    What save_pretrained wrote, from_pretrained reads: the same module, and torch's
#           random numbers go on as if nothing had been read.
# Found:    The configuration does not say that there is no pooler. AutoModel adds one, with
#           weights drawn from torch's global generator: two loads of one folder differ,
#           pooler_output with them, and all later random numbers are others. Sentence
#           encoders with mean pooling are saved so. A report in the log is all that says so.
# Remedy:   Read by BertModel.from_pretrained(folder, add_pooling_layer=False), or keep and
#           restore torch's random state around the load.
#
# Output, on Linux with torch 2.13.0:
#
#     written without a pooler: True
#     read with a pooler: True
#     two loads are equal: False
#     later random numbers are as without a load: False
#     the same, read by BertModel: True
#
# Exits with 0 if this is still so, otherwise with 1.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 transformers==5.24.0

cat > "$folder/observe.py" <<'PYTHON'
import sys

import torch
from transformers import AutoModel, BertConfig, BertModel

folder = sys.argv[1]
config = BertConfig(
    vocab_size=3,
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=1,
    intermediate_size=16,
)
written = BertModel(config, add_pooling_layer=False)
written.save_pretrained(folder)


def number_after(function):
    torch.manual_seed(0)
    function()
    return torch.rand(1).item()


def read_as_written():
    return BertModel.from_pretrained(folder, add_pooling_layer=False)


first, second = (AutoModel.from_pretrained(folder) for _ in range(2))
print("written without a pooler:", written.pooler is None)
print("read with a pooler:", first.pooler is not None)
print("two loads are equal:", first.pooler.dense.weight.equal(second.pooler.dense.weight))
undisturbed = number_after(lambda: None)
by_auto = number_after(lambda: AutoModel.from_pretrained(folder))
print("later random numbers are as without a load:", by_auto == undisturbed)
print("the same, read by BertModel:", number_after(read_as_written) == undisturbed)
PYTHON

cat > "$folder/expected" <<'TEXT'
written without a pooler: True
read with a pooler: True
two loads are equal: False
later random numbers are as without a load: False
the same, read by BertModel: True
TEXT
"$folder/venv/bin/python" "$folder/observe.py" "$folder/model" > "$folder/seen" 2> "$folder/log"
cat "$folder/seen"
diff "$folder/expected" "$folder/seen"
