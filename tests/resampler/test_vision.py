"""Prefixes with images continued on the protocol double: with the right pixels in their places, or not at all."""

import asyncio
import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from double_images import LARGE, PAD_TEXT, SMALL, looked, message, png, shown, url
from endpoint_runs import ASK, continued, refused, run
from vllm_double import PAD, Double, expected, qwen_double
from vllm_faults import Change, changed, on, other_tokens, without
from vllm_policies import always, call, hermes
from vllm_tokens import MARKED

from gapscope.plans import PlannedPrefix
from gapscope.resampler import vision
from gapscope.resampler.sampler import ServerSampler
from gapscope.resampler.sampling import IMAGE, Context, NotSampled, Sampled
from gapscope.tools.base import ToolResult

TOLD = "\n<|im_start|>user\n<tool_response>\n{}\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
GENERATE = "/inference/v1/generate"
CHAT = "/v1/chat/completions"


def seeing(**options: Any) -> Double:
    given: dict[str, Any] = {"policy": hermes(), "vision": True, "scale_out": True}
    return qwen_double(**(given | options))


@pytest.fixture(scope="module")
def prefix() -> PlannedPrefix:
    return looked()


def told(double: Double, prefix: PlannedPrefix, results: Sequence[ToolResult], text: str) -> tuple[Context, ...]:
    """The contexts after a turn, after what a tool has said, and after another turn."""

    async def work(sampler: ServerSampler) -> tuple[Context, ...]:
        _, said = await sampler.sample(await sampler.begin(prefix), ASK)
        after = await sampler.tell(said, text, results)
        return said, after, (await sampler.sample(after, ASK))[1]

    return run(double, work)


def lost(double: Double, prefix: PlannedPrefix, results: Sequence[ToolResult], text: str) -> NotSampled:
    with pytest.raises(NotSampled) as raised:
        told(double, prefix, results, text)
    return raised.value


def sampled_bodies(double: Double, path: str) -> list[dict[str, Any]]:
    """The requests that are samples, not questions about what the server does."""
    return [body for body in double.asked(path) if body.get("sampling_params", body).get("seed") == ASK.seed]


def test_one_token_for_each_image_is_sent_with_its_bytes_and_the_frozen_ones_are_read(prefix: PlannedPrefix) -> None:
    double = seeing()
    start, said, after = continued(double, prefix)
    assert start.guarantee == after.guarantee == "token_exact"
    assert start.ids == prefix.prefix.token_ids
    assert start.ids is not None
    assert start.ids.count(PAD) == 6 + 2
    (body,) = sampled_bodies(double, GENERATE)
    assert body["token_ids"].count(PAD) == 2
    assert [part["url"] for part in body["content_parts"]] == [url(LARGE), url(SMALL)]
    assert said.ids is not None
    assert after.ids == start.ids + said.ids
    assert said.logprobs == expected(after.ids, [LARGE, SMALL])[-len(said.ids) :]
    assert after.text == start.text + said.text
    assert start.text.count(PAD_TEXT) == 2


def test_a_server_that_makes_another_number_of_tokens_of_an_image_is_refused() -> None:
    frozen = looked()
    ids = frozen.prefix.token_ids
    assert ids is not None
    ids.insert(ids.index(PAD), PAD)
    why = refused(seeing(), frozen)
    assert "other tokens than those sent" in why.reason
    assert "from token" in why.detail


def test_an_answer_about_other_tokens_is_no_sample(prefix: PlannedPrefix) -> None:
    assert "other tokens than those sent" in refused(seeing(fault=on(GENERATE, other_tokens())), prefix).reason


def test_a_server_that_does_not_say_what_it_has_read_is_marked(prefix: PlannedPrefix) -> None:
    double = seeing(fault=on(GENERATE, without("prompt_token_ids")))
    start, _, after = continued(double, prefix)
    assert (start.guarantee, after.guarantee) == ("token_exact", "ids_unverified")


def test_many_continuations_at_once_find_out_once_what_the_server_can(prefix: PlannedPrefix) -> None:
    double = seeing()
    prefixes = [prefix.model_copy(update={"id": str(number)}) for number in range(5)]

    async def work(sampler: ServerSampler) -> list[Context]:
        return await asyncio.gather(*(sampler.begin(each) for each in prefixes))

    assert {each.guarantee for each in run(double, work)} == {"token_exact"}
    assert len(double.asked("/v1/chat/completions/render")) == 1


