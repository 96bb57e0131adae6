"""The command line ``stgcma-jobs``. It only parses; a command imports the code it needs when it runs.

Exit codes: 0 success; 1 failed run or failed check; 2 error that the user can correct (only the message is printed);
130 interrupted. ``--debug`` anywhere on the line shows the traceback.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import threading
import traceback
from collections.abc import Iterator

import typer

from jobs.commands import CLASSES, COMMANDS
from pipelines.signals import kept_signal_handlers
from stgcma.errors import FailureBudgetExceededError, ParityError, RunFailedError, StgcmaError

FAILED_RUN = (FailureBudgetExceededError, ParityError, RunFailedError)
"""Errors of a run that started correctly: exit code 1 instead of 2."""

app = typer.Typer(
    name="stgcma-jobs",
    help="Preprocess clips, train cross-modal adapters, evaluate, compare with the paper.",
    epilog="--debug anywhere on the line shows the traceback of an error.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
for _name, _function in COMMANDS.items():
    app.command(_name, cls=CLASSES.get(_name))(_function)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of ``stgcma-jobs``."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    for package in ("stgcma", "pipelines", "jobs"):
        logging.getLogger(package).setLevel(logging.DEBUG if debug else logging.INFO)
    try:
        with _sigterm_like_ctrl_c():
            app(args=arguments, prog_name="stgcma-jobs")
    except StgcmaError as error:
        _fail(error, debug, code=1 if isinstance(error, FAILED_RUN) else 2)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if debug or package in ("", "stgcma", "pipelines", "jobs"):
            _fail(error, debug, code=1)
        print(
            f"This command needs the Python package {package!r}, which is not installed here. "
            "Install everything with: pip install stgcma",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    except Exception as error:  # a bug or a fault of the machine: reported like the others
        _fail(error, debug, code=1)


@contextlib.contextmanager
def _sigterm_like_ctrl_c() -> Iterator[None]:
    """Let SIGTERM, which Kubernetes sends, end a command as Ctrl-C does: the workers stop, and a message follows."""
    with kept_signal_handlers():
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        yield


def _fail(error: Exception, debug: bool, code: int) -> None:
    if debug:
        traceback.print_exception(error)
    else:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        if not isinstance(error, StgcmaError):
            print("This error was not expected; --debug shows the traceback.", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
