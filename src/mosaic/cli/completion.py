"""``mosaic completion``: a script by which a shell completes commands, options and files.

It is written once and holds all words: a completion that asks Python at every key would import PyTorch each time.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

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

    from mosaic.cli.audit import audit
    from mosaic.cli.client import add_own_arguments
    from mosaic.cli.configs import configs
    from mosaic.cli.schema import option_strings, schema, sections_parser, trainer_settings
    from mosaic.comparison.command import compare_algorithms
    from mosaic.deployment.deploy import deploy
    from mosaic.report.export import export
    from mosaic.report.html import report

    sections = [option for option in option_strings(sections_parser()) if option.startswith("--")]
    trainer = [f"--trainer.{name}" for name in trainer_settings()]
    runs = sorted({"--config", "--ckpt_path", "--print_config", *sections, *trainer})
    own = ArgumentParser(add_help=False)
    add_own_arguments(own)
    functions: dict[str, Callable[..., object]] = {
        "compare": compare_algorithms,
        "audit": audit,
        "report": report,
        "deploy": deploy,
        "export": export,
        "configs": configs,
        "schema": schema,
        "completion": completion,
    }
    return {
        **dict.fromkeys(("fit", "validate", "test", "predict"), runs),
        "partition": ["--output", *runs],
        "client": [*option_strings(own), *runs],
        **{name: _arguments(function) for name, function in functions.items()},
    }


def _arguments(function: Callable[..., object]) -> list[str]:
    taken = inspect.signature(function).parameters.values()
    return ["--help", *(f"--{each.name}" for each in taken if each.default is not each.empty)]
