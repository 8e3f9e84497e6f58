"""Stands for the command ``flwr`` and for the ServerApp that it starts; ``FAKE_FLWR`` names what goes wrong.

Usage: ``fake_flwr.py run APP FEDERATION --run-config 'socket="..."'``
"""

import json
import os
import socket
import sys
from pathlib import Path

from mosaic.relay.frames import receive_frame, send_frame

MOST = 1 << 20


def main() -> None:
    mode = os.environ["FAKE_FLWR"]
    with Path(os.environ["FAKE_FLWR_LOG"]).open("a") as log:
        log.write(json.dumps([sys.argv[1:], {k: v for k, v in os.environ.items() if k.startswith("FLWR_")}]) + "\n")
    if mode == "refuses":
        sys.stderr.write("Loading\n╭─ Error ───────╮\n│ the SuperLink │\n│ is away       │\n╰───────────────╯\n")
        sys.exit(1)
    if mode == "never connects" or os.fork() != 0:
        os._exit(0)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(sys.argv[-1].removeprefix('socket="').removesuffix('"'))
        serve(connection)


def serve(connection: socket.socket) -> None:
    """Answer every message with its bytes reversed; ``die`` ends the connection, ``error`` is answered with one."""
    sent: dict[str, bytes] = {}
    while True:
        try:
            call = json.loads(receive_frame(connection, MOST))
        except ConnectionError:
            return
        frames: list[bytes] = []
        match call["call"]:
            case "nodes":
                answer: object = [[7, "ecdsa-sha2-nistp384 AAAA"], [8, ""]]
            case "push":
                data = receive_frame(connection, MOST)
                answer = [str(len(sent)) if call["node"] == 7 else None]
                sent[str(len(sent))] = data
            case "pull":
                if any(sent[number] == b"die" for number in call["numbers"]):
                    return
                answer = [[number, "broken" if sent[number] == b"error" else ""] for number in call["numbers"]]
                frames = [sent[number][::-1] for number in call["numbers"] if sent[number] != b"error"]
        send_frame(connection, json.dumps(answer).encode())
        for frame in frames:
            send_frame(connection, frame)


if __name__ == "__main__":
    main()
