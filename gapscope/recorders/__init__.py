"""What makes a training loop write complete rollouts: token ids, log-probs, masks and groups.

`recorded` makes a rollout of what a loop of your own has, `RolloutWriter` appends rollouts to a file, and
`TRLRecorder` and `VerlRecorder` do both inside TRL's GRPOTrainer and verl's trainers.
"""

from gapscope.recorders.recording import recorded
from gapscope.recorders.trl import TRLRecorder
from gapscope.recorders.verl import VerlRecorder
from gapscope.recorders.writer import RolloutWriter

__all__ = ["RolloutWriter", "TRLRecorder", "VerlRecorder", "recorded"]
