"""What one process wrote into the journal itself, so that it need not ask the store for it."""

from typing import TYPE_CHECKING

from avatar.waiting import Moment

if TYPE_CHECKING:
    from avatar.money.journal import Record

#: For how many seconds a process believes that nobody has asked for a render; how often it gives a sign of life.
BELIEVED_SECONDS, SIGN_SECONDS = 60.0, 20.0
#: Renders of which a process remembers what it wrote.
MOST_SEEN = 500


class Seen:
    """What one process wrote of renders itself, so that it need not ask the store for it: of the last `MOST_SEEN`."""

    def __init__(self) -> None:
        self._written: dict[str, tuple[Record, ...]] = {}
        self._when: dict[str, Moment] = {}
        self.signs: dict[str, Moment] = {}

    def nothing(self, render_id: str) -> None:
        """The store said that there is no entry."""
        self._keep(render_id, ())

    def was_nothing(self, render_id: str) -> bool:
        recent = render_id in self._when and self._when[render_id].passed < BELIEVED_SECONDS
        return recent and not self._written[render_id]

    def wrote(self, before: "tuple[Record, ...]", record: "Record") -> None:
        """An entry was written by this process after those that it had written before."""
        follows = bool(before) and before[-1].entry.seq == record.entry.seq - 1
        self._keep(record.entry.render_id, (*(before if follows else ()), record))

    def newest(self, render_id: str, within: float) -> "Record | None":
        written = self._written.get(render_id)
        return written[-1] if written and self._when[render_id].passed < within else None

    def whole(self, render_id: str) -> "tuple[Record, ...]":
        """Every entry up to a collected video, after which none follows; nothing if others wrote some of them."""
        written = self._written.get(render_id, ())
        ended = bool(written) and written[-1].state == "collected"
        return written if ended and written[0].entry.seq == 1 else ()

    def pop(self, render_id: str) -> "tuple[Record, ...]":
        """Forget it: whether the next entry gets written is not known yet."""
        self._when.pop(render_id, None)
        return self._written.pop(render_id, ())

    def _keep(self, render_id: str, written: "tuple[Record, ...]") -> None:
        self.pop(render_id)
        while len(self._written) >= MOST_SEEN:
            self.pop(next(iter(self._written)))
        self._written[render_id], self._when[render_id] = written, Moment.now()
