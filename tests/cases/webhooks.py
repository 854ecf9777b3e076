"""Webhooks

Posts to the bridge's public address. Whatever comes, only a hint is kept: a request id and a time, and nothing else of
the body. The provider is asked through its API before anything is believed.
"""

CASES = (
    ("an address made with another secret, or changed by a letter", "404; nothing is read or kept"),
    ("the address of one render for another, or for its next attempt", "404; nothing is read or kept"),
    ("fal's webhook without a signature", "401; nothing is kept"),
    ("fal's webhook signed with another key", "401; nothing is kept"),
    ("fal's signature of another body", "401; nothing is kept"),
    ("fal's webhook of long ago, sent again", "401; nothing is kept"),
    ("a signature that is no hexadecimal number", "401; nothing is kept"),
    ("Pixazo's webhook whose request id has slashes and dots", "204; a hint without a request id"),
    ("Pixazo's webhook whose request id is an object", "204; a hint without a request id"),
    ("Pixazo's webhook without a body", "204; a hint without a request id"),
    ("Pixazo's webhook that is no JSON", "204; a hint without a request id"),
    ("Pixazo's webhook of 4,000 nested lists", "204; a hint without a request id"),
    ("a body longer than AVATAR_BRIDGE__MAX_BODY_BYTES", "413; nothing is kept"),
    ("a body without a length that does not end", "413; nothing is kept"),
)
