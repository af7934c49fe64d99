"""Images in chats: every form that LangChain knows, to every engine that reads them."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    trim_messages,
)

from langchain_gpu import ChatGPU
from langchain_gpu.generators.images import first_image, without_images
from langchain_gpu.language_models.messages import to_dicts
from tests.unit_tests.chat_script import CHAT, chat_server
from tests.unit_tests.scripted_ollama import FakeOllama, an_ollama, ollama_server
from tests.unit_tests.scripted_server import Scripted

PIXELS = base64.b64encode(b"\x89PNG pixels").decode()
URL = f"data:image/png;base64,{PIXELS}"
FAR = "https://far.example/cat.png"
PART = {"type": "image_url", "image_url": {"url": URL}}
BLOCK = {"type": "image", "base64": PIXELS, "mime_type": "image/png"}
FORMS: dict[str, dict[str, Any]] = {
    "LangChain's": BLOCK,
    "LangChain's first": {
        "type": "image",
        "source_type": "base64",
        "data": PIXELS,
        "mime_type": "image/png",
    },
    "OpenAI's": PART,
    "OpenAI's in short": {"type": "image_url", "image_url": URL},
    "Anthropic's": {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": PIXELS},
    },
}

server, fake = chat_server, an_ollama
ollama = ollama_server


def seen(*blocks: Any) -> HumanMessage:
    return HumanMessage(["What ", "is this?", *blocks, {"type": "text", "text": "Be short."}])


def asked(server: Scripted, path: str) -> list[Any]:
    """Bodies of the requests to a path."""
    return [each.body for each in server.asked if each.path == path]


class TestForms:
    @pytest.mark.parametrize("form", FORMS)
    def test_each_becomes_one(self, form: str) -> None:
        (found,) = to_dicts([seen(FORMS[form])])
        assert found == {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                PART,
                {"type": "text", "text": "Be short."},
            ],
        }

    @pytest.mark.parametrize(
        "block",
        [
            {"type": "image", "url": FAR},
            {"type": "image", "source_type": "url", "url": FAR},
            {"type": "image_url", "image_url": {"url": FAR}},
            {"type": "image_url", "image_url": FAR},
            {"type": "image", "source": {"type": "url", "url": FAR}},
        ],
    )
    def test_an_address_is_passed_on_and_not_fetched(self, block: dict[str, Any]) -> None:
        assert to_dicts([seen(block)])[0]["content"][1]["image_url"] == {"url": FAR}

    def test_how_closely_it_is_looked_at_is_kept(self) -> None:
        block = {"type": "image_url", "image_url": {"url": URL, "detail": "low"}}
        assert to_dicts([seen(block)])[0]["content"][1]["image_url"]["detail"] == "low"

    def test_line_breaks_and_capitals_do_no_harm(self) -> None:
        broken = base64.encodebytes(b"\x89PNG pixels" * 9).decode()
        whole = "".join(broken.split())
        for url in (f"data:image/png;base64,{broken}", f"DATA:image/png;BASE64,{whole}"):
            (found,) = to_dicts([HumanMessage([{"type": "image_url", "image_url": url}])])
            assert found["content"][0]["image_url"] == {"url": f"data:image/png;base64,{whole}"}
        shout = {"type": "image", "url": FAR.replace("https", "HTTPS")}
        assert (
            to_dicts([HumanMessage([shout])])[0]["content"][0]["image_url"]["url"][:6] == "HTTPS:"
        )

    def test_tools_and_own_roles_may_hold_them_too(self) -> None:
        messages = [ToolMessage([BLOCK], tool_call_id="1"), ChatMessage([BLOCK], role="user")]
        assert [each["content"] for each in to_dicts(messages)] == [[PART], [PART]]

    def test_texts_alone_stay_a_text(self) -> None:
        assert to_dicts([seen()])[0]["content"] == "What is this?Be short."

    def test_text_beside_them_is_what_is_left(self) -> None:
        chat = to_dicts([SystemMessage("Hi."), seen(BLOCK, BLOCK)])
        assert (first_image(chat), first_image(chat[:1])) == (1, None)
        assert without_images(chat)[1] == {"role": "user", "content": "What is this?Be short."}


class TestWrong:
    @pytest.mark.parametrize(
        ("block", "why"),
        [
            ({"type": "image"}, "an image is given as {'type': 'image', 'base64'"),
            ({"type": "image", "file_id": "f-1"}, "an image is given as"),
            ({"type": "image", "base64": PIXELS}, "an image is given as"),
            ({"type": "image_url"}, "an image is given as"),
            ({"type": "image_url", "image_url": {}}, "an image is given as"),
            ({"type": "image_url", "image_url": PIXELS}, "begins with 'https:' or the like"),
            ({"type": "image_url", "image_url": {"url": 7}}, "begins with 'https:' or the like"),
            ({**BLOCK, "base64": "no base64!"}, "cannot be decoded"),
            ({**BLOCK, "base64": ""}, "the image is empty"),
            ({**BLOCK, "mime_type": "text/html"}, "is not a base64 image"),
        ],
    )
    def test_what_holds_none_is_named(self, block: dict[str, Any], why: str) -> None:
        with pytest.raises(ValueError, match=r"message 1 \(user\), block 2: ") as caught:
            to_dicts([SystemMessage("Hi."), seen(block)])
        assert why in str(caught.value)

    def test_no_error_holds_the_image(self) -> None:
        long = PIXELS * 10_000
        for block in ({**BLOCK, "base64": long + "!"}, {"type": "image", "base64": long}):
            with pytest.raises(ValueError, match="block 2") as caught:
                to_dicts([seen(block)])
            assert len(str(caught.value)) < 300
            assert caught.value.__cause__ is None
            assert caught.value.__suppress_context__

    @pytest.mark.parametrize("message", [AIMessage([BLOCK]), SystemMessage([BLOCK])])
    def test_who_does_not_show_images(self, message: BaseMessage) -> None:
        with pytest.raises(ValueError, match="block 0 is an image: put it into a HumanMessage"):
            to_dicts([message])

    @pytest.mark.parametrize("kind", ["audio", "video", "file"])
    def test_other_kinds_are_named(self, kind: str) -> None:
        with pytest.raises(ValueError, match=f"block 2 is content of type '{kind}', and only text"):
            to_dicts([seen({"type": kind, "base64": PIXELS, "mime_type": "x/y"})])

    def test_a_text_that_is_none_is_not_shown(self) -> None:
        with pytest.raises(
            ValueError, match="block 2 is of text and holds bytes, not str"
        ) as caught:
            to_dicts([seen({"type": "text", "text": b"\x89PNG" * 10_000})])
        assert len(str(caught.value)) < 100


class TestOpenAI:
    def test_parts_go_in_their_order(self, server: Scripted) -> None:
        with ChatGPU(model="m", base_url="http://far.example", timeout=20) as chat:
            assert chat.invoke([seen(BLOCK, {"type": "image", "url": FAR})]).text == "Hello"
            assert asyncio.run(chat.ainvoke([seen(BLOCK)])).text == "Hello"
        first, second = (each["messages"][0]["content"] for each in asked(server, CHAT))
        assert [part["type"] for part in first] == ["text", "image_url", "image_url", "text"]
        assert (first[1], first[2]["image_url"]["url"], second[1]) == (PART, FAR, PART)


class TestOllama:
    @pytest.fixture
    def chat(self, ollama: Scripted) -> Iterator[ChatGPU]:
        url = "http://far.example"
        with ChatGPU(model="m", base_url=url, backend="ollama", timeout=20) as made:
            yield made

    def test_they_stand_beside_the_text(
        self, chat: ChatGPU, fake: FakeOllama, ollama: Scripted
    ) -> None:
        fake.capabilities = ["completion", "vision"]
        assert chat.invoke([seen(BLOCK, PART)]).text == "Hello."
        (message,) = asked(ollama, "/api/chat")[-1]["messages"]
        assert message["images"] == [PIXELS, PIXELS]
        assert message["content"] == "What is this?Be short."

    def test_a_model_that_does_not_see_is_named(self, chat: ChatGPU, fake: FakeOllama) -> None:
        fake.chat = lambda _: pytest.fail("asked all the same")
        with pytest.raises(ValueError, match=r"message 0 \(user\) holds an image, which m cannot"):
            chat.invoke([seen(BLOCK)])

    def test_a_server_that_does_not_say_is_asked(self, chat: ChatGPU, fake: FakeOllama) -> None:
        fake.capabilities = []
        assert chat.invoke([seen(BLOCK)]).text == "Hello."

    def test_an_address_is_refused_with_what_to_do(self, chat: ChatGPU, fake: FakeOllama) -> None:
        fake.capabilities = ["completion", "vision"]
        with pytest.raises(ValueError, match=r"Ollama fetches no images: read https://far\.exam"):
            chat.invoke([seen({"type": "image", "url": FAR})])
        with pytest.raises(ValueError, match=r"read https://far\.example/cat\.png yourself"):
            chat.invoke([seen({"type": "image", "url": f"{FAR}?signature=secret"})])

    def test_text_alone_is_counted(self, chat: ChatGPU, ollama: Scripted) -> None:
        messages: list[BaseMessage] = [seen(BLOCK), AIMessage("A cat."), HumanMessage("Sure?")]
        assert chat.get_num_tokens_from_messages(messages) == 11
        assert "images" not in asked(ollama, "/api/chat")[-1]["messages"][0]
        kept = trim_messages(messages, max_tokens=11, token_counter=chat, strategy="last")
        assert kept[0].content[2] == BLOCK


class TestHere:
    @pytest.mark.parametrize("name", ["model.gguf", "folder"])
    def test_a_model_here_is_not_loaded_for_them(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        path = tmp_path / name
        if name == "folder":
            path.mkdir()
            (path / "config.json").write_text("{}")
            (path / "model.safetensors").write_bytes(b"")
        else:
            path.write_bytes(b"GGUF")
        monkeypatch.setattr(
            "langchain_gpu.language_models.base.create", lambda *_: pytest.fail("loaded")
        )
        chat = ChatGPU(model=str(path))
        backend = "llama_cpp" if name == "model.gguf" else "transformers"
        match = rf"message 0 \(user\) holds an image, which the back end '{backend}' cannot read"
        for ask in (chat.invoke, lambda it: list(chat.stream(it)), lambda it: chat.batch([it])):
            with pytest.raises(ValueError, match=match):
                ask([seen(BLOCK)])
        with pytest.raises(ValueError, match=match):
            asyncio.run(chat.ainvoke([seen(BLOCK)]))
