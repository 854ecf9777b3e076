"""`avatar export`: every video and its page as a folder that opens from disk."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from flows.commands.desk import at_the_desk


def run(arguments: argparse.Namespace) -> int:
    from flows.gallery.export import export_gallery

    folder = Path(arguments.folder).expanduser()
    done = at_the_desk(lambda workspace: export_gallery(workspace, folder))
    if arguments.json:
        print(json.dumps(dataclasses.asdict(done) | {"index": str(folder / "index.html")}))
    else:
        print(f"{done.videos} videos: {done.copied} files copied, {done.unchanged} were there already.")
        print(f"Open {folder / 'index.html'}")
    for key in done.missing:
        print(f"Missing in the store: {key}", file=sys.stderr)
    return 1 if done.missing else 0
