"""An encoder of texts as the files that its own library writes, and back.

The files are descriptions as JSON, the vocabulary, and weights as safetensors. None of them
holds code, and none is read that would name code of its own.
"""

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from sklearn_hscl.data.texts import NAME_PREFIX, is_sentence_transformer
from sklearn_hscl.encoders.text.transformer import (
    TextEncoder,
    open_text_encoder,
    without_progress,
)

Files = dict[str, bytes]
# Descriptions, vocabularies of all tokenizers of transformers, weights.
_SUFFIXES = (
    ".json", ".txt", ".model", ".codes", ".spm", ".tokenizer", ".safetensors"
)  # fmt: skip
_LEFT_OUT = (".md", ".jinja")  # of no effect on embeddings
_DESCRIPTION = "text_encoder.json"  # of a TextEncoder, beside the folders of its parts
_MODEL, _TOKENIZER = "model", "tokenizer"


def is_writable(encoder: object) -> bool:
    """Return whether an encoder is written as files of its library."""
    return isinstance(encoder, TextEncoder) or is_sentence_transformer(encoder)


def to_files(encoder: Any) -> Files:
    """Return the content of each file by its path in the folder of the encoder.

    Raises
    ------
    ValueError
        If its library writes a file that :func:`from_files` refuses.
    """
    _check_no_adapters(encoder)
    with TemporaryDirectory() as name, without_progress():
        folder = Path(name)
        if isinstance(encoder, TextEncoder):
            model: Any = encoder.model
            model.save_pretrained(folder / _MODEL)
            encoder.tokenizer.save_pretrained(folder / _TOKENIZER)
            settings = {
                "model": type(model).__name__,
                "pooling": encoder.pooling,
                "max_length": encoder.max_length,
            }
            (folder / _DESCRIPTION).write_text(json.dumps(settings))
        else:
            encoder.save_pretrained(name, create_model_card=False)
        files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.suffix not in _LEFT_OUT
        }
    try:
        _check(files)  # what would not be read is not written
    except ValueError as error:
        raise ValueError(
            f"A file without code cannot hold this encoder of texts: {error}. Use pickle, "
            f"or a tokenizer and a model that transformers itself defines."
        ) from error
    return files


def from_files(files: Mapping[str, bytes]) -> nn.Module:
    """Return the encoder of the files; the inverse of :func:`to_files`.

    Raises
    ------
    ValueError
        If a file could hold code, its library cannot read the files, or weights are NaN.
    """
    _check(files)
    with TemporaryDirectory() as folder, without_progress():
        try:
            for name, content in files.items():
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            encoder = _read(Path(folder))
        except Exception as error:  # of several libraries
            raise ValueError(f"the files of the encoder cannot be read: {error}") from error
    if not all(weight.isfinite().all() for weight in encoder.parameters()):
        raise ValueError("the weights of the encoder hold NaN or infinity")
    return encoder


def _read(folder: Path) -> nn.Module:
    if not (folder / _DESCRIPTION).exists():
        module: nn.Module = open_text_encoder(f"{NAME_PREFIX}{folder}")
        return module
    import transformers

    settings = json.loads((folder / _DESCRIPTION).read_text())
    model_type = getattr(transformers, settings["model"])
    if not issubclass(model_type, transformers.PreTrainedModel):
        raise TypeError(f"{settings['model']!r} is not a model")
    model = model_type.from_pretrained(folder / _MODEL, local_files_only=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        folder / _TOKENIZER, local_files_only=True
    )
    return TextEncoder(model, tokenizer, settings["pooling"], settings["max_length"])


def _check_no_adapters(encoder: nn.Module) -> None:
    """Raise where the library would write adapters without the weights that they adapt."""
    if any(type(part).__module__.partition(".")[0] == "peft" for part in encoder.modules()):
        model = "module_.model" if isinstance(encoder, TextEncoder) else "module_[0].model"
        raise ValueError(
            f"A file without code cannot hold the adapters of peft in this encoder. Merge "
            f"them first, {model} = {model}.merge_and_unload(), or use pickle."
        )


def _check(files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        _check_name(name)
        if name.endswith(".json"):
            _check_description(name, content)


def _check_name(name: str) -> None:
    """Raise where a file would be written elsewhere, or is of another kind."""
    path = PurePosixPath(name)
    is_inside = (
        not path.is_absolute() and ".." not in path.parts and not {"\\", ":"} & set(name)
    )
    if not (is_inside and path.suffix in _SUFFIXES):
        raise ValueError(f"the encoder has the unexpected file {name!r:.80}")


def _check_description(name: str, content: bytes) -> None:
    """Raise where a description names code: classes of other packages, remote code."""
    value = json.loads(content)
    if name == "modules.json":
        types = [module["type"] for module in value]
        foreign = [t for t in types if not str(t).startswith("sentence_transformers.")]
        if foreign:
            raise ValueError(f"the encoder names code of another package: {foreign[0]!r}")
    if isinstance(value, dict) and "auto_map" in value:
        raise ValueError(f"the file {name!r} of the encoder names code of its own")
