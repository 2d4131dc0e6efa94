"""A tiny model in the shape of Qwen3 or Qwen3-VL, with a tokenizer and a template of its own; nothing is downloaded.

Runs in the server's environment: `server.py model`. What it learns is in `tiny_adder`, or in `tiny_looker` if it sees.
"""

import argparse
import math
import random
import string
import time
from pathlib import Path
from typing import Any

import tiny_adder
import tiny_looker

SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
# As in Qwen3, these are single tokens that are kept in the text.
MARKERS = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
ROUND_UP_TO = 64
"""The vocabulary is padded to a multiple, as those of real checkpoints are."""
BATCH = 16
DEMONSTRATIONS = 4000

TEMPLATE = """
{%- if tools -%}
{{- '<|im_start|>system\\nTools:' -}}
{%- for tool in tools -%}{{- '\\n' + (tool | tojson) -}}{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{%- set content -%}
{%- if message.content is string -%}{{- message.content -}}
{%- elif message.content -%}
{%- for part in message.content -%}
{{- part.text if part.type == 'text' else '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- endfor -%}
{%- endif -%}
{%- endset -%}
{%- if message.role == 'tool' -%}
{%- if loop.first or messages[loop.index0 - 1].role != 'tool' -%}{{- '<|im_start|>user' -}}{%- endif -%}
{{- '\\n<tool_response>\\n' + content + '\\n</tool_response>' -}}
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' -%}{{- '<|im_end|>\\n' -}}{%- endif -%}
{%- else -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- set thought = message.reasoning_content or message.reasoning -%}
{%- if thought -%}{{- '<think>\\n' + thought + '\\n</think>\\n\\n' -}}{%- endif -%}
{{- content -}}
{%- for call in message.tool_calls or [] -%}
{%- if content or not loop.first -%}{{- '\\n' -}}{%- endif -%}
{{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' -}}
{{- (call.function.arguments | tojson) + '}\\n</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


def tokenizer_for(texts: list[str], size: int, longest: int) -> Any:
    """A byte-level tokenizer trained on the texts: any bytes can be encoded."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    made.decoder = decoders.ByteLevel()
    plain = texts
    for marker in SPECIAL + MARKERS:
        plain = [text.replace(marker, "\n") for text in plain]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        plain, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    )
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    made.add_tokens([AddedToken(text, special=False, normalized=False) for text in MARKERS])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<|im_end|>", pad_token="<|endoftext|>", model_max_length=longest
    )
    wrapped.chat_template = TEMPLATE.strip()
    return wrapped


