"""Other processes of a run as forks of the test's own, which spares each of them ten seconds of imports.

What a fork cannot show, that the command starts from nothing, is what the slow suite shows: it runs the same tests with
programs of their own (see the fixture ``processes``).
"""

import gc
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from lightning.fabric.utilities.rank_zero import _get_rank, rank_zero_only

from mosaic.cli.main import main


class ForkedMosaic(subprocess.Popen[Any]):
    """``python -m mosaic ...`` in a fork of this process; other programs as ever."""

    def _execute_child(self, args: Sequence[str], *options: Any) -> None:
        """Fork where Popen would begin a program; what it is given here has been the same since Python 3.9."""
        command = _arguments_of_mosaic(args)
        if command is None:
            super()._execute_child(args, *options)  # type: ignore[misc]
            return
        environment, pipes = options[5], options[9:15]
        gc.collect()  # a store that an earlier test has left would wait in the fork for its thread, which no fork has
        self.pid = os.fork()
        if self.pid == 0:
            _be_mosaic(command, environment, standard=(pipes[3], pipes[5]))
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


def _arguments_of_mosaic(args: Sequence[str]) -> list[str] | None:
    """Return what mosaic is given by a command, also one of Lightning's launcher; nothing if it runs something else."""
    match list(args):
        case [sys.executable, "-m", "mosaic", *arguments]:
            return arguments
        case [sys.executable, program, *arguments] if Path(program).name == "mosaic":
            return arguments
    return None


def _be_mosaic(arguments: Sequence[str], environment: Mapping[str, str] | None, standard: Sequence[int]) -> NoReturn:
    """Run the command and leave with its exit code, without a word to the test that this process was forked from."""
    code: object = 1
    try:
        for number, pipe in enumerate(standard, 1):
            if pipe != -1:
                os.dup2(pipe, number)
        signal.set_wakeup_fd(-1)  # or the parent's number, which is another file's here
        os.closerange(3, 1024)
        sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
        sys.argv, sys.modules["__main__"].__spec__ = ["mosaic", *arguments], None
        if environment is not None:
            os.environ.clear()
            os.environ.update(environment)
        rank_zero_only.rank = _get_rank() or 0  # Lightning finds out when it is imported
        main()
        code = 0
    except SystemExit as leaving:
        code = leaving.code or 0
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)
