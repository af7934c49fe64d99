"""Makes a model repository for Triton: a copy of `models/`, with the models that are named.

It needs `pip install "langchain-gpu[local,onnx]"`; the repository itself needs neither torch nor
this package.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from tokenizers import Tokenizer

HERE = Path(__file__).parent
MOST = 512  # tokens, for models that set no limit


class Embed(torch.nn.Module):
    """Tokens to vectors: the transformer and all that follows it."""

    def __init__(self, model: SentenceTransformer, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        """Return one vector per row."""
        features = dict(zip(self.names, tensors, strict=True))
        vectors: torch.Tensor = self.model(features)["sentence_embedding"]
        return vectors


class Rerank(torch.nn.Module):
    """Tokens of pairs to logits."""

    def __init__(self, model: torch.nn.Module, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        """Return one logit per row."""
        features = dict(zip(self.names, tensors, strict=True))
        logits: torch.Tensor = self.model(**features).logits
        return logits


def main() -> None:
    """Read the command line and make the repository."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where to make it; must not exist")
    parser.add_argument("--embed", help="a sentence-transformers model: folder or name")
    parser.add_argument("--rerank", help="a cross-encoder: folder or name")
    parser.add_argument("--chat", type=Path, help="a .gguf file")
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True)
    if chosen.embed:
        model = SentenceTransformer(chosen.embed, device="cpu").eval()
        place = copy("embed", chosen.folder)
        names = words(model.tokenizer, model.max_seq_length, place)
        export(Embed(model, names), model.tokenizer(["a", "b c"], padding=True), names, place)
    if chosen.rerank:
        pairs = CrossEncoder(chosen.rerank, device="cpu")
        place = copy("rerank", chosen.folder)
        names = words(pairs.tokenizer, pairs.max_seq_length, place)
        example = pairs.tokenizer(["a", "b c"], ["d", "e"], padding=True)
        export(Rerank(pairs.model.eval(), names), example, names, place)
    if chosen.chat:
        shutil.copyfile(chosen.chat, copy("chat", chosen.folder) / "model.gguf")


def copy(name: str, folder: Path) -> Path:
    """Copy the example's model, and return the folder of its first version."""
    shutil.copytree(HERE / "models" / name, folder / name)
    return folder / name / "1"


def words(tokenizer: Any, most: int | None, place: Path) -> list[str]:
    """Write `tokenizer.json`, which pads and cuts, and return the names of what it makes."""
    own = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    own.enable_truncation(min(most or MOST, MOST))
    own.enable_padding(pad_id=tokenizer.pad_token_id, pad_token=tokenizer.pad_token)
    own.save(str(place / "tokenizer.json"))
    made = tokenizer(["a"])
    return [each for each in ("input_ids", "attention_mask", "token_type_ids") if each in made]


def export(module: torch.nn.Module, example: Any, names: list[str], place: Path) -> None:
    """Write `model.onnx`."""
    with torch.inference_mode():
        torch.onnx.export(
            module,
            tuple(torch.tensor(example[name]) for name in names),
            str(place / "model.onnx"),
            dynamo=False,  # torch's newer exporter needs another package
            opset_version=17,
            input_names=names,
            output_names=["rows"],
            dynamic_axes={name: {0: "rows", 1: "tokens"} for name in names} | {"rows": {0: "rows"}},
        )


if __name__ == "__main__":
    main()
