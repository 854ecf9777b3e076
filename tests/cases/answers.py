"""Answers of a provider

Read to a megabyte and 32 levels. What cannot be read says nothing about the render, which goes on; of a paid
request it leaves the outcome unknown, which a person settles: it is never sent again.
"""

CASES = (
    (
        "the submit is answered with a request id of slashes, dots, quotes, control characters or 10,000 characters",
        "accepted: the id is kept as it is, and is one escaped part of a URL",
    ),
    (
        "the submit is answered with a request id that is a number, a list, empty, or longer",
        "a request id that cannot be used",
    ),
    ("the submit is answered with two request ids", "accepted: the last one holds"),
    ("the submit is answered with a packed bomb", "an answer that cannot be read"),
    ("the submit is answered with 2 MB", "an answer that cannot be read"),
    ("a look is answered with 2 MB", "200 without a status, an answer of more than 1024 KB"),
    ("a look is answered with a packed bomb, also one inside another", "200 without a status, an answer of"),
    ("a look is answered with an encoding nobody asked for", "200 without a status"),
    ("a look is answered with 100,000 brackets", "200 without a status"),
    ("a look is answered with types that are wrong", "200 without a status"),
    ("a look is answered with a page", "200 without a status"),
    ("a look is answered without end, a byte at a time", "its answer had not ended after"),
    ("a look is answered with logs of 2 MB", "accepted: the status is asked for without them"),
    ("a look is answered with NaN, Infinity, 1e999 and 5,000 digits", "accepted: they are left out"),
    ("the result has 500 levels", "accepted: what is deeper than 32 levels is left out"),
    (
        "the status stream has a line, an event or comments without end",
        "accepted: the status is asked for instead",
    ),
    ("the status stream is packed", "accepted: the status is asked for instead"),
)
