"""What `resample` has done, in numbers and in sentences."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gapscope.report import show_number
from gapscope.statistics import Moments, cluster_interval, wilson

if TYPE_CHECKING:
    from gapscope.resampler.journal import Done, Key
    from gapscope.resampler.sampling import Guarantee

_MOST_DETAIL = 200

_GUARANTEES: "Mapping[Guarantee, str]" = {
    "token_exact": "continue the plan's own tokens, as the server confirmed",
    "ids_unverified": "continue the plan's own tokens, which the server does not confirm",
    "text_retokenised": "continue text that the server tokenised again, not the tokens that were sampled",
    "text": "continue text, and which tokens that is the server does not say: they can be audited, not trained on",
}


@dataclass(slots=True)
class Resampling:
    """What `resample` has done, and what of its plan is left.

    Of the `planned` continuations, `done` have come to their end: `lost` of them gave no sample, `unjudged` have no
    verdict, both by reason, with how many there are and what is known of the first. `resumed` of them were there from
    an earlier run. Of the `prefixes` that have a verdict, `recovered` have a correct continuation (axpo, Eq. 3), with
    the 95 % `interval` of their share that `gapscope recovery` has as well. `sampled` tokens are the policy's, and
    `calls` were executed, `failures` of them with an error for an answer. This run has sampled `sampled_now` of them in
    `seconds`, and in `cpu_seconds` of these it was this process that worked.
    """

    output: Path
    model: str
    planned: int
    done: int = 0
    resumed: int = 0
    lost: dict[str, tuple[int, str]] = field(default_factory=dict)
    unjudged: dict[str, tuple[int, str]] = field(default_factory=dict)
    correct: int = 0
    judged: int = 0
    prefixes: int = 0
    recovered: int = 0
    interval: tuple[float, float] | None = None
    guarantees: "Counter[Guarantee]" = field(default_factory=Counter)
    sampled: int = 0
    calls: int = 0
    failures: int = 0
    sampled_now: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    interrupted: bool = False
    about: list[str] = field(default_factory=list)

    def count(self, done: "Iterable[tuple[Key, Done]]", groups: Mapping[str, Hashable]) -> None:
        """Take up what a journal holds of the plan; `groups` are those of its prefixes, by their names."""
        judged: dict[str, bool] = {}
        for (prefix, _), each in done:
            self.done += 1
            self.sampled += each.sampled
            self.calls += each.calls
            self.failures += each.failures
            if each.lost is not None:
                _add(self.lost, each.lost)
                continue
            if each.guarantee is not None:
                self.guarantees[each.guarantee] += 1
            if each.unjudged is not None:
                _add(self.unjudged, each.unjudged)
                continue
            self.judged += 1
            self.correct += bool(each.correct)
            judged[prefix] = judged.get(prefix, False) or bool(each.correct)
        self.prefixes = len(judged)
        self.recovered = sum(judged.values())
        self.interval = _interval(judged, groups)

    @property
    def is_empty(self) -> bool:
        """Whether there is no continuation with a verdict."""
        return not self.judged

    @property
    def client_share(self) -> float:
        """The share of the time in which this process computed, on one CPU."""
        return self.cpu_seconds / self.seconds if self.seconds else 0.0

    def summary(self) -> list[str]:
        """What was done, a line for each kind of it."""
        lines = [f"{self.output}: {self.done:,} of {self.planned:,} continuations by {self.model}"]
        if self.resumed:
            lines.append(f"{self.resumed:,} were there from an earlier run")
        if self.judged:
            low, high = (show_number(bound, "share") for bound in self.interval or (None, None))
            shown = f" (95 % {low.removesuffix(' %')}–{high})" if self.interval else ""
            rate = show_number(self.recovered / self.prefixes, "share")
            lines.append(
                f"{self.recovered:,} of {self.prefixes:,} prefixes recovered: {rate}{shown}; "
                f"{self.correct:,} of {self.judged:,} continuations are correct"
            )
        for guarantee, count in sorted(self.guarantees.items()):
            lines.append(f"{count:,} {_GUARANTEES[guarantee]}")
        if self.calls:
            lines.append(f"{self.calls:,} calls executed, {self.failures:,} of them answered with an error")
        lines += [f"{count:,} gave no sample: {_with(reason, detail)}" for reason, (count, detail) in _most(self.lost)]
        lines += [
            f"{count:,} have no verdict: {_with(reason, detail)}" for reason, (count, detail) in _most(self.unjudged)
        ]
        if self.sampled_now:
            speed = (
                f"{self.sampled_now:,} tokens in {self.seconds:.1f} s, {self.sampled_now / self.seconds:,.0f} tokens/s"
            )
            lines.append(f"{speed}, {self.client_share:.1%} of the time our own")
        return lines

    def prospect(self) -> str:
        """What would be done, where nothing was."""
        return f"{self.planned:,} continuations would be sampled by {self.model}; nothing was sampled or written"

    def failure(self) -> str:
        """Why no continuation has a verdict."""
        reasons = [*_most(self.lost), *_most(self.unjudged)]
        if not reasons:
            return "nothing was resampled: the plan has no prefix"
        reason, (count, detail) = reasons[0]
        which = f"{count:,} of {self.planned:,} continuations"
        return f"nothing was resampled with a verdict: {which}: {_with(reason, detail)}"


def _interval(judged: Mapping[str, bool], groups: Mapping[str, Hashable]) -> tuple[float, float] | None:
    """Prefixes of one group are not independent: where a group has several, the interval is clustered by group."""
    by_group: dict[Hashable, list[bool]] = defaultdict(list)
    for prefix, recovered in judged.items():
        by_group[groups[prefix]].append(recovered)
    moments = Moments.of((sum(several), len(several)) for several in by_group.values())
    if moments.clusters == moments.m:
        return wilson(moments.x, moments.m)
    return cluster_interval(moments, proportion=True)[0]


def _add(counted: dict[str, tuple[int, str]], why: tuple[str, str]) -> None:
    reason, detail = why
    count, first = counted.get(reason, (0, detail))
    counted[reason] = count + 1, first


def _most(counted: Mapping[str, tuple[int, str]]) -> list[tuple[str, tuple[int, str]]]:
    return sorted(counted.items(), key=lambda item: -item[1][0])


def _with(reason: str, detail: str) -> str:
    return f"{reason} ({' '.join(detail.split())[:_MOST_DETAIL]})" if detail else reason
