"""Manifests of batches

Read a row at a time, and every row is checked before anything is spent. What stands against a row is told with its
line; what stands against the whole file stops the batch. Nothing was sent or spent in any of these.
"""

CASES = (
    ("a line of 100 MB", "the line is longer than 128 KB"),
    ("a byte that is not UTF-8", "(0xe9) is not UTF-8; save it as UTF-8"),
    ("UTF-16, with or without its mark, or UTF-32", "UTF-16"),
    ("a byte order mark", "accepted"),
    ("a workbook called .csv", "The manifest is a workbook or a ZIP archive"),
    ("compressed", "The manifest is compressed (gzip)"),
    ("a web page", "The manifest is a web page (HTML or XML)"),
    ("a directory", "is not a file on this machine, or cannot be read"),
    ("no bytes", "is empty (0 bytes)"),
    ("empty lines only", "The manifest has no rows"),
    ("more rows than a spreadsheet has", "The manifest has more than 1,048,576 rows"),
    ("more bytes than are read", "no more than 2,147,483,648 are read"),
    ("the same row twice", "the same job as line 1"),
    ("a column that is there twice", "'voice' is there twice"),
    ("a column that is none", "'mood' is not a column"),
    ("a first line of 40,000 columns", "'c0' is not a column; 'c1' is not a column; 'c2' is not a column"),
    ("a cell of 200 KB", "a quote is opened and, for 128 KB, not closed"),
    ("a quote that is never closed", "a quote is opened and, for 128 KB, not closed"),
    ("a name twice in one JSON object", "'voice' is there twice"),
    ("100,000 brackets", "too deeply nested"),
    ("a number of 5,000 digits", "it holds a number of 5000 digits"),
    ("1e999 as a price", "max_cost: Input should be a finite number"),
    ("a key with `..`", "cannot be used as an object key"),
    ("a name with a null byte", "is not a file on this machine, or cannot be read"),
    ("a path of 5,000 characters", "String should have at most 4096 characters"),
    ("a formula (=, +, -, @, tab) in a cell", "accepted: report.csv shows it with an apostrophe in front"),
    ("a link with a signature that is not there", "its link is no longer valid (404)"),
    ("a link whose server is down", "could not be fetched: connecting failed"),
    ("files of this machine, in a manifest from the web", "a manifest from the web cannot name files of this machine"),
)  # fmt: skip
