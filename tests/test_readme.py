"""The README's code runs as printed."""

import re
from pathlib import Path

from sklearn_hscl import HSCLEmbedder

README = Path(__file__).parent.parent / "README.md"


def test_ten_lines(few_trees, monkeypatch, capsys):
    monkeypatch.setitem(HSCLEmbedder.__init__.__kwdefaults__, "max_epochs", 2)
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    score, best = capsys.readouterr().out.split(" ", 1)
    assert float(score) > 0.5
    assert "hsclembedder__beta" in best