def test_a_crop_is_put_where_the_result_is_with_what_the_template_writes_around_it(prefix: PlannedPrefix) -> None:
    crop = png(64, 96, 90)
    double = seeing()
    text = TOLD.format("a crop" + IMAGE)
    said, after, last = told(double, prefix, [ToolResult("a crop", (crop,))], text)
    assert said.ids is not None
    assert after.ids is not None
    assert after.images == (LARGE, SMALL, crop)
    assert MARKED.decode(after.ids[len(said.ids) :]) == TOLD.format("a crop" + shown(crop))
    assert after.text == said.text + TOLD.format(f"a crop<|vision_start|>{PAD_TEXT}<|vision_end|>")
    sent = sampled_bodies(double, GENERATE)[-1]
    assert len(sent["content_parts"]) == sent["token_ids"].count(PAD) == 3
    assert last.ids is not None
    assert last.ids[: len(after.ids)] == after.ids
    assert last.guarantee == "token_exact"


def test_several_crops_of_one_result_stand_in_their_order(prefix: PlannedPrefix) -> None:
    crops = (png(32, 32), png(64, 32))
    double = seeing()
    _, after, _ = told(double, prefix, [ToolResult("two", crops)], TOLD.format("two" + IMAGE * 2))
    assert after.ids is not None
    assert MARKED.decode(after.ids).count(shown(crops[0]) + shown(crops[1])) == 1


def test_an_error_of_a_tool_needs_no_image(prefix: PlannedPrefix) -> None:
    double = seeing()
    _, after, last = told(double, prefix, [ToolResult("Error: no such image", error=True)], TOLD.format("Error"))
    assert len(double.asked(GENERATE)) == len(["what the server can do", "a turn", "another"])
    assert after.images == (LARGE, SMALL)
    assert after.text.endswith(TOLD.format("Error"))
    assert last.guarantee == "token_exact"


def without_pads(body: dict[str, Any]) -> None:
    body["tokens"] = [token for token in body["tokens"] if token != PAD]


def labelled(body: dict[str, Any]) -> None:
    body["tokens"] += [1] * (PAD in body["tokens"])


@pytest.mark.parametrize("change", [without_pads, labelled])
def test_a_template_that_does_not_show_where_an_image_begins_and_ends_places_none(
    prefix: PlannedPrefix, change: Change
) -> None:
    double = seeing(fault=on("/tokenize", changed(change)))
    assert lost(double, prefix, [ToolResult("", (SMALL,))], TOLD.format(IMAGE)).reason == vision.NO_PLACE


def test_more_places_for_images_than_images_are_refused() -> None:
    prefix = looked((LARGE,), messages=[message(LARGE), {"role": "user", "content": "And <image>?"}])
    frozen = prefix.prefix.model_copy(update={"exact": False, "token_ids": None, "prompt": None})
    why = refused(seeing(), prefix.model_copy(update={"prefix": frozen}))
    assert why.detail == "more places for images than the plan has images"


def test_a_text_may_become_one_with_images() -> None:
    frozen = looked(())
    crop = png(64, 64)
    _, after, last = told(seeing(), frozen, [ToolResult("", (crop,))], TOLD.format(IMAGE))
    assert after.ids is not None
    assert after.ids.count(PAD) == 4
    assert last.images == (crop,)
    assert last.guarantee == "token_exact"


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"vision": False}, vision.NO_VISION), ({"scale_out": False}, vision.NEW_IMAGE)],
    ids=["a model of text", "a server without the route"],
)
def test_a_tools_image_that_nobody_can_show_ends_the_continuation(options: dict[str, Any], reason: str) -> None:
    why = lost(seeing(**options), looked(()), [ToolResult("", (png(64, 64),))], TOLD.format(IMAGE))
    assert why.reason == reason


@pytest.mark.parametrize("scale_out", [True, False])
def test_a_model_of_text_takes_no_prefix_with_images(prefix: PlannedPrefix, *, scale_out: bool) -> None:
    why = refused(seeing(vision=False, scale_out=scale_out), prefix)
    assert why.reason == vision.NO_VISION or "is not a multimodal model" in why.detail


