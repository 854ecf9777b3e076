"""Models as data: the table, what settings change of it, and a model that is added without code."""

from decimal import Decimal
from pathlib import Path

import pytest

from avatar.errors import NotConfigured
from avatar.models import KLING_AVATAR, RemoteState, Submission
from avatar.providers import describe_provider, open_provider
from avatar.providers.fal_answers import app_of
from avatar.providers.known_models import find_model, known_models
from avatar.settings import AvatarSettings
from avatar.stored_models import ProviderName
from tests.providers.conftest import make_inputs, make_settings, make_submission, open_at
from tests.sandbox.fal import ENDPOINTS

STANDARD = "kling-ai-avatar-v2-standard"
FAL, PIXAZO = ProviderName.FAL, ProviderName.PIXAZO


def settings(**changes) -> AvatarSettings:
    return make_settings("http://127.0.0.1:9", **changes)


def test_the_table_is_complete():
    """Every model says where it is to be had, at what price, and what that rests on; those not established are off."""
    known = known_models(settings())
    assert [name for name, model in known.items() if model.enabled] == [KLING_AVATAR, STANDARD]
    for model in known.values():
        assert model.title
        assert model.notes
        assert model.offers
        assert all(offer.source and offer.price_per_second > 0 for offer in model.offers.values())
    assert not any("not established" in " ".join(known[name].notes).lower() for name in (STANDARD,))


def test_the_models_prices_are_those_of_the_stand_in():
    """The stand-in serves every endpoint of the table."""
    theirs = {endpoint: Decimal(str(price)) for endpoint, (_, price) in ENDPOINTS.items()}
    ours = {
        model.offers[FAL].endpoint: model.offers[FAL].price_per_second
        for model in known_models(settings()).values()
    }
    assert ours == theirs


@pytest.mark.parametrize(
    ("endpoint", "app"),
    [(endpoint, app) for endpoint, (app, _) in ENDPOINTS.items()]
    + [("workflows/anna/talking/v2", "workflows/anna/talking")],
)
def test_requests_are_asked_for_by_owner_and_app(endpoint, app):
    assert app_of(endpoint) == app


def test_a_model_that_is_off_says_what_is_not_established_and_how_to_switch_it_on():
    with pytest.raises(NotConfigured, match="Not established") as caught:
        open_provider(FAL, settings(), None, "omnihuman-1.5").check_configured()
    assert "AVATAR_MODELS__OMNIHUMAN_1_5__ENABLED=true" in caught.value.hint
    on = settings(models={"OMNIHUMAN_1_5": {"enabled": True}})
    assert open_provider(FAL, on, None, "omnihuman-1.5").check_offered() is None


@pytest.mark.parametrize(
    ("name", "provider", "seen"), [("no-such", FAL, KLING_AVATAR), (STANDARD, PIXAZO, "not known")]
)
def test_what_is_not_to_be_had_is_refused_before_anything_is_sent(name, provider, seen):
    opened = open_provider(provider, settings(), None, name)
    for ask in (opened.check_configured, lambda: describe_provider(provider, settings(), name)):
        with pytest.raises(NotConfigured, match=seen):
            ask()


def test_prices_and_limits_are_settings(monkeypatch):
    """By the environment, in names that a shell can have; the rest of the entry stays."""
    monkeypatch.setenv("AVATAR_MODELS__KLING_AI_AVATAR_V2_PRO__FAL__PRICE_PER_SECOND", "0.0989")
    monkeypatch.setenv("AVATAR_MODELS__KLING_AI_AVATAR_V2_PRO__LIMITS__MAX_SECONDS", "120")
    changed = AvatarSettings(_env_file=None)
    fal = open_provider(FAL, changed, None)
    assert (fal.price_per_second, fal.limits.max_seconds, fal.limits.min_seconds) == (
        Decimal("0.0989"),
        120,
        2,
    )
    assert fal.endpoint == "fal-ai/kling-video/ai-avatar/v2/pro"
    assert open_provider(PIXAZO, changed, None).price_per_second == Decimal("0.115")


