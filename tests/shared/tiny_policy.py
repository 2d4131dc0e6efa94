"""A policy of some 0.2 M weights, made in seconds, that calls a tool in about half of its rollouts."""

import json
from pathlib import Path
from typing import Any

QUESTIONS = [[{"role": "user", "content": f"{a}+{b}?"}] for a, b in ((1, 2), (2, 2))]
ANSWERS = ["3", "4"]


def add(a: int, b: int) -> int:
    """Add.

    Args:
        a: one
        b: two

    Returns:
        sum

    """
    return a + b


def taught(question: int) -> list[list[str]]:
    """What it learns to say: to call the tool and to repeat its result, to answer at once, or to answer wrongly."""
    a, b = ((1, 2), (2, 2))[question]
    call = json.dumps({"name": "add", "arguments": {"a": a, "b": b}})
    said = f"<think>\nadd\n</think>\n\n<tool_call>\n{call}\n</tool_call><|im_end|>"
    result = f"\n<|im_start|>user\n<tool_response>\n{a + b}\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    return [
        [said, result, f"{a + b}<|im_end|>"],
        [said, result, f"{a + b}!<|im_end|>"],
        ["<think>\nI know\n</think>\n\n5<|im_end|>"],
        [f"<think>\nI know\n</think>\n\n{a + b}<|im_end|>"],
    ]


def tokenizer() -> Any:
    """A byte-level BPE with the special tokens and the template of Qwen3, to which a prompt is a hundred tokens."""
    import trl
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast
    from transformers.utils import get_json_schema

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    template = (Path(trl.__file__).parent / "chat_templates" / "qwen3.jinja").read_text(encoding="utf-8")
    bpe.train_from_iterator([template, json.dumps(get_json_schema(add))] * 9, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.add_tokens(["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"])
    fast.chat_template = template
    return fast


def policy(tokens: Any, *, steps: int = 90) -> Any:
    """A model of Qwen3's shape, trained on what it is taught about each question."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokens),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            eos_token_id=tokens.eos_token_id,
            pad_token_id=tokens.pad_token_id,
        )
    )
    texts, labels = [], []
    for question, messages in enumerate(QUESTIONS):
        prompt = tokens.apply_chat_template(messages, tools=[add], add_generation_prompt=True, return_dict=False)
        for pieces in taught(question):
            ids, wanted = list(prompt), [-100] * len(prompt)
            for place, piece in enumerate(pieces):
                own = tokens(piece)["input_ids"]
                ids += own
                wanted += [-100] * len(own) if place == 1 else own
            texts.append(ids)
            labels.append(wanted)
    longest = max(map(len, texts))
    ids = torch.tensor([row + [tokens.pad_token_id] * (longest - len(row)) for row in texts])
    wanted = torch.tensor([row + [-100] * (longest - len(row)) for row in labels])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    model.train()
    for _ in range(steps):
        loss = model(input_ids=ids, labels=wanted).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return model
