"""What a refusal before paying says to choose, in the words of the place where it is read."""

import argparse
import re
from collections.abc import Callable
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from avatar.batch.check import Checked, check_budget
from avatar.batch.models import Batch
from avatar.batch.report import refuse_bad_rows
from avatar.commands.main import main
from avatar.commands.parser import build_parser
from avatar.errors import AvatarError
from avatar.events import about_video
from avatar.models import AvatarJob
from avatar.money.quote import check_price
from avatar.option_names import CHOICES, at_command, at_form, named
from avatar.providers.known_models import KnownModel, Limits
from avatar.providers.wire import Wire
from avatar.settings import AvatarSettings
from avatar.settings_sections import BudgetSettings
from avatar.stored_models import ProviderName, Quote
from tasks.context import in_words
from tests.web.gallery.manifests import FAILED, make_video

QUOTE = Quote(
    provider=ProviderName.FAL, seconds=9, price_per_second=Decimal("0.115"), amount=Decimal("1.035")
)
#: Settings that have a field in the forms and an option at the command.
CHOOSABLE = re.compile(r"AVATAR_(PROVIDER|MODEL|BATCH__AT_ONCE)\b")


def options() -> set[str]:
    """Every option of `avatar generate` and `avatar batch`."""
    parser = build_parser()
    (verbs,) = (each for each in parser._actions if isinstance(each, argparse._SubParsersAction))
    return {
        option
        for verb in ("generate", "batch")
        for each in verbs.choices[verb]._actions
        for option in each.option_strings
    }


@pytest.mark.parametrize("field", CHOICES)
def test_a_choice_is_called_as_its_field_and_its_option_are(field: str) -> None:
    title, option = CHOICES[field]
    form = AvatarJob if field in AvatarJob.model_fields else Batch
    assert form.model_fields[field].title == title
    assert option in options()
    text = f"Change {named(field)}."
    assert (at_form(text), at_command(text)) == (f"Change “{title}”.", f"Change {option}.")


async def too_dear_a_job() -> None:
    check_price(QUOTE, AvatarJob(portrait="a", voice="b", max_cost=Decimal(1)), BudgetSettings())


async def too_dear_for_everybody() -> None:
    check_price(QUOTE, AvatarJob(portrait="a", voice="b"), BudgetSettings(per_job=Decimal(1)))


async def too_dear_a_batch() -> None:
    workspace: Any = SimpleNamespace(settings=SimpleNamespace(budget=BudgetSettings()))
    checked = Checked(
        batch_id="a" * 32, rows=2, chunks=1, ready=2, bad=0, quoted=Decimal(2), owed=Decimal(2), paid=True
    )
    await check_budget(workspace, Batch(manifest="m.csv", max_cost=Decimal(1)), checked)


async def bad_rows() -> None:
    summary: Any = SimpleNamespace(
        count=lambda _: 1, troubles=[], rows=2, report_key="batches/a/report.csv", states={}
    )
    refuse_bad_rows(summary)


async def no_key() -> None:
    Wire(ProviderName.FAL, "https://fal.invalid", None, ("Authorization", "Key ")).check_key(
        "AVATAR_FAL__KEY"
    )


def known(*, enabled: bool) -> KnownModel:
    limits: Any = Limits
    return KnownModel("other", "Other", enabled, prompt=True, limits=limits, offers={})


async def model_that_is_off() -> None:
    known(enabled=False).offer(ProviderName.FAL)


async def model_of_nobody() -> None:
    known(enabled=True).offer(ProviderName.FAL)


@pytest.mark.parametrize(
    ("refuse", "form", "command"),
    [
        (too_dear_a_job, ["set by “Highest price”", "Raise “Highest price”", "(“Provider” preview)"], ["set by --max-cost", "Raise --max-cost", "(--provider preview)"]),
        (too_dear_for_everybody, ["set by AVATAR_BUDGET__PER_JOB", "(“Provider” preview)"], ["Raise AVATAR_BUDGET__PER_JOB"]),
        (too_dear_a_batch, ["set by “Highest price”", "Raise “Highest price”"], ["set by --max-cost", "Raise --max-cost"]),
        (bad_rows, ["render the others: “On bad rows” skip"], ["render the others: --on-bad-rows skip"]),
        (no_key, ["Set AVATAR_FAL__KEY, or render the free preview (“Provider” preview)"], ["(--provider preview)"]),
        (model_that_is_off, ["Choose another model (“Model”), or set AVATAR_MODELS__OTHER__ENABLED=true"], ["another model (--model)"]),
        (model_of_nobody, ["Choose another “Provider” or “Model”"], ["Choose another --provider or --model"]),
    ],
)  # fmt: skip
async def test_a_refusal_names_what_is_there_to_choose(
    refuse: Callable[[], Any],
    form: list[str],
    command: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the form's fields in a run's state, by the options on a terminal; neither by the other's."""
    with pytest.raises(AvatarError) as refused:
        await refuse()
    state = in_words(refused.value)
    monkeypatch.setattr("avatar.commands.status.run", _raiser(refused.value))
    assert main(["status"]) == refused.value.exit_code
    terminal = capsys.readouterr().err
    assert all(words in state for words in form), state
    assert all(words in terminal for words in command), terminal
    assert not [option for option in options() if f" {option} " in f" {state} "]
    assert not [
        title for title, _ in CHOICES.values() if f"“{title}”" in terminal or f"{title} (" in terminal
    ]
    assert not CHOOSABLE.search(state + terminal)


def _raiser(error: AvatarError) -> Callable[[argparse.Namespace], int]:
    def run(_: argparse.Namespace) -> int:
        raise error

    return run


def test_a_rejected_video_s_next_step_is_at_hand_everywhere() -> None:
    """The notice is read by people of whom nobody knows where they started it: it names all."""
    notice: Any = about_video(
        AvatarSettings(_env_file=None), make_video(1, state="rejected", checks=(FAILED,))
    )
    assert "Accept (accept, --accept) publishes it anyway" in notice.hint


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["generate", "a.png", "b.mp3", "--max-cost", "cheap"], "--max-cost: "),
        (["generate", "a.png", "b.mp3", "--language", "de_DE_x!"], "--language: it cannot be read. The language of the voice, as in `de`"),
        (["generate", "a.png", "b.mp3", "--format", "17"], "--format: it cannot be read. "),
        (["generate", "a.png", "b.mp3", "--title", "x" * 300], "--title: "),
        (["batch", "jobs.csv", "--at-once", "0"], "--at-once: "),
        (["batch", "--portrait", "a.png"], "a portrait needs voices"),
    ],
)  # fmt: skip
def test_what_the_command_cannot_take_is_named_as_it_was_given(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its option or its place; no field's name, no pattern."""
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert told in said
    assert "pattern" not in said


def test_a_setting_that_cannot_be_read_is_named_as_it_is_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AVATAR_BUDGET__PER_DAY", "much")
    assert main(["status"]) == 2
    assert "AVATAR_BUDGET__PER_DAY: " in capsys.readouterr().err
