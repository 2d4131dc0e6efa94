"""`gapscope resample` with images, against a real vLLM server whose model sees and looks closer with a tool."""

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import pytest
import tiny_looker_log
from command_line import gapscope

import gapscope as gs
from gapscope.plans import PlannedPrefix
from gapscope.rollouts import Rollout
from gapscope.serving.vllm import Endpoint
from gapscope.tools.base import Call
from gapscope.tools.image_zoom import ImageZoom

pytestmark = pytest.mark.vllm

GIVEN = ("--model", "tiny", "--tools", "image_zoom", "--reward", "exact_match")

WITHIN = 1e-3
"""Nats, between the log-prob of a token when it was sampled and when it was scored: see test_score.py."""


def continuations_of(path: Path) -> list[Rollout]:
    return [record for record in gs.read(path) if isinstance(record, Rollout) and record.parent is not None]


@pytest.fixture(scope="session")
def resampled(image_server: Any, image_plan: Any) -> list[Rollout]:
    output = image_plan.path.with_name("resampled.jsonl")
    ran = gapscope("resample", image_plan.path, "--endpoint", image_server.url, "-o", output, *GIVEN)
    assert ran.returncode == 0, ran.stderr
    print(ran.stderr)
    return [rollout for rollout in continuations_of(output) if rollout.status != "excluded"]


def image_of(prefix: PlannedPrefix) -> bytes:
    """The question's image: each group has its own."""
    return tiny_looker_log.png(int(prefix.group_id))


def shown_to(rollout: Rollout, prefix: PlannedPrefix) -> list[bytes]:
    """The images that the policy had seen at last: the question's, and what the tool has cut out of it."""
    images = [image_of(prefix)]
    for call in rollout.calls:
        if call.outcome == "executed_ok" and isinstance(call.arguments, dict):
            answer = asyncio.run(ImageZoom().call(Call("image_zoom", call.arguments, tuple(images))))
            assert call.result is not None
            assert call.result.startswith(answer.text)
            images += answer.images
    return images


def test_every_continuation_goes_on_from_the_very_tokens_and_images_of_its_prefix(
    image_server: Any, image_plan: Any, resampled: list[Rollout]
) -> None:
    by_id = {prefix.id: prefix for prefix in image_plan.plan.prefixes}
    looking = tiny_looker_log.Looking(image_server.url, image_server.model)
    largest, count = 0.0, 0
    for rollout in resampled:
        tokens, prefix = rollout.tokens, by_id[str(rollout.group_id)]
        assert rollout.extra == {"continued": "token_exact"}
        assert tokens is not None
        assert tokens.ids is not None
        assert prefix.prefix.token_ids is not None
        assert tokens.ids[: len(prefix.prefix.token_ids)] == prefix.prefix.token_ids
        # The server reads the same tokens with the same images as a prompt, and finds what it found when it sampled.
        read, scored = looking.scored(tokens.ids, shown_to(rollout, prefix))
        assert read == tokens.ids
        for place, (token, then) in enumerate(zip(tokens.ids, tokens.logprobs or [], strict=True)):
            if then is not None:
                largest, count = max(largest, abs(scored[place][str(token)]["logprob"] - then)), count + 1
    looking.client.close()
    print(f"{count:,} sampled tokens: largest difference {largest:.2g}")
    assert count > 200
    assert largest <= WITHIN


def test_what_the_tool_cuts_out_is_read_by_the_policy(image_plan: Any, resampled: list[Rollout]) -> None:
    by_id = {prefix.id: prefix for prefix in image_plan.plan.prefixes}
    looked = [rollout for rollout in resampled if len(shown_to(rollout, by_id[str(rollout.group_id)])) > 1]
    assert looked
    for rollout in looked:
        images = shown_to(rollout, by_id[str(rollout.group_id)])
        assert [image.sha256 for image in rollout.images] == [hashlib.sha256(image).hexdigest() for image in images]
        assert rollout.tokens is not None
        assert "<tool_response>\n" in rollout.output
        assert rollout.output.count("<|image_pad|>") == sum(call.outcome == "executed_ok" for call in rollout.calls)


def test_without_the_route_for_images_and_ids_a_conversation_that_is_the_prefix_is_continued(
    image_server: Any, image_plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no(_: Endpoint) -> bool:
        return False

    monkeypatch.setattr(Endpoint, "scale_out", no)
    ran = gapscope("resample", image_plan.path, "--endpoint", image_server.url, "-o", tmp_path / "chat.jsonl", *GIVEN)
    assert ran.returncode == 0, ran.stderr
    assert "continue the plan's own tokens, as the server confirmed" in ran.stderr
    # Only calls that are not executed end in a sample: a message of this server's tools holds no image.
    assert "gave no sample: a tool's image takes a server with --enable-scale-out" in ran.stderr


def test_a_plan_of_the_one_model_is_refused_on_the_server_of_the_other(
    vllm_server: Any, image_server: Any, text_plan: Any, image_plan: Any, tmp_path: Path
) -> None:
    of_text = ("--model", "tiny", "--tools", "add=tiny_adder:add", "--reward", "exact_match")
    crossed = ((image_plan, vllm_server, GIVEN), (text_plan, image_server, of_text))
    for plan, server, given in crossed:
        ran = gapscope("resample", plan.path, "--endpoint", server.url, "-o", tmp_path / "out.jsonl", *given)
        assert ran.returncode == 2
        assert "tiny is not the model of this plan" in ran.stderr, ran.stderr
        assert list(tmp_path.iterdir()) == []
