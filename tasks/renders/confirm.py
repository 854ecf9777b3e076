"""A request id that did not come as an answer to the paid request: the provider is asked whether it knows it."""

from tasks.errors import InvalidInput
from tasks.models import RemoteState, Submission
from tasks.providers.watching import NOT_FOUND
from tasks.storage.journal import Record
from tasks.workspace import Workspace


async def confirm_request(workspace: Workspace, record: Record, request_id: str) -> Submission:
    """The receipt that a lost answer would have been, once the provider says that it knows the request.

    Raises:
        InvalidInput: the provider does not know it.
        ProviderUnavailable: the provider could not be asked; try again.
    """
    submission = Submission(
        render_id=record.entry.render_id,
        provider=record.entry.provider,
        request_id=request_id,
        submitted_at=record.entry.at,
    )
    snapshot = await workspace.provider(submission.provider).poll(submission)
    # Soon after a submit, "not found" is read as "not there yet": here it confirms nothing.
    if snapshot.state is RemoteState.LOST or snapshot.word == NOT_FOUND:
        raise InvalidInput(
            f"{submission.provider} does not know a request {request_id!r}. Nothing was changed.",
            render_id=submission.render_id,
            hint="Copy the request id from the provider's dashboard; check the key and the base URL.",
        )
    return submission
