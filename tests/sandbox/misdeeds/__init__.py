"""Every misdeed by the name a test arms it with (`GET /__sandbox__/behave` lists them)."""

from tests.sandbox.call import Misdeed
from tests.sandbox.misdeeds import answers, connection, fates, media, stream

MISDEEDS: dict[str, Misdeed] = {
    **connection.DEEDS,
    **answers.DEEDS,
    **fates.DEEDS,
    **media.DEEDS,
    **stream.DEEDS,
}
