#!/usr/bin/env bash
# A SentenceTransformer in training is in evaluation mode after a call of encode.
#
# Package:  sentence-transformers 6.2.0, SentenceTransformer.encode
# Guess:    encode needs evaluation mode, and restores the mode that it found, as held-out
#           embeddings are made between epochs of a training loop.
# Found:    The mode stays evaluation, for the whole model. A loop of one's own that scores
#           held-out texts by encode after an epoch trains the following epochs without
#           dropout, so that two views of a text by dropout alone become equal. There is no
#           warning.
# Remedy:   model.train() after each encode, or at the start of each epoch.
#
# Output, on Linux with torch 2.13.0 and transformers 5.24.0:
#
#     before: training True, views differ True
#     after encode: training False, views differ False
#
# Exits with 0 if this is still so, otherwise with 1.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet \
    torch==2.13.0 transformers==5.24.0 sentence-transformers==6.2.0

cat > "$folder/observe.py" <<'PYTHON'
import sys

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import Tokenizer, models
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

folder = sys.argv[1]
words = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "ball": 2}, unk_token="[UNK]"))
PreTrainedTokenizerFast(
    tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", model_max_length=8
).save_pretrained(folder)
config = BertConfig(
    vocab_size=3,
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=1,
    intermediate_size=16,
)
BertModel(config).save_pretrained(folder)
model = SentenceTransformer(modules=[Transformer(folder), Pooling(16)], device="cpu")


def describe(name):
    first, second = (
        model(model.preprocess(["ball"]))["sentence_embedding"] for _ in range(2)
    )
    differ = not first.equal(second)
    print(f"{name}: training {model.training}, views differ {differ}")


model.train()
describe("before")
model.encode(["ball"])
describe("after encode")
PYTHON

cat > "$folder/expected" <<'TEXT'
before: training True, views differ True
after encode: training False, views differ False
TEXT
"$folder/venv/bin/python" "$folder/observe.py" "$folder/model" > "$folder/seen" 2> "$folder/log"
cat "$folder/seen"
diff "$folder/expected" "$folder/seen"
