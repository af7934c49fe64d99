"""Models of sentence-transformers, loaded and made ready for our engine."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.cross_encoder.modules import LogitScore
from transformers import PreTrainedModel

from langchain_gpu.engine.runtimes.truncate_dim import TruncateDim
from langchain_gpu.torch_models.progress_bars import no_bars
from langchain_gpu.torch_models.weights import incomplete, judged_here
from langchain_gpu.utils.errors import first_line
from langchain_gpu.utils.forking import loading_model

_HEAD = "ForSequenceClassification"
# Kinds of models that sentence-transformers would load as embedders, and what to do.
_NO_EMBEDDERS = {
    "CrossEncoder": "use GPURerank for it",
    "MultiVectorEncoder": "it gives a vector per token; use a model that gives one per text",
    "SparseEncoder": "its vectors are sparse; use an embedder, and hybrid search for words",
}

# What is taken for an argument of sentence-transformers' class, and how it is said.
_ELSEWHERE = {
    "batch_size": "max_batch_tokens=",
    "max_seq_length": "model_kwargs={'processor_kwargs': {'model_max_length': ...}}",
    "normalize_embeddings": "encode_kwargs={'normalize_embeddings': ...}",
    "prompt": "encode_kwargs={'prompt': ...}",
    "prompt_name": "encode_kwargs={'prompt_name': ...}",
}


def load_embedder(path: Path, options: Mapping[str, Any]) -> Any:
    """Load a `SentenceTransformer` on the CPU; see `Task.load`.

    Raises:
        ValueError: The folder holds a model of another kind, or not all of its weights.
    """
    _check_kind(path)
    model = _load(SentenceTransformer, path, options)
    _check_complete(model, path)
    if model.truncate_dim is not None:  # `encode` does it, which is not called here
        model.append(TruncateDim(model.truncate_dim))
    if not isinstance(model[0], Transformer):
        for module in model:
            module.register_forward_pre_hook(_to_own_dtype)
    return model


def _to_own_dtype(module: torch.nn.Module, args: tuple[Any, ...]) -> None:
    """Give a module numbers of its own dtype: counts and weights of words are always float32."""
    (features, *_), weight = args, next(module.parameters(), None)
    if weight is None:
        return
    for name, value in features.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            features[name] = value.to(weight.dtype)


def load_reranker(path: Path, options: Mapping[str, Any]) -> Any:
    """Load a `CrossEncoder` on the CPU; see `Task.load`.

    Raises:
        ValueError: The model has no single score, or none that it was trained for, or the folder
            does not hold all of its weights.
    """
    model = _load(CrossEncoder, path, options)
    _check_head(model, path)
    _check_complete(model, path)
    if model.num_labels != 1:
        raise ValueError(f"{path.name} has {model.num_labels} labels, and a reranker has one score")
    _give_padding(model)
    _narrow_head(model)
    return model


def _load(kind: Callable[..., Any], path: Path, options: Mapping[str, Any]) -> Any:
    """Load a folder on the CPU: safetensors only, no code unless asked for.

    Raises:
        RuntimeError: This process was forked from one that loaded a model.
        TypeError: An option is unknown; the message names it.
        ValueError: A file of the model is damaged.
    """
    options = dict(options)
    weights = {"use_safetensors": True, "ignore_mismatched_sizes": True}  # `_check_complete` sees
    weights |= options.pop("model_kwargs", {})
    try:
        with loading_model(), no_bars(), judged_here():
            model = kind(
                str(path), device="cpu", local_files_only=True, model_kwargs=weights, **options
            )
    except (SafetensorError, json.JSONDecodeError) as error:  # they name neither file nor model
        raise _damaged(path, error) from error
    except Exception as error:
        if isinstance(error, TypeError) and (unknown := _unknown(error, options, weights)):
            raise TypeError(unknown) from error
        error.add_note(f"while the model in {path} was loaded")
        raise
    # It points back: the model would wait for garbage collection, and Python 3.13.0 collects none.
    model.model_card_data.model = None
    for module in model.modules():
        if getattr(getattr(module, "config", None), "use_cache", False):
            module.config.use_cache = False  # nothing is generated: a cache only fills memory
    return model


def _unknown(
    error: TypeError, options: Mapping[str, Any], weights: Mapping[str, Any]
) -> str | None:
    """Say in the user's words which option is unknown; None where the error is about none."""
    if (found := re.search(r"unexpected keyword argument '(\w+)'", str(error))) is None:
        return None
    name = found[1]
    if name in options and name in _ELSEWHERE:
        return f"model_kwargs[{name!r}] is unknown ({error}); say {_ELSEWHERE[name]}"
    if name in options:
        return (
            f"model_kwargs[{name!r}] is unknown ({error}); dtype= sets the precision, device= the "
            f"device, and arguments of transformers go one level deeper: "
            f"model_kwargs={{'model_kwargs': {{{name!r}: ...}}}}"
        )
    if name in weights:
        return f"model_kwargs['model_kwargs'][{name!r}] is unknown ({error}); leave it out"
    return None