def test_tokens_of_images_are_never_continued_without_their_images() -> None:
    frozen = looked().model_copy(update={"images": []})
    double = seeing()
    why = refused(double, frozen)
    assert (why.reason, why.detail) == (vision.NO_IMAGES, "<|vision_start|>")
    assert not sampled_bodies(double, "/v1/completions")


def test_fewer_images_than_the_tokens_show_are_refused() -> None:
    frozen = looked(messages=[message(LARGE)])
    why = refused(seeing(), frozen.model_copy(update={"images": frozen.images[:1]}))
    assert (why.reason, why.detail) == (vision.OTHER_IMAGES, "1 images, and 2 in its tokens")


def test_images_that_tools_have_shown_after_the_call_are_left_out_and_not_missed() -> None:
    frozen = looked(more=[png(64, 64, 7)])
    assert len(frozen.images) == 3
    start, _, _ = continued(seeing(), frozen)
    assert start.images == (LARGE, SMALL)


def test_an_image_that_is_shown_twice_is_sent_twice() -> None:
    frozen = looked((LARGE, LARGE, SMALL))
    assert len(frozen.images) == 2
    start, _, _ = continued(seeing(), frozen)
    assert start.images == (LARGE, LARGE, SMALL)


SHAPES = [
    {"type": "image_url", "image_url": {"url": url(LARGE)}},
    {"type": "input_image", "image_url": url(LARGE)},
    {"type": "image", "image": url(LARGE)},
    {"type": "image", "image": base64.b64encode(LARGE).decode()},
    {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": base64.b64encode(LARGE).decode()},
    },
]


@pytest.mark.parametrize("part", SHAPES, ids=["OpenAI", "Responses", "data URL", "base64", "Anthropic"])
def test_images_are_found_in_messages_of_every_shape(part: dict[str, Any]) -> None:
    messages = [{"role": "user", "content": [part, {"type": "text", "text": "What is it?"}]}]
    start, _, _ = continued(seeing(), looked((LARGE,), messages=messages))
    assert start.images == (LARGE,)
    assert start.guarantee == "token_exact"


def test_images_that_the_log_has_only_hashes_of_are_found_in_a_folder(tmp_path: Path) -> None:
    hashed = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "What is it?"}]
    frozen = looked(messages=[{"role": "user", "content": hashed}])
    why = refused(seeing(), frozen)
    assert why.reason == vision.NO_BYTES
    assert "--images" in why.detail
    folder = tmp_path / "images" / "deeper"
    folder.mkdir(parents=True)
    for name, image in (("b.png", LARGE), ("a", SMALL)):
        (folder / name).write_bytes(image)

    async def work(sampler: ServerSampler) -> Context:
        return await sampler.begin(frozen)

    assert run(seeing(), work, images=tmp_path / "images").images == (LARGE, SMALL)


def test_another_tokenizer_is_told_with_images_too() -> None:
    frozen = looked()
    assert frozen.prefix.token_ids is not None
    frozen.prefix.token_ids[-1] = MARKED.encode("!")[0]
    why = refused(seeing(), frozen)
    assert "spells the prefix otherwise" in why.reason
    assert "'<tool_call>'" in why.detail


def test_a_grammar_is_not_dropped_in_silence(prefix: PlannedPrefix) -> None:
    assert refused(seeing(), prefix, ASK._replace(grammar='root ::= "x"')).reason == vision.NO_GRAMMAR


def test_a_log_of_messages_is_written_by_the_template_with_its_images() -> None:
    prefix = looked()
    frozen = prefix.prefix.model_copy(update={"exact": False, "token_ids": None, "n_tokens": None, "prompt": None})
    double = seeing()
    start, _, after = continued(double, prefix.model_copy(update={"prefix": frozen}))
    assert start.guarantee == after.guarantee == "text_retokenised"
    assert start.ids == prefix.prefix.token_ids
    assert start.images == (LARGE, SMALL)


def test_tokens_that_a_server_makes_of_images_only_in_sampling_count_from_the_start() -> None:
    def collapsed(body: dict[str, Any]) -> None:
        tokens = body["tokens"]
        body["tokens"] = [each for at, each in enumerate(tokens) if each != PAD or tokens[at - 1] != PAD]

    prefix = looked()
    frozen = prefix.prefix.model_copy(update={"exact": False, "token_ids": None, "n_tokens": None, "prompt": None})
    double = seeing(fault=on("/tokenize", changed(collapsed)))
    start, _, _ = continued(double, prefix.model_copy(update={"prefix": frozen}))
    assert start.ids == prefix.prefix.token_ids


