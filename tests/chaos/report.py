"""What the suite prints: a line for each kind of trouble, and every fault in full."""

from collections.abc import Sequence
from dataclasses import dataclass

from tests.chaos.witness import Verdict

HEAD = (
    "case",
    "trials",
    "kills",
    "payments",
    "double",
    "lost",
    "settled by a person",
    "other faults",
    "seconds",
)


@dataclass(frozen=True)
class Row:
    """The sum of the verdicts of one kind."""

    name: str
    verdicts: Sequence[Verdict]

    def cells(self) -> tuple[str, ...]:
        names = ("kills", "payments", "doubles", "losses")
        sums = [sum(getattr(verdict, name) for verdict in self.verdicts) for name in names]
        sums.append(sum(bool(verdict.resolved) for verdict in self.verdicts))
        faults = sum(len(verdict.faults) for verdict in self.verdicts)
        seconds = sum(verdict.seconds for verdict in self.verdicts)
        return (self.name, str(len(self.verdicts)), *map(str, sums), str(faults), f"{seconds:.0f}")


def table(rows: Sequence[Row]) -> str:
    cells = [HEAD, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEAD))]
    lines = [
        "  ".join(
            text.rjust(width) if index else text.ljust(width) for index, (text, width) in enumerate(pairs)
        )
        for pairs in (list(zip(line, widths, strict=True)) for line in cells)
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def settled(verdicts: Sequence[Verdict]) -> str:
    """How many trials a person had to settle, and a line for each: why no machine could."""
    by_a_person = [verdict for verdict in verdicts if verdict.resolved]
    share = len(by_a_person) / max(1, len(verdicts))
    return "\n".join(
        [
            f"settled by a person: {len(by_a_person)} of {len(verdicts)} trials, {share:.1%}",
            *(f"  {verdict.name}: {'; '.join(verdict.resolved)}" for verdict in by_a_person),
        ]
    )


def faults(verdicts: Sequence[Verdict]) -> str:
    """One line for each trial that was not clean."""
    lines = []
    for verdict in verdicts:
        counted = [f"{verdict.doubles} double payments"] * bool(verdict.doubles)
        counted += [f"{verdict.losses} lost"] * bool(verdict.losses)
        if not verdict.clean:
            lines.append(f"FAULT {verdict.name}: " + "; ".join(counted + verdict.faults))
    return "\n".join(lines)