def _read(file: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(file.read_text("utf-8"))
    except json.JSONDecodeError as error:
        raise _damaged(file, error) from error
    return found


def _damaged(place: Path, error: Exception) -> ValueError:
    what = f"the model in {place}" if place.is_dir() else str(place)
    return ValueError(f"{what} is damaged; download it again: {first_line(error)}")


def _check_kind(path: Path) -> None:
    """Refuse what is not an embedder: one would be made of it, with a pooling that nobody trained.

    Raises:
        ValueError: The folder holds a model of another kind.
    """
    settings = path / "config_sentence_transformers.json"
    if settings.is_file():
        kind = _read(settings).get("model_type")
    else:
        kind = "CrossEncoder" if _is_plain_reranker(path) else None
    if kind in _NO_EMBEDDERS:
        raise ValueError(f"{path.name} is not an embedder but a {kind}: {_NO_EMBEDDERS[kind]}")


def _is_plain_reranker(path: Path) -> bool:
    """Whether the folder has no settings of sentence-transformers, and a head with one score."""
    config = path / "config.json"
    if (path / "modules.json").is_file() or not config.is_file():
        return False
    stored = _read(config)
    architectures = stored.get("architectures") or [""]
    return architectures[0].endswith(_HEAD) and len(stored.get("id2label") or ()) == 1


def _check_head(model: Any, path: Path) -> None:
    """Refuse a model whose files hold no head that scores: a new one, of random numbers, was made.

    Raises:
        ValueError: It is such a model, an embedder for example.
    """
    first = model[0]
    made = type(getattr(first, "model", None)).__name__
    stored = (getattr(first.config, "architectures", None) or [made])[0]
    if made.endswith(_HEAD) and not stored.endswith(_HEAD):
        raise ValueError(
            f"{path.name} is not a reranker: its files hold a {stored}, without a scoring "
            "head; use a cross-encoder, or GPUEmbeddings for an embedder"
        )


def _check_complete(model: Any, path: Path) -> None:
    """Refuse a model some of whose weights are not those of its files.

    Raises:
        ValueError: It is one.
    """
    for module in model.modules():
        inner = module.model if isinstance(module, Transformer) else None
        if not isinstance(inner, PreTrainedModel):
            continue
        if getattr(inner.config, "quantization_config", None) is not None:
            continue  # its weights are not loaded as they are stored
        if names := [name for name in _drawn(inner, path) if not _is_idle(module, name)]:
            raise ValueError(incomplete(path, type(inner).__name__, names))


def _drawn(model: PreTrainedModel, path: Path) -> list[str]:
    """Name the weights without the mark that transformers gives to each that it loads or ties."""
    ignored = getattr(model, "_keys_to_ignore_on_load_missing", None) or ()
    known = re.compile("|".join(ignored) or r"(?!)")
    weights = dict(model.named_parameters())
    drawn = [
        name for name, each in weights.items() if not getattr(each, "_is_hf_initialized", False)
    ]
    if len(drawn) == len(weights) and _holds_any(path, weights):
        return []  # the mark is not a part of transformers' API: a release may be without it
    return [name for name in drawn if not known.search(name)]


def _holds_any(path: Path, names: Iterable[str]) -> bool:
    """Whether the files in a folder hold a weight of one of these names."""
    stored: set[str] = set()
    for file in path.rglob("*.safetensors"):
        with safe_open(file, framework="pt") as weights:
            stored.update(weights.keys())
    return not stored.isdisjoint(names)


def _is_idle(module: Any, name: str) -> bool:
    """Whether a weight is of a pooler behind the states of the tokens, which alone are used."""
    outputs = (way["method_output_name"] for way in module.modality_config.values())
    return name.startswith("pooler.") and all(each == "last_hidden_state" for each in outputs)


def _give_padding(model: Any) -> None:
    """Have the end of a text fill up shorter rows, where a language model has no padding token.

    Without one neither its tokenizer nor its classifying head takes two rows at once.
    """
    first = model[0]
    tokenizer: Any = getattr(first, "tokenizer", None)
    if not hasattr(tokenizer, "eos_token"):
        return
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    config = getattr(first, "config", None)
    if config is not None and getattr(config, "pad_token_id", 0) is None:
        config.pad_token_id = tokenizer.pad_token_id


def _narrow_head(model: Any) -> None:
    """Leave a language model the words it may answer with.

    The head of a vocabulary of 150,000 is a third of the work of a small model, and its logits are
    gigabytes for a large batch; a score needs two of them at most.
    """
    last, language_model = model[len(model) - 1], getattr(model[0], "model", None)
    head = getattr(language_model, "lm_head", None)
    if not isinstance(last, LogitScore) or type(head) is not torch.nn.Linear:
        return
    assert language_model is not None  # noqa: S101 - it has a head
    words = [word for word in (last.true_token_id, last.false_token_id) if word is not None]
    narrow = torch.nn.Linear(
        head.in_features, len(words), bias=head.bias is not None, dtype=head.weight.dtype
    )
    with torch.no_grad():
        narrow.weight.copy_(head.weight[words])
        if head.bias is not None:
            narrow.bias.copy_(head.bias[words])
    language_model.lm_head = narrow
    last.true_token_id, last.false_token_id = 0, None if len(words) == 1 else 1


__all__ = ["load_embedder", "load_reranker"]
