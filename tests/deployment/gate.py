"""A reverse proxy like that of nginx.conf: it passes on Flower's Fleet API, and nothing else.

Usage: ``gate.py PORT LINK_PORT FOLDER``, of which the last is that of the server.
"""

import ssl
import sys
from pathlib import Path

HOP = ("host", "content-length", "content-encoding", "transfer-encoding", "connection")


def main(port: int, link_port: int, server: Path) -> None:
    import httpx
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    trust = ssl.create_default_context(cafile=server / "ca.crt")
    link = httpx.AsyncClient(base_url=f"https://localhost:{link_port}", verify=trust, timeout=None)

    async def forward(request: Request) -> Response:
        headers = {name: value for name, value in request.headers.items() if name not in HOP}
        found = await link.post(request.url.path, content=await request.body(), headers=headers)
        headers = {name: value for name, value in found.headers.items() if name not in HOP}
        return Response(found.content, found.status_code, headers)

    uvicorn.run(
        Starlette(routes=[Route("/v1/fleet/{rest:path}", forward, methods=["POST"])]),
        **{"host": "127.0.0.1", "port": port, "log_level": "warning"},
        **{"ssl_certfile": server / "server.crt", "ssl_keyfile": server / "server.key"},
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
