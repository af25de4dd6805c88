"""The `workbench` command: words to a command's body, its answer to stdout, its troubles to one line on stderr.

Nothing heavy is imported here: a body's module is imported when its command runs.
"""

import argparse
import contextlib
import importlib
import inspect
import json
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import workbench

DONE, FAILED, WRONG = 0, 1, 2
Body = Callable[[argparse.Namespace], Any]


def main(words: Sequence[str] | None = None) -> int:
    """Run a command line; returns 0 done, 1 failed, 2 the request was wrong."""
    words = list(sys.argv[1:] if words is None else words)
    try:
        args = _parsed(words)
    except SystemExit as end:  # argparse has said why, or shown its help
        return end.code if isinstance(end.code, int) else WRONG
    if args.body is None:
        parser().print_help()
        return DONE
    with warnings.catch_warnings():
        if not args.debug:
            warnings.simplefilter("ignore")
        return _answered(args)


def _parsed(words: Sequence[str]) -> argparse.Namespace:
    """The arguments; a prompt or key=value that comes after an option still joins the others."""
    args, extra = parser().parse_known_args(words)
    row: list[str] | None = getattr(args, args.more, None) if args.more else None
    stray = next((word for word in extra if row is None or word.startswith("-")), None)
    if stray is not None:
        parser().error(f"{stray!r} is not understood")
    if row is not None:
        row += extra
    return args


def _answered(args: argparse.Namespace) -> int:
    try:
        with contextlib.redirect_stdout(sys.stderr):  # whatever a library prints, stdout is the answer's
            answer = _body(args.body)(args)
    except BrokenPipeError:
        return FAILED
    except KeyboardInterrupt:
        return _trouble(args, "Stopped. What was finished is kept.", FAILED)
    except Exception as error:
        if args.debug:
            traceback.print_exc()
        return _trouble(args, *_explained(error))
    _say(json.dumps(answer.data, ensure_ascii=False, default=str) if args.json else answer.text)
    return answer.code


def _explained(error: Exception) -> tuple[str, int]:
    from workbench.core.errors import AskError, MethodError, MissingPart, UnsupportedFamily, WorkbenchError

    if isinstance(error, AskError | MethodError | MissingPart | UnsupportedFamily):
        return str(error), WRONG
    if isinstance(error, WorkbenchError):
        return str(error), FAILED
    if isinstance(error, OSError):
        return f"{error.filename or 'A file'}: {error.strerror or error}.", FAILED
    return f"{type(error).__name__}: {error} (--debug shows where)", FAILED


def _trouble(args: argparse.Namespace, message: str, code: int) -> int:
    line = " ".join(message.split())
    if args.json:
        _say(json.dumps({"error": line}, ensure_ascii=False))
    sys.stderr.write(f"workbench: {line}\n".encode("utf-8", "replace").decode("utf-8"))
    return code


def _say(text: str) -> None:
    if text:
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.write(text.encode("utf-8", "replace").decode("utf-8") + "\n")
            sys.stdout.flush()


def _body(place: str) -> Body:
    module, _, name = place.rpartition(".")
    return getattr(importlib.import_module(module), name)


