#!/usr/bin/env bash
# A missing category of a chunked Arrow column becomes the last category in numpy.
#
# Package:  pyarrow 26.0.1, ChunkedArray.to_numpy and numpy.asarray of a dictionary column
# Guess:    A null becomes None or NaN, as by Array.to_numpy and by to_pandas.
# Found:    It becomes the last level of the dictionary. Columns of tables are chunked, so
#           that numpy.asarray(table["column"]) is affected, and with it whatever reads
#           columns by numpy. There is no error and no warning.
# Remedy:   column.to_pandas(), or combine_chunks() first.
#
# Output, on Linux with pyarrow 26.0.1 and numpy 2.4.6:
#
#     Array.to_numpy: ['a', None, 'b']
#     ChunkedArray.to_pandas: ['a', nan, 'b']
#     ChunkedArray.to_numpy: ['a', 'b', 'b']
#     numpy.asarray of a column: ['a', 'b', 'b']
#
# Exits with 0 if this is still so, otherwise with 1.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet pyarrow==26.0.1 numpy==2.4.6 pandas==3.1.1

cat > "$folder/observe.py" <<'PYTHON'
import numpy as np
import pyarrow as pa

column = pa.array(["a", None, "b"]).dictionary_encode()
chunked = pa.chunked_array([column])
print("Array.to_numpy:", column.to_numpy(zero_copy_only=False).tolist())
print("ChunkedArray.to_pandas:", chunked.to_pandas().tolist())
print("ChunkedArray.to_numpy:", chunked.to_numpy().tolist())
table = pa.table({"column": column})
print("numpy.asarray of a column:", np.asarray(table["column"]).tolist())
PYTHON

cat > "$folder/expected" <<'TEXT'
Array.to_numpy: ['a', None, 'b']
ChunkedArray.to_pandas: ['a', nan, 'b']
ChunkedArray.to_numpy: ['a', 'b', 'b']
numpy.asarray of a column: ['a', 'b', 'b']
TEXT
"$folder/venv/bin/python" "$folder/observe.py" > "$folder/seen"
cat "$folder/seen"
diff "$folder/expected" "$folder/seen"
