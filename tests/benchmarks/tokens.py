"""What token arrays cost beside merely decoding them: `python -m tests.benchmarks.tokens`.

A log as recorders write it, with ids, log-probs and mask of every token: the rollouts of the other benchmarks, spelled
by a byte-level tokenizer that is trained on them. Every figure is a process of its own on the same two CPUs, its start
and its imports included, with the log in the page cache; the best of several rounds counts. The decoder is msgspec,
line by line. Exit code 1 means that not every call was found among the tokens, never that something was slow.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from random import Random

import msgspec
from rich.console import Console
from rich.table import Table
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

import gapscope as gs
from gapscope.rollouts import Tokens, to_json
from tests.benchmarks.audit import CPUS, FOLDER, machine, timed, warmed

DECODER = "import msgspec,sys\nd=msgspec.json.Decoder().decode\nfor line in open(sys.argv[1],'rb'): d(line)"
TAGS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
VOCABULARY = 8000
TRAINED_ON = 400


def tokenizer_for(log: Path, folder: Path) -> Tokenizer:
    """A byte-level BPE trained on the first rollouts of a log, saved in a folder."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    with log.open("rb") as stream:
        texts = [msgspec.json.decode(line)["output"] for line, _ in zip(stream, range(TRAINED_ON), strict=False)]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


def with_tokens(log: Path, tokenizer: Tokenizer, target: Path) -> tuple[int, int]:
    """Write the same rollouts with their tokens; how many tokens, and how many tool-using rollouts."""
    random = Random(0)
    draws = [round(math.log(random.betavariate(5, 1)), 6) for _ in range(100_003)]
    count = using = 0
    with target.open("wb") as stream:
        for rollout in gs.read(log, gs.ReadOptions(jobs=1)):
            assert isinstance(rollout, gs.Rollout)
            prompt, ids = tokenizer.encode(rollout.prompt or "").ids, tokenizer.encode(rollout.output).ids
            start = random.randrange(len(draws))
            logprobs = [draws[(start + place) % len(draws)] for place in range(len(ids))]
            rollout.tokens = Tokens(
                prompt + ids,
                n_prompt=len(prompt),
                logprobs=[None] * len(prompt) + logprobs,
                logprob_source="rollout",
                sampled=[False] * len(prompt) + [True] * len(ids),
            )
            rollout.correct = rollout.reward == 1.0
            rollout.correct_rule = "reward=1"
            count += len(prompt) + len(ids)
            using += any(not call.in_think for call in rollout.calls)
            stream.write(to_json(rollout) + b"\n")
    return count, using


def main() -> None:
    """Write, run, compare, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=60, help="size of the log without tokens; default 60")
    parser.add_argument("--repeat", type=int, default=3, help="rounds of which the best counts; default 3")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CPUS])
    console = Console(highlight=False, width=110)
    console.print(machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain, log, model, report = (folder / part for part in ("1.jsonl", "tokens.jsonl", "model", "report.json"))
        command = [sys.executable, str(FOLDER / "generate.py"), str(plain), "--megabytes", str(arguments.megabytes)]
        subprocess.run(command, check=True, capture_output=True)
        tokens, using = with_tokens(plain, tokenizer_for(plain, model), log)
        plain.unlink()
        warmed(log)
        audit = ("-m", "gapscope", "audit", str(log), "--format", "json", "-o", str(report))
        runs = {
            "msgspec loop": ("-c", DECODER, str(log)),
            "audit": audit,
            "audit --tokenizer": (*audit, "--tokenizer", str(model)),
            "ingest --tokenizer": ("-m", "gapscope", "ingest", str(log), "--tokenizer", str(model), "-o"),
            "plan --tokenizer": (
                *("-m", "gapscope", "plan", str(log), "--tokenizer", str(model), "--step", "all"),
                *("-o", str(folder / "plan.jsonl")),
            ),
            "export --for parquet": (
                *("-m", "gapscope", "export", str(log), "--for", "parquet", "-o", str(folder / "batch.parquet")),
            ),
        }
        best = dict.fromkeys(runs, math.inf)
        peak = dict.fromkeys(runs, 0.0)
        found = 0
        for round_ in range(arguments.repeat):
            for label, parts in runs.items():
                store = (str(folder / f"{round_}.duckdb"),) if parts[-1] == "-o" else ()
                run = timed(*parts, *store)
                best[label], peak[label] = min(best[label], run.seconds), max(peak[label], run.memory)
                if label == "audit --tokenizer":
                    found = json.loads(report.read_bytes())["metrics"]["tool_confidence_mean"]["n"]
        megabytes = log.stat().st_size / 1e6
        table = Table(title=f"{megabytes:,.0f} MB, {tokens / 1e6:,.1f} million tokens", title_justify="left")
        for column in ("", "s", "MB/s", "million tokens/s", "× decoder", "peak MB"):
            table.add_column(column, justify="right" if column else "left")
        for label, seconds in best.items():
            table.add_row(
                label, f"{seconds:.2f}", f"{megabytes / seconds:,.0f}", f"{tokens / 1e6 / seconds:,.1f}",
                f"{seconds / best['msgspec loop']:.2f}", f"{peak[label]:,.0f}",
            )  # fmt: skip
    console.print(table)
    console.print(f"found  the first calls of {found:,} of {using:,} tool-using rollouts among their tokens")
    raise SystemExit(0 if found == using else 1)


if __name__ == "__main__":
    main()
