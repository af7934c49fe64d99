"""A chat, streamed: `model.gguf` beside this file, run by llama.cpp."""

import http.client
import json
import socket
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils
import xllamacpp

LAST = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    """Runs in a process of its own; every chat is a thread that waits for llama.cpp."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model."""
        config = json.loads(args["model_config"])
        said = {name: int(each["string_value"]) for name, each in config["parameters"].items()}
        folder = Path(args["model_repository"]) / args["model_version"]
        params = xllamacpp.CommonParams()
        params.model.path = str(folder / "model.gguf")
        params.n_parallel = said["n_parallel"]
        params.n_ctx = said["n_ctx"] * said["n_parallel"]  # llama.cpp divides it by the slots
        params.n_gpu_layers = said["n_gpu_layers"]
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = said["n_threads"]
        params.endpoint_metrics = True
        # It always listens: on a socket in a folder that nobody else can read.
        self.folder = tempfile.TemporaryDirectory()
        params.hostnames = [f"{self.folder.name}/llama.sock"]
        self.llama = xllamacpp.Server(params)
        self.llama.handle_metrics()  # answers once it runs
        self.knows_tools = _knows_tools(params.hostnames[0])
        self.pool = ThreadPoolExecutor(said["n_parallel"])

    def execute(self, requests: list) -> None:
        """Start the chats; their answers come one by one."""
        for request in requests:
            self.pool.submit(self.answer, request, request.get_response_sender())

    def finalize(self) -> None:
        """Let the chats end, and free the model."""
        self.pool.shutdown()
        del self.llama
        self.folder.cleanup()

    def answer(self, request: object, sender: object) -> None:
        """Answer one chat."""
        try:
            problem = self.stream(request, sender)
        except Exception as error:  # noqa: BLE001 - it belongs to whoever asked
            problem = str(error)
        if problem is None:
            sender.send(flags=LAST)
        else:
            error = pb_utils.TritonError(problem)
            sender.send(pb_utils.InferenceResponse(error=error), flags=LAST)

    def stream(self, request: object, sender: object) -> str | None:
        """Send the answer in pieces, and return what went wrong."""
        body = _body(request)
        if body.get("tools") and not self.knows_tools:  # llama.cpp would leave them out
            return "the model's chat template cannot describe tools"
        problem, reason, usage, calls = None, "stop", {}, _Calls()

        def take(chunk: dict) -> bool:
            nonlocal problem, reason, usage
            if "error" in chunk:
                problem = str(chunk["error"].get("message", chunk["error"]))
                return True
            usage = chunk.get("usage") or usage
            for choice in chunk.get("choices", ()):
                delta = choice.get("delta") or {}
                text = delta.get("content") or choice.get("text") or ""
                text += calls.read(delta.get("tool_calls") or ())
                reason = choice.get("finish_reason") or reason
                if text:
                    sender.send(_response(text_output=text, finish_reason="None"))
            return sender.is_cancelled()  # True ends it

        chat = "messages" in body
        call = self.llama.handle_chat_completions if chat else self.llama.handle_completions
        result = call(body, take)
        if isinstance(result, dict) and "error" in result:
            take(result)
        if problem is None and not sender.is_cancelled():
            counts = {}
            if usage:
                counts = {
                    "num_input_tokens": usage["prompt_tokens"],
                    "num_output_tokens": usage["completion_tokens"],
                }
            # One that was cut stays open: it is not whole.
            end = calls.end() if reason == "tool_calls" else ""
            sender.send(_response(text_output=end, finish_reason=reason, **counts))
        return problem


class _Calls:
    """Tool calls that llama.cpp has found, as text: `text_output` is all that there is for them."""

    def __init__(self) -> None:
        self.is_open = False

    def read(self, pieces: list) -> str:
        """Return the text of the next pieces of calls."""
        text = ""
        for piece in pieces:
            function = piece["function"]
            if name := function.get("name"):
                text += f'{self.end()}<tool_call>{{"name": {json.dumps(name)}, "arguments": '
                self.is_open = True
            text += function.get("arguments") or ""
        return text

    def end(self) -> str:
        """Return what ends a call that is open."""
        was_open, self.is_open = self.is_open, False
        return "}</tool_call>" if was_open else ""


def _knows_tools(path: str) -> bool:
    """Ask llama.cpp, on its socket, whether the model's chat template can describe tools."""
    with socket.socket(socket.AF_UNIX) as door:
        door.connect(path)
        connection = http.client.HTTPConnection("localhost")
        connection.sock = door
        connection.request("GET", "/props")
        answer = json.loads(connection.getresponse().read())
    return answer["chat_template_caps"]["supports_tools"]


def _body(request: object) -> dict:
    """Return the request in llama.cpp's form, which is OpenAI's."""
    body = json.loads(_text(request, "sampling_parameters") or "{}")
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    for name in ("tools", "response_format", "messages"):
        if (value := _text(request, name)) is not None:
            body[name] = json.loads(value)
    if (prompt := _text(request, "text_input")) is not None:
        body["prompt"] = prompt
    return body


def _text(request: object, name: str) -> str | None:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy().reshape(-1)[0].decode()


def _response(**values: str | int) -> object:
    tensors = []
    for name, value in values.items():
        text = isinstance(value, str)
        array = np.array([value.encode()], object) if text else np.array([value], np.uint32)
        tensors.append(pb_utils.Tensor(name, array))
    return pb_utils.InferenceResponse(tensors)
