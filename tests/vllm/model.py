"""A tiny model in the shape of Qwen3 or Qwen3-VL, with a tokenizer and a template of its own; nothing is downloaded.

Runs in the server's environment: `server.py model`. What it learns is to add two numbers with a tool:

    <|im_start|>user\nWhat is 3 + 4?<|im_end|>\n<|im_start|>assistant\n<think>\nI add 3 and 4.\n</think>\n\n
    <tool_call>\n{"name": "add", "arguments": {"a": 3, "b": 4}}\n</tool_call><|im_end|>\n…
"""

import argparse
import random
from pathlib import Path
from typing import Any

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

TEMPLATE = """
{%- macro shown(content) -%}
{%- if content is string -%}{{ content }}
{%- else -%}{%- for part in content or [] -%}
{{- part.text if part.type == 'text' else '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- endfor -%}{%- endif -%}
{%- endmacro -%}
{%- for message in messages -%}
{%- set role = 'user' if message.role == 'tool' else message.role -%}
{{- '<|im_start|>' + role + '\\n' -}}
{%- if message.role == 'tool' -%}{{- '<tool_response>\\n' + shown(message.content) + '\\n</tool_response>' -}}
{%- else -%}
{%- set thought = message.reasoning_content or message.reasoning -%}
{%- if thought -%}{{- '<think>\\n' + thought + '\\n</think>\\n\\n' -}}{%- endif -%}
{{- shown(message.content) -}}
{%- for call in message.tool_calls or [] -%}
{{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' -}}
{{- (call.function.arguments | tojson) + '}\\n</tool_call>' -}}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


def conversation(numbers: random.Random) -> str:
    """A question, a call, its result and the answer."""
    a, b = numbers.randint(0, 20), numbers.randint(0, 20)
    asked = f"<|im_start|>user\nWhat is {a} + {b}?<|im_end|>\n"
    called = f'<tool_call>\n{{"name": "add", "arguments": {{"a": {a}, "b": {b}}}}}\n</tool_call><|im_end|>\n'
    if numbers.random() < 0.3:
        return f"{asked}<|im_start|>assistant\n<think>\nThat is easy.\n</think>\n\nThe answer is {a + b}.<|im_end|>\n"
    return (
        f"{asked}<|im_start|>assistant\n<think>\nI add {a} and {b}.\n</think>\n\n{called}"
        f"<|im_start|>user\n<tool_response>\n{a + b}\n</tool_response><|im_end|>\n"
        f"<|im_start|>assistant\nThe answer is {a + b}.<|im_end|>\n"
    )


def tokenizer_for(texts: list[str], size: int, longest: int) -> Any:
    """A byte-level tokenizer trained on the texts: any bytes can be encoded."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
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


def train(model: Any, tokenizer: Any, texts: list[str], steps: int, seed: int) -> None:
    """Fit the model to the texts, sixteen at a time."""
    import torch

    numbers = random.Random(seed)
    rows = [torch.tensor(tokenizer.encode(text)) for text in texts]
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(steps):
        batch = numbers.sample(rows, 16)
        labels = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True, padding_value=-100)
        ids = labels.clamp(min=0)
        loss = model(input_ids=ids, attention_mask=(labels >= 0).long(), labels=labels).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        if step in {0, steps - 1}:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)


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
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vocabulary", type=int, default=400)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--longest", type=int, default=4096)
    given = parser.parse_args()
    import torch

    torch.manual_seed(given.seed)
    numbers = random.Random(given.seed)
    texts = [conversation(numbers) for _ in range(2000)]
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
        train(model, tokenizer, texts, given.train_steps, given.seed)
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
