"""``mosaic completion``: a script by which a shell completes commands, options and files.

It is written once and holds all words: a completion that asks Python at every key would import PyTorch each time.
"""

import inspect
from collections.abc import Mapping, Sequence
from pkgutil import resolve_name
from typing import Literal

from mosaic.cli.commands import ALL_OPTIONS, FUNCTIONS

Shell = Literal["bash", "zsh"]
_SCRIPT = """\
{head}# completion of mosaic, made by: mosaic completion {shell}
_mosaic() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" words
    if [ "$COMP_CWORD" -eq 1 ]; then
        words="{commands}"
    else
        case "${{COMP_WORDS[1]}}" in
{cases}
        esac
    fi
    case "$word" in
        -*|"") COMPREPLY=($(compgen -W "$words" -- "$word")) ;;
        *) [ "$COMP_CWORD" -eq 1 ] && COMPREPLY=($(compgen -W "$words" -- "$word")) || COMPREPLY=() ;;
    esac
}}
complete -o default -o bashdefault -F _mosaic mosaic"""


def completion(shell: Shell) -> str:
    """Return a script by which a shell completes the commands of mosaic, their options, and files.

    Args:
        shell: that reads it.
    """
    return completion_script(shell, _options())


def completion_script(shell: Shell, options: Mapping[str, Sequence[str]]) -> str:
    """Return the script.

    Args:
        shell: that reads it.
        options: of every command.
    """
    cases = "\n".join(f'            {command}) words="{" ".join(given)}" ;;' for command, given in options.items())
    head = "#compdef mosaic\nautoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else ""
    return _SCRIPT.format(head=head, shell=shell, commands=" ".join(options), cases=cases)


def _options() -> dict[str, list[str]]:
    """Return the options of every command."""
    from jsonargparse import ArgumentParser

    from mosaic.cli.client import add_own_arguments
    from mosaic.cli.schema import option_strings, sections_parser, trainer_settings

    sections = [option for option in option_strings(sections_parser()) if option.startswith("--")]
    trainer = [f"--trainer.{name}" for name in trainer_settings()]
    runs = sorted({"--config", "--ckpt_path", "--print_config", *sections, *trainer})
    own = ArgumentParser(add_help=False)
    add_own_arguments(own)
    return {
        **dict.fromkeys(("fit", "validate", "test", "predict"), runs),
        "partition": ["--output", *runs],
        "client": [*option_strings(own), *runs],
        **{name: _arguments(function, required=name in ALL_OPTIONS) for name, function in FUNCTIONS.items()},
    }


def _arguments(function: str, required: bool) -> list[str]:
    """Return a command's options: its optional arguments, and the required ones where these are no positions."""
    taken = inspect.signature(resolve_name(function)).parameters.values()
    named = [each for each in taken if each.kind is not each.KEYWORD_ONLY]
    return ["--help", *(f"--{each.name}" for each in named if required or each.default is not each.empty)]
