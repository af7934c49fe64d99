"""Unpacks a chat model from GGUF into safetensors: dense.py FILE.gguf FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

source, folder = Path(sys.argv[1]), Path(sys.argv[2])
torch.set_num_threads(1)  # on a busy machine more of them only wait for one another
where = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name}
unpacked = GgufConfig(dequantize=True)
model = AutoModelForCausalLM.from_pretrained(
    **where, dtype=torch.bfloat16, quantization_config=unpacked
)
model.save_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(**where)
if not tokenizer.chat_template:
    sys.exit(f"{source.name} holds no chat template")
tokenizer.save_pretrained(folder)