def model_for(kind: str, tokenizer: Any, shape: dict[str, Any]) -> Any:
    """A model of that shape with random weights."""
    number = tokenizer.convert_tokens_to_ids
    size = -(-len(tokenizer) // ROUND_UP_TO) * ROUND_UP_TO
    text = shape | {
        "vocab_size": size,
        "eos_token_id": number("<|im_end|>"),
        "pad_token_id": number("<|endoftext|>"),
        "bos_token_id": None,
        "tie_word_embeddings": True,
    }
    if kind == "text":
        from transformers import Qwen3Config, Qwen3ForCausalLM

        return Qwen3ForCausalLM(Qwen3Config(**text))
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    sections = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [8, 4, 4], "mrope_interleaved": True}
    vision = {
        "depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2, "patch_size": 16,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": shape["hidden_size"],
        "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1],
    }  # fmt: skip
    config = Qwen3VLConfig(
        text_config=text | {"rope_parameters": sections},
        vision_config=vision,
        image_token_id=number("<|image_pad|>"),
        video_token_id=number("<|video_pad|>"),
        vision_start_token_id=number("<|vision_start|>"),
        vision_end_token_id=number("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    return Qwen3VLForConditionalGeneration(config)


def batches(tokenizer: Any, demonstrations: list[list[tiny_adder.Piece]]) -> list[tuple[Any, Any]]:
    """Ids, and those of them that are to be learnt, sixteen rows of about one length at a time, the shortest first."""
    import torch

    rows = []
    for pieces in demonstrations:
        encoded = [(tokenizer.encode(piece.text), piece.own) for piece in pieces]
        rows.append([(token, own) for ids, own in encoded for token in ids])
    rows.sort(key=len)
    found = []
    for start in range(0, len(rows), BATCH):
        chosen = rows[start : start + BATCH]
        length = max(map(len, chosen))
        padded = [row + [(0, False)] * (length - len(row)) for row in chosen]
        ids = torch.tensor([[token for token, _ in row] for row in padded])
        found.append((ids, torch.tensor([[token if own else -100 for token, own in row] for row in padded])))
    return found


def train(model: Any, tokenizer: Any, given: list[tuple[Any, Any]], steps: int, rate: float, seed: int) -> None:
    """Fit the model to batches, of which each step takes a short one and a long one by chance."""
    import torch

    # So little work is done sooner by one thread than by several that wait for one another.
    torch.set_num_threads(1)
    # Numbers are what is hard: the words around them are learnt in no time.
    weights = torch.ones(model.get_input_embeddings().num_embeddings)
    weights[[tokenizer.convert_tokens_to_ids(digit) for digit in string.digits]] = 3.0
    cost = torch.nn.CrossEntropyLoss(weights, reduction="sum")
    began, draw, losses = time.monotonic(), random.Random(seed), []
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0, betas=(0.9, 0.98))
    warm, half = max(1, steps // 20), len(given) // 2
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * min((step + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * step / steps))
        parts, size = [], 0.0
        for ids, labels in (draw.choice(given[:half]), draw.choice(given[half:])):
            wanted = labels[:, 1:].flatten()
            # Padding comes last, where nothing attends to it.
            parts.append(cost(model(input_ids=ids).logits[:, :-1].flatten(0, 1), wanted))
            size += weights[wanted[wanted >= 0]].sum().item()
        loss = sum(parts) / size
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
        if (step + 1) % 50 == 0:
            mean = sum(losses[-50:]) / 50
            print(f"step {step + 1}: loss {mean:.3f}, {time.monotonic() - began:.0f} s", flush=True)


def widened(model: Any, tokenizer: Any, kind: str, shape: dict[str, Any], idle: int) -> Any:
    """The model with so many more units in each MLP that add nothing: it says the same, and costs more to run."""
    import torch

    wide = model_for(kind, tokenizer, shape | {"intermediate_size": shape["intermediate_size"] + idle})
    with torch.no_grad():
        for (name, into), value in zip(wide.named_parameters(), model.parameters(), strict=True):
            if ".mlp." in name and into.shape != value.shape:
                into.zero_()
                into[tuple(map(slice, value.shape))] = value
            else:
                into.copy_(value)
    return wide


def save_processor(path: Path, tokenizer: Any) -> None:
    """What turns images into patches, for the VL model."""
    from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

    sizes = {"shortest_edge": 32 * 32, "longest_edge": 256 * 256}
    patches = {"patch_size": 16, "temporal_patch_size": 2, "merge_size": 2, "size": sizes}
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(**patches),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(**patches),
        chat_template=tokenizer.chat_template,
    )
    processor.save_pretrained(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--kind", choices=["text", "vl"], default="text")
    parser.add_argument("--train-steps", type=int, default=0)
    parser.add_argument("--rate", type=float, default=5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vocabulary", type=int, default=400)
    parser.add_argument("--hidden", type=int, default=96)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--idle", type=int, default=0, help="units of each MLP that do nothing but cost time")
    parser.add_argument("--longest", type=int, default=4096)
    given = parser.parse_args()
    import torch

    torch.manual_seed(given.seed)
    draw = random.Random(given.seed)
    demonstration = tiny_adder.demonstration if given.kind == "text" else tiny_looker.demonstration
    demonstrations = [demonstration(draw) for _ in range(DEMONSTRATIONS)]
    texts = ["".join(piece.text for piece in pieces) for pieces in demonstrations]
    tokenizer = tokenizer_for(texts, given.vocabulary, given.longest)
    shape = {
        "hidden_size": given.hidden,
        "intermediate_size": 2 * given.hidden,
        "num_hidden_layers": given.layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": given.longest,
    }
    model = model_for(given.kind, tokenizer, shape)
    if given.train_steps:
        train(model, tokenizer, batches(tokenizer, demonstrations), given.train_steps, given.rate, given.seed)
    if given.idle:
        model = widened(model, tokenizer, given.kind, shape, given.idle)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(given.path)
    tokenizer.save_pretrained(given.path)
    if given.kind == "vl":
        save_processor(given.path, tokenizer)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{given.path}: {parameters:,} parameters, {len(tokenizer)} tokens")


if __name__ == "__main__":
    main()
