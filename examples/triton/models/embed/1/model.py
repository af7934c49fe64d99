"""Texts to vectors: `model.onnx` and `tokenizer.json` beside this file."""

from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils
from tokenizers import Tokenizer

onnxruntime.disable_telemetry_events()


class TritonPythonModel:
    """Runs in a process of its own, one call of `execute` at a time."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model."""
        folder = Path(args["model_repository"]) / args["model_version"]
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
        self.inputs = [each.name for each in self.session.get_inputs()]

    def execute(self, requests: list) -> list:
        """Embed the texts of all requests that Triton gathered in one forward pass."""
        groups = [
            [text.decode() for text in _tensor(request, "text")[:, 0]] for request in requests
        ]
        encodings = self.tokenizer.encode_batch([text for group in groups for text in group])
        features = {
            "input_ids": [each.ids for each in encodings],
            "attention_mask": [each.attention_mask for each in encodings],
            "token_type_ids": [each.type_ids for each in encodings],
        }
        (rows,) = self.session.run(
            None, {name: np.array(features[name], np.int64) for name in self.inputs}
        )
        ends = np.cumsum([len(group) for group in groups])[:-1]
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("embedding", np.ascontiguousarray(part))])
            for part in np.split(rows.astype(np.float32), ends)
        ]


def _tensor(request: object, name: str) -> np.ndarray:
    return pb_utils.get_input_tensor_by_name(request, name).as_numpy()
