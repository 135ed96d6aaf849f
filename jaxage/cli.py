"""The command line: from `sys.argv` to one call. Only the command that is named is imported."""

import difflib
import importlib
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import NoReturn

from jaxage.utils.huge_pages import restart_with_huge_pages

COMMANDS = {
    "train": "Fine-tune a network on faces, and test it.",
    "evaluate": "Score the model of a run.",
    "predict": "Find the faces of photos, and print the age of each in years.",
    "explain": "Show where a model looks: for each face, what makes it say older or younger.",
    "frame": "Measure where faces sit in a model's training crops, so that photos are cropped to match.",
    "calibrate": "Fit a model's ages and intervals to a few faces of your own, without training.",
    "serve": "Open a page that takes photos and shows ages, intervals, and where the network looks.",
    "export": "Write a model for another runtime, and compare its ages with JAX's.",
    "push": "Upload the model of a run to the Hugging Face Hub, with a card; other commands take it as hf://OWNER/NAME.",
    "prepare": "Choose, check and divide faces, and pack them for train --data.",
    "convert": "Convert torch weights to Flax, check every stage, and write safetensors.",
    "launch": "Start a command in several processes on this machine, which train one model.",
    "lr-find": "Raise the learning rate step by step, and draw how the loss goes: where to set it.",
    "study": "Train the seven models of the report, and write a page that compares them.",
    "cache": "Show what is kept on disk between runs, and make room.",
    "benchmark": "Measure how fast this machine trains, beside torch where it is installed.",
}
"""The commands, each with the first line of its help; `jaxage.commands.arguments` has a module for each."""

_OF_NETWORKS = ("Gloo", "NCCL", "UNAVAILABLE", "DEADLINE_EXCEEDED")

_OVERVIEW = """\
usage: jaxage COMMAND ...

Fine-tune ImageNet networks to predict age from a face.

{commands}

jaxage COMMAND --help explains a command; jaxage --version; jaxage --tyro-print-completion bash (or zsh, tcsh)."""

_COMPLETION = ("--tyro-print-completion", "--tyro-write-completion")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command. Exit with 1 and one message for errors that the user can fix, with 128 + n after signal n."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True, errors="backslashreplace")  # names need not be UTF-8
    arguments = sys.argv[1:] if arguments is None else arguments
    _answer_without_command(arguments)
    from jaxage.types import Diverged, Stopped, UserError, WeightsUnavailableError
    from jaxage.utils.files import explain_os_error

    try:
        _run(*arguments)
        _leave(0)
    except (UserError, WeightsUnavailableError, Diverged) as error:
        _exit(f"error: {error}")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at its end
        sys.exit(1)
    except OSError as error:
        _exit(f"error: {explain_os_error(error)}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except Stopped as stop:
        if str(stop):
            print(stop, file=sys.stderr)
        _exit(128 + stop.signum)
    except Exception as error:
        _leave(_explained(error))
        raise


def _explained(error: Exception) -> str:
    """What the processes of one job say of an error that nobody expected. Often it is that one of them is lost."""
    if type(error).__name__ == "JaxRuntimeError" and any(word in str(error) for word in _OF_NETWORKS):
        last = str(error).strip().splitlines()[-1]
        return f"error: another process or the network was lost ({last}): start all again with --resume"
    return traceback.format_exc()


def _exit(status: int | str) -> NoReturn:
    _leave(status)
    sys.exit(status)


def _leave(status: int | str) -> None:
    """End together with the other processes of the job, if the command has joined any."""
    if cluster := sys.modules.get("jaxage.utils.cluster"):
        cluster.leave(status)


def _answer_without_command(arguments: Sequence[str]) -> None:
    """Exit with the version, a shell's completion, or the list of commands, if no command is named."""
    name = arguments[0] if arguments else ""
    if name == "--version":
        print(f"jaxage {version('jaxage')}")
        sys.exit()
    if name in _COMPLETION:
        _complete(arguments)
    if name in ("", "-h", "--help"):
        print(_OVERVIEW.format(commands="\n".join(f"  {command:<10} {about}" for command, about in COMMANDS.items())))
        sys.exit(0 if name else 2)
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        print(f"error: no command {name!r}{hint}: choose one of {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)


def _run(name: str, *arguments: str) -> None:
    import tyro

    from jaxage.commands.arguments.fields import field_rules

    with field_rules(arguments):
        tyro.cli(_function(name), prog=f"jaxage {name}", args=arguments)


def _complete(arguments: Sequence[str]) -> NoReturn:
    """Print or write what completes all commands in a shell, and exit."""
    from tyro.extras import subcommand_cli_from_dict

    from jaxage.commands.arguments.fields import field_rules

    with field_rules(()):
        subcommand_cli_from_dict({name: _function(name) for name in COMMANDS}, prog="jaxage", args=arguments)
    sys.exit()


def _function(name: str) -> Callable[..., None]:
    name = name.replace("-", "_")
    function: Callable[..., None] = getattr(importlib.import_module(f"jaxage.commands.arguments.{name}"), name)
    return function


def run(*command: str) -> None:
    """`command` with the arguments of this process, which begins anew if that makes long work faster."""
    arguments = [*command, *sys.argv[1:]]
    if arguments[:1] in (["train"], ["study"], ["benchmark"]) and not {"-h", "--help"} & set(arguments):
        restart_with_huge_pages()
    try:
        main(arguments)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Python's own end is short, and Ctrl-C would break it


if __name__ == "__main__":
    run()
