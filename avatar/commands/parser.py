"""The command line. Imports nothing heavy, so that --help is instant."""

import argparse

EXIT_CODES = """exit codes:
  0 published   2 bad input or usage   3 refused before paying   4 provider failed
  5 outcome unknown, needs a person    1 anything else
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line. Imports nothing heavy, so that --help is instant."""
    parser = argparse.ArgumentParser(
        prog="avatar",
        description="Turn a portrait and a voice track into a checked, published talking video.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks and Prefect's own log")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_generate(commands)
    _add_batch(commands)
    _add_quote(commands)
    _add_status(commands)
    _add_resolve(commands)
    _add_cancel(commands)
    _add_approve(commands)
    _add_services(commands)
    _add_label(commands)
    _add_consent(commands)
    _add_outputs(commands)
    commands.add_parser("mcp", help="serve tools to an agent over stdin and stdout (needs avatar-flows[mcp])")
    _add_listening(commands)
    _add_export(commands)
    _add_json(commands.add_parser("repair", help="make the indexes of videos and requests anew"))
    return parser


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")


def _add_names(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--title", help="what the video is called (default: the name of the voice track)")
    parser.add_argument("--language", help="language of the voice, as in de or pt-BR")
    parser.add_argument(
        "--label",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a word to find and count it by; repeatable",
    )


def _add_captions(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--captions",
        action="append",
        default=[],
        metavar="FILE",
        help="captions (.srt, .vtt) or the text alone (.txt), their language from the name, as in welcome.de.srt; repeatable",
    )


def _add_provider(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--provider",
        choices=["preview", "fal", "pixazo"],
        help="who renders (default: AVATAR_PROVIDER, else preview)",
    )
    parser.add_argument("--model", metavar="NAME", help="which model renders (default: AVATAR_MODEL)")


def _add_generate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("generate", help="render one job and publish it")
    parser.add_argument("portrait", metavar="PORTRAIT", help="image file, or s3://bucket/key")
    parser.add_argument("voice", metavar="VOICE", help="audio file, or s3://bucket/key")
    parser.add_argument("--prompt", default=".", help="guides expression and motion")
    _add_names(parser)
    _add_provider(parser)
    _add_captions(parser)
    parser.add_argument(
        "--format",
        action="append",
        default=[],
        metavar="FORM",
        help="also make 9:16, 1:1, 16:9, 4:5, 1080x1920 or same; with /plain or /crop for no blurred background; repeatable",
    )
    parser.add_argument("--out", metavar="FILE", help="also write the video to this file")
    parser.add_argument("--max-cost", metavar="USD", help="refuse before paying if the quote is above this")
    parser.add_argument(
        "--cancel-on-stop",
        action="store_true",
        help="on Ctrl-C, also ask the provider to stop (default: it goes on, and the next run fetches the video)",
    )
    parser.add_argument(
        "--continuity",
        choices=["cut", "chain"],
        default="cut",
        help="how long voices are joined: every segment from the portrait, or each from the last frame before it",
    )
    parser.add_argument(
        "--trim", action="store_true", help="leave out the silence before and after the speech"
    )
    parser.add_argument("--accept", action="store_true", help="publish a video that did not pass its checks")
    parser.add_argument(
        "--force", action="store_true", help="buy a new take of a job that is already published"
    )
    _add_json(parser)


def _add_batch(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "batch", help="render every row of a manifest, or one portrait with many voices"
    )
    parser.add_argument(
        "manifest", metavar="MANIFEST", nargs="?", help=".jsonl or .csv file, or s3://bucket/key"
    )
    parser.add_argument(
        "--portrait", metavar="PORTRAIT", help="one portrait for --voices, or for rows that name none"
    )
    parser.add_argument(
        "--voices",
        metavar="VOICE",
        nargs="+",
        default=[],
        help="instead of a manifest: files, or folders ending in /",
    )
    parser.add_argument("--prompt", default=".", help="for rows that have none of their own")
    _add_provider(parser)
    parser.add_argument(
        "--on-bad-rows",
        choices=["stop", "skip"],
        default="stop",
        help="render nothing while one row is bad (default), or render the others",
    )
    parser.add_argument("--at-once", type=int, metavar="N", help="renders at the provider at a time")
    parser.add_argument(
        "--max-cost", metavar="USD", help="refuse before paying if what is still to be bought costs more"
    )
    parser.add_argument("--name", default="", help="what to call it in lists and in the report")
    _add_json(parser)


def _add_quote(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "quote",
        help="tell length and price of a voice, or of a manifest, and what is wrong with the files; spends nothing",
    )
    parser.add_argument(
        "--trim", action="store_true", help="leave out the silence before and after the speech"
    )
    parser.add_argument(
        "--portrait", metavar="FILE", help="look at it, too; of a manifest: for rows with none"
    )
    parser.add_argument(
        "voice", metavar="VOICE", help="audio file, or a manifest (.csv, .jsonl); or s3://bucket/key of one"
    )
    _add_provider(parser)
    _add_json(parser)


def _add_status(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("status", help="list videos and open renders, or show one in full")
    parser.add_argument("id", metavar="ID", nargs="?", help="a job id or a render id")
    parser.add_argument(
        "--spend", action="store_true", help="money quoted, billed, set aside and at risk, by day"
    )
    parser.add_argument(
        "--by",
        metavar="LABEL",
        help="with --spend: what videos cost by the value of this label, as in campaign",
    )
    parser.add_argument(
        "--since",
        metavar="DATE",
        help="with --by: videos published since that UTC day (default: 31 days ago)",
    )
    parser.add_argument("--csv", action="store_true", help="with --spend: as a table for a spreadsheet")
    _add_json(parser)


def _add_resolve(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("resolve", help="settle a render whose outcome is unknown")
    parser.add_argument("render", metavar="RENDER", help="the render id that the error named")
    parser.add_argument(
        "--request-id",
        metavar="ID",
        help="attach the request found on the provider's dashboard; with --not-charged: a stray one that was refunded",
    )
    settle = parser.add_mutually_exclusive_group()
    settle.add_argument(
        "--video-url", metavar="URL", help="fetch the video from where the provider's own pages have it"
    )
    settle.add_argument(
        "--not-charged", action="store_true", help="the provider has no such request: may be sent again"
    )
    _add_json(parser)


def _add_cancel(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "cancel", help="ask the provider to stop a render; says whether that saves money"
    )
    parser.add_argument("render", metavar="RENDER", help="a render id, see `avatar status`")
    _add_json(parser)


def _add_approve(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    for verb, what in (
        ("approve", "pay the price that a waiting run asks for"),
        ("refuse", "end a waiting run unpaid"),
    ):
        parser = commands.add_parser(verb, help=f"{what}; without RUN, list those that wait")
        parser.add_argument("run", metavar="RUN", nargs="?", help="the run's id, its beginning, or its name")
        parser.add_argument(
            "--who", metavar="NAME", help="who answers, for the run's log (default: the user)"
        )
        if verb == "approve":
            parser.add_argument(
                "--price", metavar="USD", help="the price that was shown, instead of being asked"
            )
        _add_json(parser)


def _add_label(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "label", help="give a video another title, language or labels; costs nothing"
    )
    parser.add_argument("job", metavar="JOB", help="job id, as `avatar status` lists it")
    _add_names(parser)
    _add_json(parser)


def _add_consent(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    consent = commands.add_parser("consent", help="record who agreed to be shown, or who does so no more")
    verbs = consent.add_subparsers(dest="verb", required=True, metavar="VERB")
    add = verbs.add_parser("add", help="record the consent of the person in a portrait")
    add.add_argument("portrait", metavar="PORTRAIT", help="image file, s3://bucket/key, or https:// address")
    add.add_argument("--who", required=True, metavar="NAME", help="the person, or who speaks for them")
    add.add_argument("--for", required=True, dest="purpose", metavar="PURPOSE", help="what they agreed to")
    add.add_argument("--until", required=True, metavar="DATE", help="the last day on which it holds, UTC")
    add.add_argument("--paper", required=True, metavar="PLACE", help="where what they signed is kept")
    _add_json(add)
    for verb, many, what in (
        ("show", "?", "what is recorded for a portrait, or for all of them"),
        ("revoke", None, "nothing more is paid for; lists the videos made with it"),
    ):
        parser = verbs.add_parser(verb, help=what)
        parser.add_argument("portrait", metavar="PORTRAIT", nargs=many, help="an image, or its SHA-256")
        _add_json(parser)


def _add_services(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    commands.add_parser(
        "up",
        help="run store, Prefect server, deployments, worker, gallery and bridge on this machine; Ctrl-C stops all",
    )
    deploy = commands.add_parser(
        "deploy", help="create deployments, limits and automations on the server of PREFECT_API_URL"
    )
    deploy.add_argument(
        "--pool", metavar="NAME", default="avatar", help="the work pool; made if it is not there"
    )
    deploy.add_argument(
        "--type", choices=["process", "docker", "kubernetes"], default="process", help="its type"
    )
    deploy.add_argument(
        "--image", metavar="IMAGE", default="", help="what runs of docker and kubernetes start from"
    )
    _add_json(deploy)
    doctor = commands.add_parser(
        "doctor", help="check that store, Prefect, worker and provider settings are usable"
    )
    _add_json(doctor)


def _add_outputs(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    captions = commands.add_parser(
        "captions", help="give a video other captions, or captions in further languages; costs nothing"
    )
    captions.add_argument("job", metavar="JOB", help="job id, as `avatar status` lists it")
    captions.add_argument("files", metavar="FILE", nargs="+", help=".srt, .vtt or .txt, as in welcome.de.srt")
    _add_json(captions)
    forms = commands.add_parser(
        "formats",
        help="make further forms of a video, such as 9:16; made from what was bought, costs nothing",
    )
    forms.add_argument("job", metavar="JOB", help="job id, as `avatar status` lists it")
    forms.add_argument("forms", metavar="FORM", nargs="+", help="9:16, 1:1/crop, 1080x1920/plain, same")
    _add_json(forms)


def _add_listening(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    for verb, port, what in (
        ("gallery", 4299, "look at the videos in a browser"),
        ("bridge", 4298, "tell Prefect of uploads to the bucket"),
    ):
        parser, setting = commands.add_parser(verb, help=f"{what}; Ctrl-C stops it"), f"AVATAR_{verb.upper()}"
        parser.add_argument("--host", help=f"address to listen on (default: {setting}__HOST, else 127.0.0.1)")
        parser.add_argument(
            "--port", type=int, help=f"port to listen on, 0 for any (default: {setting}__PORT, else {port})"
        )
    commands.choices["gallery"].add_argument(
        "--add-user",
        metavar="NAME:ROLE",
        help="write a user into AVATAR_GALLERY__USERS, asking for the password; roles are look, make and spend",
    )


def _add_export(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "export", help="copy the videos and their pages into a folder that opens from disk"
    )
    parser.add_argument("folder", metavar="DIR", help="a new folder, or one that was exported to before")
    _add_json(parser)
