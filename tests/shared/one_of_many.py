"""One process of a GRPO run that several share; its arguments are the model's folder and the run's."""

import sys
from pathlib import Path


def main(model: str, folder: str) -> None:
    import tiny_run
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from gapscope.recorders import TRLRecorder

    recorder = TRLRecorder(Path(folder) / "rollouts.jsonl")
    trainer = tiny_run.trainer(
        Path(folder),
        AutoTokenizer.from_pretrained(model),
        AutoModelForCausalLM.from_pretrained(model),
        [recorder.wrap(tiny_run.right), tiny_run.short],
        per_device_train_batch_size=2,
        num_generations=8,
        max_steps=1,
    )
    recorder.attach(trainer)
    trainer.train()


if __name__ == "__main__":
    main(*sys.argv[1:])
