"""Chat templates in a few lines each, and a server that has one of them: its tokens are characters.

They have the shapes that templates of models have: results in a user's turn or in turns of their own, as they are,
stripped, or as JSON, with the name of the tool or with the id of the call, and thinking opened where an answer begins.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from itertools import groupby
from typing import Any

import httpx

from gapscope.serving.vllm import Endpoint

Message = dict[str, Any]
Template = Callable[[list[Message], bool], str]
"""Messages as text; the flag says whether an answer begins behind them."""


class TemplateError(Exception):
    """What a template raises for messages that it does not take."""


def _calls(message: Message) -> list[Message]:
    return [call["function"] | {"id": call["id"]} for call in message.get("tool_calls", ())]


def _body(call: Message) -> str:
    return json.dumps({"name": call["name"], "arguments": json.loads(call["arguments"])})


def _chatml(messages: list[Message], begins: bool, *, strips: bool = False, opening: str = "") -> str:
    text = ""
    for is_result, group in groupby(messages, key=lambda message: message["role"] == "tool"):
        turns = list(group)
        if is_result:
            results = (turn["content"].strip() if strips else turn["content"] for turn in turns)
            shown = "".join(f"\n<tool_response>\n{result}\n</tool_response>" for result in results)
            text += f"<|im_start|>user{shown}<|im_end|>\n"
            continue
        for turn in turns:
            said = [turn["content"]] if turn["content"] else []
            said += [f"<tool_call>\n{_body(call)}\n</tool_call>" for call in _calls(turn)]
            thought = f"<think>\n{turn['reasoning']}\n</think>\n\n" if turn.get("reasoning") else ""
            text += f"<|im_start|>{turn['role']}\n{thought}" + "\n".join(said) + "<|im_end|>\n"
    return text + f"<|im_start|>assistant\n{opening}" * begins


def qwen(messages: list[Message], begins: bool) -> str:
    """Results in one turn of the user."""
    return _chatml(messages, begins)


def thinking(messages: list[Message], begins: bool) -> str:
    """The same, with results stripped and thinking opened."""
    return _chatml(messages, begins, strips=True, opening="<think>\n")


def harmony(messages: list[Message], begins: bool) -> str:
    """Results as JSON, with the name of the tool before each."""
    text = ""
    for message in messages:
        if message["role"] == "tool":
            text += f"<|start|>functions.{message['name']} to=assistant<|channel|>commentary<|message|>"
            text += json.dumps(message["content"]) + "<|end|>"
            continue
        if message["content"]:
            channel = "<|channel|>final" if message["role"] == "assistant" else ""
            text += f"<|start|>{message['role']}{channel}<|message|>{message['content']}<|end|>"
        for call in _calls(message):
            text += f"<|start|>assistant to=functions.{call['name']}<|channel|>commentary json<|message|>"
            text += call["arguments"] + "<|call|>"
    return text + "<|start|>assistant" * begins


def llama(messages: list[Message], begins: bool) -> str:
    """Turns of their own for results, and one call at a time."""
    text = ""
    for message in messages:
        calls = _calls(message)
        if len(calls) > 1:
            said = "This model only supports single tool-calls at once!"
            raise TemplateError(said)
        role = "ipython" if message["role"] == "tool" else message["role"]
        content = json.dumps(message["content"]) if role == "ipython" else message["content"]
        for call in calls:
            content += f'{{"name": "{call["name"]}", "parameters": {call["arguments"]}}}'
        text += f"<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|eot_id|>"
    return text + "<|start_header_id|>assistant<|end_header_id|>\n\n" * begins


def glm(messages: list[Message], begins: bool) -> str:
    """The policy stops at the token with which the environment's turn begins."""
    text = ""
    for message in messages:
        if message["role"] == "tool":
            text += "" if text.endswith("</tool_response>") else "<|observation|>"
            text += f"\n<tool_response>\n{message['content']}\n</tool_response>"
            continue
        text += f"<|{message['role']}|>\n{message['content']}"
        for call in _calls(message):
            pairs = json.loads(call["arguments"]).items()
            shown = "".join(f"<arg_key>{key}</arg_key>\n<arg_value>{value}</arg_value>\n" for key, value in pairs)
            text += f"\n<tool_call>{call['name']}\n{shown}</tool_call>"
    return text + "<|assistant|>" * begins


def without_calls(messages: list[Message], begins: bool) -> str:
    """Calls are left out, and turns for results are written like any others."""
    text = "".join(f"<|im_start|>{each['role']}\n{each['content']}<|im_end|>\n" for each in messages)
    return text + "<|im_start|>assistant\n" * begins


def without_results(messages: list[Message], begins: bool) -> str:
    """Only what the user and the assistant say."""
    return qwen([message for message in messages if message["role"] != "tool"], begins)


def alternating(messages: list[Message], begins: bool) -> str:
    """Nothing but the two."""
    if any(message["role"] == "tool" for message in messages):
        message = "Conversation roles must alternate user/assistant/user/assistant/..."
        raise TemplateError(message)
    return qwen(messages, begins)


def with_ids(messages: list[Message], begins: bool) -> str:
    """The id of a call before its result."""
    shown = [
        each | {"content": f"## Return of {each['tool_call_id']}\n{each['content']}"}
        if each["role"] == "tool"
        else each
        for each in messages
    ]
    return qwen(shown, begins)


def _characters(text: str) -> list[int]:
    return [ord(character) for character in text]


class TemplateServer:
    """Answers /tokenize and /detokenize; `asked` are the requests, in order. `encode` makes other tokens of texts."""

    def __init__(self, template: Template, encode: Callable[[str], list[int]] = _characters) -> None:
        self.template = template
        self.encode = encode
        self.asked: list[Message] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        self.asked.append(body)
        if request.url.path == "/detokenize":
            return httpx.Response(200, json={"prompt": "".join(map(chr, body["tokens"]))})
        text = body.get("prompt")
        if text is None:
            try:
                text = self.template(body["messages"], body["add_generation_prompt"])
            except TemplateError as error:
                fault = {"message": str(error), "type": "BadRequestError", "code": 400}
                return httpx.Response(400, json={"error": fault})
        ids = self.encode(text)
        return httpx.Response(200, json={"tokens": ids, "count": len(ids)})


def ask(server: TemplateServer, question: Callable[[Endpoint], Awaitable[Any]]) -> Any:
    """What comes of a question to the server."""

    async def run() -> Any:
        async with Endpoint("http://localhost:8000", "tiny", transport=httpx.MockTransport(server)) as endpoint:
            return await question(endpoint)

    return asyncio.run(run())