def test_an_image_among_the_words_of_a_result_has_no_place() -> None:
    prefix = looked()
    text = "<think>\nI need <image>.\n</think>\n\n<tool_call>"
    frozen = prefix.prefix.model_copy(update={"exact": False, "token_ids": None, "n_tokens": None, "text": text})
    assert refused(seeing(), prefix.model_copy(update={"prefix": frozen})).reason == vision.OTHER_IMAGES


def test_without_the_exact_route_a_conversation_that_is_the_frozen_prefix_is_continued(prefix: PlannedPrefix) -> None:
    double = seeing(scale_out=False)
    start, said, after = continued(double, prefix)
    assert start.guarantee == after.guarantee == "token_exact"
    (body,) = sampled_bodies(double, CHAT)
    assert body["continue_final_message"] is True
    assert body["messages"][-1] == {"role": "assistant", "content": prefix.prefix.text}
    assert said.ids is not None
    assert after.ids == [*(prefix.prefix.token_ids or ()), *said.ids]


def test_a_template_that_rewrites_the_turn_is_refused() -> None:
    why = refused(seeing(scale_out=False), looked(thought="I need the tool.\n"))
    assert why.reason == vision.NOT_AS_FROZEN
    assert "from token" in why.detail
    why = refused(seeing(scale_out=False), looked(thought="<think>\n\nBlanks.\n\n</think>\n\n"))
    assert "does not appear in the chat" in why.detail


def test_the_second_turn_of_a_conversation_has_each_end_of_turn_once(prefix: PlannedPrefix) -> None:
    double = seeing(scale_out=False)
    said, after, last = told(double, prefix, [ToolResult("21")], TOLD.format("21"))
    second = sampled_bodies(double, CHAT)[-1]
    assert [each["role"] for each in second["messages"]] == ["user", "assistant", "tool"]
    assert second["messages"][1]["content"] == said.text.rpartition("assistant\n")[2].removesuffix("<|im_end|>")
    assert after.ids is not None
    assert last.ids is not None
    assert last.ids[: len(after.ids)] == after.ids
    assert MARKED.decode(last.ids).count("<|im_end|>") == 4
    assert last.guarantee == "token_exact"


def test_a_template_that_writes_results_otherwise_than_the_trainer_is_refused(prefix: PlannedPrefix) -> None:
    why = lost(seeing(scale_out=False), prefix, [ToolResult("21")], TOLD.format("21 degrees"))
    assert why.reason == vision.NOT_AS_FROZEN


def test_a_tools_image_is_refused_in_a_conversation(prefix: PlannedPrefix) -> None:
    why = lost(seeing(scale_out=False), prefix, [ToolResult("", (SMALL,))], TOLD.format(IMAGE))
    assert why.reason == vision.NEW_IMAGE


def test_without_messages_or_ids_there_is_no_conversation(tmp_path: Path) -> None:
    prefix = looked()
    (tmp_path / "a.png").write_bytes(LARGE)
    (tmp_path / "b.png").write_bytes(SMALL)
    frozen = prefix.prefix.model_copy(update={"messages": None})

    async def work(sampler: ServerSampler) -> Context:
        return await sampler.begin(prefix.model_copy(update={"prefix": frozen}))

    with pytest.raises(NotSampled, match="--enable-scale-out"):
        run(seeing(scale_out=False), work, images=tmp_path)


def test_a_server_of_text_alone_takes_no_images(prefix: PlannedPrefix) -> None:
    why = refused(seeing(plain=True), prefix)
    assert why.reason == vision.NO_VISION


def test_what_is_said_behind_an_image_can_stop_at_a_text(prefix: PlannedPrefix) -> None:
    double = seeing(policy=always(call("get_weather", {"city": "Arlen"}) + "\nmore"))
    _, said, _ = continued(double, prefix, ASK._replace(stop=("</tool_call>",), max_tokens=200))
    assert isinstance(said, Sampled)
    assert said.text.endswith("</tool_call>")
    assert said.ended
