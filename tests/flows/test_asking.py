"""A run that waits for a person says for whom, for how much, how long, and how to answer, everywhere it is seen."""

import logging
from contextlib import asynccontextmanager
from decimal import Decimal
from types import SimpleNamespace
from uuid import uuid4

import pytest
from prefect.exceptions import Pause
from prefect.states import Running
from pydantic import HttpUrl, ValidationError

from avatar.batch.models import Checked
from avatar.commands import approve as approve_command
from avatar.errors import ApprovalDenied
from avatar.events import ApprovalWanted
from avatar.settings import AvatarSettings
from avatar.settings_sections import StoreSettings
from avatar.workspace import Workspace
from flows import approval, batch

RUN = uuid4()


class Server:
    """Prefect as a run that asks sees it: what it was told, and what was answered."""

    def __init__(self):
        self.answer, self.states, self.pages, self.forms = "", [], [], []

    @asynccontextmanager
    async def client(self):
        yield self

    async def propose(self, *, client, state, flow_run_id):
        assert (client, flow_run_id) == (self, RUN)
        self.states.append(state)
        return Running() if self.answer else state

    async def page(self, **facts):
        self.pages.append(facts)


@pytest.fixture
def server(monkeypatch):
    server = Server()

    async def save(form, keyset):
        server.forms.append(form._description)

    async def load(form, keyset):
        return form(answer=server.answer, who="Anna")

    monkeypatch.setattr(approval.Approval, "asave", classmethod(save))
    monkeypatch.setattr(approval.Approval, "aload", classmethod(load))
    for name, value in {
        "deployment": SimpleNamespace(id="d"),
        "flow_run": SimpleNamespace(id=RUN),
        "get_client": server.client,
        "propose_state": server.propose,
        "acreate_markdown_artifact": server.page,
        "get_run_logger": lambda: logging.getLogger("run"),
    }.items():
        monkeypatch.setattr(approval, name, value)
    return server


@pytest.fixture
def told():
    return []


@pytest.fixture
async def workspace(tmp_path, told):
    nowhere = StoreSettings(endpoint="memory.invalid", access_key="test", secret_key="test")
    budget = {"approve_above": 1, "approval_seconds": 3600}
    settings = AvatarSettings(_env_file=None, state_dir=tmp_path, store=nowhere, budget=budget)
    async with Workspace(settings, deliver=told.append) as opened:
        yield opened


async def test_a_waiting_run_says_for_how_much_and_how_to_answer(server, workspace, told, caplog):
    """As its state's message, as an artifact, as an event and in its log."""
    with pytest.raises(Pause):
        await approval.ask(workspace, "n-0", "job", Decimal("11.04"), "## Pay $11.04 to fal?")
    (state,), (page,), (notice,) = server.states, server.pages, told
    assert state.message.startswith("Waiting for you: $11.04 until ")
    assert state.message.endswith(" UTC. Next: Resume, then Approve or Refuse.")
    waiting = state.message.partition(" Next:")[0]
    assert (page["description"], page["markdown"]) == (waiting, "## Pay $11.04 to fal?")
    assert isinstance(notice, ApprovalWanted)
    assert (notice.run, notice.amount, notice.reason) == (str(RUN), Decimal("11.04"), waiting)
    assert "avatar approve RUN" in notice.hint
    assert f"{waiting} {approval.HOW_TO_ANSWER}" in caplog.text
    assert server.forms == ["## Pay $11.04 to fal?"]


async def test_an_answer_goes_on_or_ends_it(server, workspace, told):
    """Approved, the question is over, and nobody is told again; refused, it says by whom."""
    server.answer = "Approve"
    await approval.ask(workspace, "n-0", "job", Decimal("11.04"), "?")
    server.answer = "Refuse"
    with pytest.raises(
        ApprovalDenied, match=r"Anna refused the \$11\.04 of this job\. Nothing was sent or spent"
    ):
        await approval.ask(workspace, "n-0", "job", Decimal("11.04"), "?")
    assert told == []


def test_neither_answer_is_preset():
    """Without a choice there is no answer; a switch of before still is one."""
    with pytest.raises(ValidationError):
        approval.Approval()
    assert approval.Approval.model_json_schema()["properties"]["answer"]["enum"] == ["Approve", "Refuse"]
    answers = [approval.Approval.model_validate({"approved": said}).answer for said in (True, False)]
    assert answers == ["Approve", "Refuse"]


@pytest.mark.parametrize("gallery", ["", "http://127.0.0.1:4299/"])
async def test_a_batch_asks_with_a_link_to_its_rows(server, workspace, gallery):
    """Its page in the gallery; where there is none, the report in the store."""
    public = workspace.settings.gallery.model_copy(
        update={"public_url": HttpUrl(gallery) if gallery else None}
    )
    workspace.settings = workspace.settings.model_copy(update={"gallery": public})
    checked = Checked(batch_id="ab" * 16, rows=3, chunks=1, ready=2, owed=Decimal("2.07"))
    with pytest.raises(Pause):
        await batch.approve_batch(workspace, checked)
    (asked,) = server.forms
    assert "Pay up to $2.07 for 2 of 3 rows?" in asked
    link = f"[Every row with its quote](http://127.0.0.1:4299/batches/{'ab' * 16})"
    assert (link in asked, "report.csv`" in asked) == (bool(gallery), not gallery)


def test_the_command_lists_who_waits_and_how_to_answer(capsys):
    state = {
        "message": "Waiting for you: $11.04 until 2026-01-02 12:00 UTC. Next: Resume, then Approve or Refuse."
    }
    run = {"id": str(RUN), "name": "anna says welcome", "state": state}
    assert approve_command._list([run], as_json=False) == 0
    said = capsys.readouterr().out
    short = str(RUN)[:8]
    assert (
        f"Waiting for you: $11.04 until 2026-01-02 12:00 UTC. Next: avatar approve {short}, or avatar refuse {short}"
        in said
    )
