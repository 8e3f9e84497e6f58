"""A forwarder on the loopback that counts what passes: bytes on the wire, TLS and Flower's own messages included."""

import asyncio
import threading


class Forwarder:
    """Stands between the sites and the server until it is closed.

    Args:
        target: port on the loopback to which everything goes.

    Attributes:
        port: where it listens.
        bytes_up: from sites to the server.
        bytes_down: from the server to sites.
    """

    def __init__(self, target: int) -> None:
        self.bytes_up = self.bytes_down = self.port = 0
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()

    def close(self) -> None:
        """End all connections."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _listen(self) -> asyncio.Server:
        server = await asyncio.start_server(self._join, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        await asyncio.gather(self._pass(reader, back, up=True), self._pass(there, writer, up=False))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, up: bool) -> None:
        try:
            while piece := await reader.read(1 << 16):
                self.bytes_up += len(piece) * up
                self.bytes_down += len(piece) * (not up)
                writer.write(piece)
                await writer.drain()
        except OSError:
            pass  # one of both has ended, which the other learns here
        finally:
            writer.close()

    async def _end(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
