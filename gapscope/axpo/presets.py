"""The deviation that advantages are divided by, as the options of a plan name it."""

from gapscope.axpo.advantages import PRESETS, Preset
from gapscope.plan_options import PlanOptions


def preset_of(options: PlanOptions) -> Preset:
    """A preset (axpo, section 3.3), with `ddof` and `eps` in place of its own where the options give them."""
    preset = PRESETS[options.advantage.preset]
    if options.advantage.ddof is not None:
        preset = preset._replace(ddof=options.advantage.ddof)
    if options.advantage.eps is not None:
        preset = preset._replace(eps=options.advantage.eps)
    return preset
