"""The public face: what `__all__` names is there, documented and usable as the docstring shows."""

import asyncio
import inspect
import subprocess
import sys
import textwrap
from decimal import Decimal
from pathlib import Path

import pytest

import avatar
import flows
from avatar import AvatarJob, InvalidInput, Refused, generate, quote

ROOT = Path(__file__).parents[1]
PORTRAIT, VOICE = str(ROOT / "examples" / "portrait.png"), str(ROOT / "examples" / "speech.mp3")


def test_the_list_of_public_names_is_sorted_and_whole():
    """Every name is there once, and the lazy table knows no other."""
    assert avatar.__all__ == sorted(avatar.__all__, key=lambda name: (not name[0].isupper(), name))
    assert set(avatar._HOME) == set(avatar.__all__)
    assert set(flows._HOME) == set(flows.__all__)


@pytest.mark.parametrize("name", avatar.__all__)
def test_a_public_name_is_there_and_says_what_it_is(name):
    found = getattr(avatar, name)
    assert inspect.getdoc(found)
    assert found.__module__ == avatar._HOME[name]


@pytest.mark.parametrize("name", flows.__all__)
def test_a_public_flow_is_there_and_says_what_it_does(name):
    assert inspect.getdoc(getattr(flows, name).fn)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = avatar.nothing


@pytest.mark.parts
def test_the_docstring_runs_as_it_stands(tmp_path):
    """The ten lines, run as a program, print the video."""
    lines = [line for line in (avatar.__doc__ or "").splitlines() if line.startswith("    ")]
    code = textwrap.dedent("\n".join(lines)).replace(
        'provider="preview"', f'provider="preview", state_dir={str(tmp_path / "state")!r}, _env_file=None'
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("s3://avatar/videos/")


async def test_a_job_from_python_is_made_once(make_settings):
    settings = make_settings(provider="preview")
    job = AvatarJob(portrait=PORTRAIT, voice=VOICE)
    first = await generate(job, settings)
    assert await generate(job, settings) == first


async def test_a_quote_sends_nothing_and_a_price_above_the_limit_is_refused(make_settings):
    """Nobody can be asked from Python: a price to be approved must be stated by the caller."""
    budget = {"approve_above": Decimal("0.10")}
    settings = make_settings(provider="fal", fal={"key": "k", "delivery": "upload"}, budget=budget)
    job = AvatarJob(portrait=PORTRAIT, voice=VOICE)
    plan = await quote(job, settings)
    assert plan.quote.amount > Decimal("0.10")
    with pytest.raises(Refused, match="a person must approve it"):
        await generate(job, settings)


def test_bad_input_is_told_before_anything_is_sent(make_settings):
    job = AvatarJob(portrait="/nowhere/portrait.png", voice=VOICE)
    with pytest.raises(InvalidInput, match="portrait"):
        asyncio.run(generate(job, make_settings(provider="preview")))