def test_the_settings_choose_the_model():
    """Of those who name none; the limits of all settings stand above a model's own."""
    chosen = settings(model=STANDARD, limits={"max_seconds": 30})
    fal = open_provider(FAL, chosen, None)
    assert (fal.model, fal.price_per_second, fal.limits.max_seconds) == (STANDARD, Decimal("0.0562"), 30)
    assert find_model(chosen).name == STANDARD


@pytest.mark.parametrize(
    ("name", "provider", "models"),
    [
        (STANDARD, "fal", {}),
        ("omnihuman-1.5", "fal", {"omnihuman-1.5": {"enabled": True}}),
        ("veed-fabric-1.0", "fal", {"veed-fabric-1.0": {"enabled": True}}),
        (
            STANDARD,
            "pixazo",
            {STANDARD: {"pixazo": {
                "endpoint": "kling-ai-avatar-v2-standard-790/v1/kling-ai-avatar-v2-standard-request",
                "price_per_second": "0.06",
            }}},
        ),
        # One that the table does not have: the same wire, so no code.
        (
            "my-avatar",
            "fal",
            {"MY_AVATAR": {"fal": {"endpoint": "veed/fabric-1.0", "price_per_second": "0.08"}, "prompt": False,
                           "parameters": {"resolution": "480p"}}},
        ),
    ],
)  # fmt: skip
async def test_every_model_of_the_wire_is_rendered(sandbox, inputs, name, provider, models):
    """Submit, watch, collect, by the endpoint of its own; and the body is what it takes."""
    given = make_settings(sandbox.url, models=models)
    opened = open_provider(ProviderName(provider), given, None, name)
    submission = Submission.model_validate_json((await opened.submit(inputs)).model_dump_json())
    assert (submission.model, submission.endpoint) == (name, opened.endpoint)
    # Whoever follows it may have been opened for another model.
    other = open_provider(ProviderName(provider), given, None)
    assert [look async for look in other.watch(submission, 30)][-1].state is RemoteState.DONE
    assert (await other.collect(submission)).url
    (job,) = sandbox.state()["accepted"]
    assert job["endpoint"] == opened.endpoint
    model = find_model(given, name)
    assert set(job["body"]) == {
        "image_url",
        "audio_url",
        *(["prompt"] if model.prompt else []),
        *model.parameters,
    }
    assert sandbox.state()["counts"]["unknown"] == 0


async def test_what_was_bought_of_a_model_that_is_off_by_now_is_followed(sandbox, inputs):
    """A model may be switched off, or taken out of the settings, while its renders are under way."""
    on = make_settings(sandbox.url, models={"omnihuman-1.5": {"enabled": True}})
    submission = await open_provider(FAL, on, None, "omnihuman-1.5").submit(inputs)
    for name in ("omnihuman-1.5", "gone"):
        later = open_provider(FAL, make_settings(sandbox.url), None, name)
        assert [look async for look in later.watch(submission, 30)][-1].state is RemoteState.DONE


async def test_what_was_bought_before_there_were_models_is_followed(sandbox, inputs):
    """A receipt of then names neither model nor endpoint: it was the one model."""
    fal = open_at(sandbox.url, "fal", model=STANDARD)
    first = open_at(sandbox.url, "fal")
    submission = await first.submit(inputs)
    old = make_submission("fal", request_id=submission.request_id)
    assert (old.model, old.endpoint) == (KLING_AVATAR, "")
    assert [look async for look in fal.watch(old, 30)][-1].state is RemoteState.DONE


async def test_a_refused_model_sends_nothing(sandbox):
    """Before the paid request, whoever asks."""
    with pytest.raises(NotConfigured):
        await open_provider(PIXAZO, make_settings(sandbox.url), None, STANDARD).submit(make_inputs())
    assert sandbox.state()["posts"] == 0


def test_the_page_lists_the_table():
    """docs/models.md has every model with its price."""
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    for name, model in known_models(settings()).items():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        assert str(model.offers[FAL].price_per_second) in row
        assert ("| off" in row) is not model.enabled