class _Parser(argparse.ArgumentParser):
    """argparse with one line for a wrong request, and no abbreviations that a later flag could break."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG, f"{self.prog}: {message}. See: {self.prog} --help\n")


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = _Parser(prog="workbench", description="Stack published methods on one image model, look inside, compare.")
    top.add_argument("--version", action="version", version=f"workbench {workbench.__version__}")
    top.set_defaults(body=None, more="", debug=False, json=False)
    commands = top.add_subparsers(title="commands", metavar="COMMAND", parser_class=_Parser)

    def command(name: str, body: str, help_: str, *, loads: bool = False) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=help_, description=help_)
        made.set_defaults(body=body)
        made.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
        made.add_argument("--debug", action="store_true", help="show the traceback of an error")
        if loads:
            made.add_argument("--model", default="", metavar="M", help="folder, .safetensors, name or hub id")
            made.add_argument("--models", type=Path, metavar="DIR", help="a folder of models to name")
            made.add_argument("--device", default="", metavar="D", help="cuda, mps or cpu")
            made.add_argument("--dtype", default="", metavar="T", help="float32, float16 or bfloat16")
        return made

    _faces(command)
    _drawing(command)
    _files(command)
    return top


def _gathering(made: argparse.ArgumentParser, name: str, metavar: str) -> None:
    made.add_argument(name, nargs="*", metavar=metavar)
    made.set_defaults(more=name)


def _faces(command: Callable[..., argparse.ArgumentParser]) -> None:
    app = command("app", "workbench.cli.app", "serve the app")
    app.add_argument("--host", default="127.0.0.1")
    app.add_argument("--port", type=int, default=7860)
    app.add_argument("--models", type=Path, metavar="DIR", help="a folder of models to list")
    listing = command("list", "workbench.runs.listing.listing", "list the methods")
    listing.add_argument("--topic")
    card = command("card", "workbench.cli.card", "show a method's card")
    card.add_argument("name", metavar="NAME")
    cards = command("cards", "workbench.cli.cards", "write the cards and the README's table")
    cards.add_argument("--check", action="store_true", help="change nothing; fail when a file is not as generated")
    about = command("about", "workbench.runs.commands.about", "tell what a model is", loads=True)
    about.add_argument("about", nargs="?", default="", metavar="MODEL")
    train = command("train", "workbench.cli.train", "run a recipe behind assets/models")
    train.add_argument("recipe", nargs="?", metavar="RECIPE")
    _gathering(train, "settings", "key=value")


def _drawing(command: Callable[..., argparse.ArgumentParser]) -> None:
    sample = command("sample", "workbench.runs.commands.sample", "draw prompts", loads=True)
    _gathering(sample, "prompts", "PROMPT")
    sample.add_argument("--count", type=int, default=1, metavar="N", help="pictures of each prompt")
    sample.add_argument("--look", action="append", metavar='"NAME key=value ..."', help="also look through a lens")
    sample.add_argument("--score", action="append", metavar='"NAME key=value ..."', help="also score the pictures")
    look = command("look", "workbench.runs.commands.look", "look inside with a lens", loads=True)
    look.add_argument("lens", metavar="LENS")
    _gathering(look, "settings", "key=value")
    look.add_argument("--prompt", action="append", required=True, metavar="P")
    for made in (sample, look):
        made.add_argument("--sampler", metavar='"NAME key=value ..."')
        made.add_argument("--with", dest="edits", action="append", metavar='"NAME key=value ..."',
                          help="an edit; repeat it, the order is the order of the edits")  # fmt: skip
        made.add_argument("--negative", action="append", metavar="T", help="what should not be shown")
        made.add_argument("--seed", metavar="N", help="the first seed, or several: 7,9,11")
        made.add_argument("--size", metavar="WxH")
        made.add_argument("--image", metavar="F", help="a picture to start from")
        made.add_argument("--mask", metavar="F", help="white is drawn anew")
        made.add_argument("--batch", type=int, metavar="N", help="pictures drawn at a time")
        made.add_argument("--out", metavar="DIR", help="the run's folder; default: a new one in outputs/")
    run = command("run", "workbench.runs.commands.run", "execute a plan, or a picture's own", loads=True)
    run.add_argument("plan", metavar="PLAN.json")
    replay = command("replay", "workbench.runs.commands.replay", "draw a run again and compare pixels", loads=True)
    replay.add_argument("run", metavar="RUN")
    sweep = command("sweep", "workbench.runs.commands.sweep", "run a grid of plans, skipping what is done", loads=True)
    sweep.add_argument("sweep", metavar="SWEEP.json")
    sweep.add_argument("--workers", type=int, metavar="N", help="processes")
    for made in (run, replay, sweep):
        made.add_argument("--out", metavar="DIR")


def _files(command: Callable[..., argparse.ArgumentParser]) -> None:
    score = command("score", "workbench.runs.commands.score", "score pictures drawn here", loads=True)
    score.add_argument("metric", metavar="METRIC")
    _gathering(score, "settings", "key=value")
    score.add_argument("--images", required=True, metavar="DIR")
    export = command("export", "workbench.runs.export.export", "write the edited model for other programs", loads=True)
    export.add_argument("--with", dest="edits", action="append", metavar='"NAME key=value ..."')
    export.add_argument("--out", required=True, metavar="DIR")
    export.add_argument("--format", choices=("diffusers", "delta", "lora"), default="diffusers")
    convert = command("convert", "workbench.runs.commands.convert", "turn pickled checkpoints into safetensors")
    convert.add_argument("files", nargs="+", metavar="FILE")
    convert.add_argument("--out", required=True, metavar="DIR")
    models = command("models", "workbench.runs.commands.models", "list the models that can be named")
    models.add_argument("--models", type=Path, metavar="DIR", help="a folder of models to list as well")
    bench = command("bench", "workbench.runs.commands.bench", "measure a topic; without one, list them", loads=True)
    bench.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="of the topic's own: minutes=25")
    bench.add_argument("--topic", metavar="T")
    bench.add_argument("--tier", choices=("cpu", "gpu"), default="cpu")
    bench.add_argument("--repeats", type=int, default=5, metavar="N")
    bench.add_argument("--out", metavar="DIR", help="also write DIR/TOPIC.json")


def app(args: argparse.Namespace) -> Any:
    """Serve the app; it is found by name, because the library does not know it."""
    from workbench.runs.answer import Answer

    try:
        served = importlib.import_module("apps.app")
    except ModuleNotFoundError as error:
        from workbench.core.errors import MissingPart

        hint = "pip install 'diffusion-workbench[app]'"
        raise MissingPart(f"The app needs {error.name}, which is not installed: {hint}.") from None
    served.main(host=args.host, port=args.port, models=args.models)
    return Answer({}, "")


def card(args: argparse.Namespace) -> Any:
    """A method's card."""
    from workbench.core.catalog import find
    from workbench.runs.answer import Answer
    from workbench.view import cards as views

    text = views.card(find(args.name), views.benchmarks())
    return Answer({"name": args.name, "card": text}, text.rstrip())


def cards(args: argparse.Namespace) -> Any:
    """Write what is generated, or tell what is not as generated."""
    from workbench.runs.answer import Answer
    from workbench.runs.commands import shipped_digests
    from workbench.view import cards as views

    made = views.pages(shipped_digests())
    if not args.check:
        changed = [str(path) for path in views.write(made)]
        return Answer({"changed": changed}, "\n".join(changed) or "Everything was up to date.")
    wrong = views.drift(made)
    text = "\n".join([*wrong, "Run: workbench cards"]) if wrong else f"{len(made)} files as generated"
    return Answer({"drift": wrong}, text, FAILED if wrong else DONE)


def train(args: argparse.Namespace) -> Any:
    """Run a training recipe with its settings."""
    from workbench.runs.answer import Answer
    from workbench.runs.requests import nearest, pairs
    from workbench.training import RECIPES

    if args.recipe is None:
        return Answer({"recipes": list(RECIPES)}, "\n".join(RECIPES))
    if args.recipe not in RECIPES:
        raise nearest(args.recipe, list(RECIPES), "recipe")
    settings = {name: _value(text) for name, text in pairs(args.settings, args.recipe).items()}
    recipe = importlib.import_module(RECIPES[args.recipe]).train
    known = list(inspect.signature(recipe).parameters)
    wrong = next((name for name in settings if name not in known), None)
    if wrong is not None:
        raise nearest(wrong, known, f"setting of {args.recipe}")
    result = recipe(**settings)
    return Answer({"recipe": args.recipe, "result": result}, f"{args.recipe}: done")


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
