"""``mosaic deploy``: write one folder for the server and one for each site, with keys, scripts and settings."""

import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from mosaic.disk import make_writable
from mosaic.errors import MosaicError

_HOST = re.compile(
    r"(?=.{1,253}$)(?=.*[A-Za-z-][A-Za-z0-9-]*\.?$)(?!-)[A-Za-z0-9-]{1,63}(\.(?!-)[A-Za-z0-9-]{1,63})*\.?"
)
"""The last part has a letter or a hyphen, or it would be taken for an address."""
_MOST_DAYS = 36500
_TEMPLATES, _RELAY = Path(str(files("mosaic.deployment"))) / "templates", Path(str(files("mosaic.relay")))


@dataclass(frozen=True)
class Site:
    """One client's name, which is that of its folder, and its public key."""

    number: int
    name: str
    public_key: str


def deploy(
    config: Path,
    output: Path,
    host: str = "localhost",
    port: int = 8443,
    link_port: int = 8000,
    days: int = 730,
    *,
    require: Callable[[Path], int],
) -> Path:
    """Write a folder for the server and one for every site; its README.md says who does what in which order.

    Args:
        config: what all parties share: a configuration whose partition is ``mosaic.data.Remote``.
        output: folder to write, which must not exist.
        host: name or address under which sites reach the server.
        port: port under which sites reach the server; behind it stands the reverse proxy.
        link_port: port of Flower's SuperLink, on the server's loopback.
        days: how long the server's certificate is valid.
        require: returns how many clients a configuration has, and refuses one that could not run.

    Raises:
        MosaicError: a setting is out of its range, the configuration is none of remote clients, the folder exists, or
            the package that makes keys is missing.
    """
    _check(host, {"port": port, "link_port": link_port}, days)
    count = require(config)
    if os.path.lexists(output):
        raise MosaicError(f"output: expected a folder that does not exist yet, got {output}: choose another")
    make_writable(output.parent, "output")
    with tempfile.TemporaryDirectory(prefix=".mosaic-deploy-", dir=output.parent) as aside:
        folder = Path(aside, output.name)
        try:
            folder.mkdir()
        except OSError as error:
            why = os.strerror(error.errno or 0)
            raise MosaicError(f"output: {output} cannot be made ({why}): choose another folder") from error
        _write(folder, config, count, {"host": host, "port": port, "link_port": link_port, "days": days})
        folder.rename(output)
    return output


def _check(host: str, ports: Mapping[str, int], days: int) -> None:
    """Refuse what no certificate can hold and nobody can listen at."""
    if not _is_address(host) and not _HOST.fullmatch(host):
        raise MosaicError(
            f"--host: expected a host's name in ASCII (münchen.de is xn--mnchen-3ya.de) or its address, got {host!r}"
        )
    for name, port in ports.items():
        if not 1 <= port <= 65535:
            raise MosaicError(f"--{name}: expected a port in 1..65535, got {port}")
    if len(set(ports.values())) < len(ports):
        raise MosaicError(f"--link_port: expected another port than --port, got {ports['port']} for both")
    if not 1 <= days <= _MOST_DAYS:
        raise MosaicError(f"--days: expected 1..{_MOST_DAYS}, got {days}")


def _is_address(host: str) -> bool:
    with suppress(ValueError):
        ip_address(host)
        return True
    return False


def _write(folder: Path, config: Path, count: int, settings: Mapping[str, Any]) -> None:
    try:
        from mosaic.deployment.authority import make_node_files, make_server_files
    except ImportError as error:
        raise MosaicError("expected the package cryptography, found none: pip install cryptography") from error
    names = dict.fromkeys((settings["host"], "localhost", "127.0.0.1", "superlink"))  # the last one in compose.yaml
    server = make_server_files(list(names), settings["days"])
    sites = []
    for number in range(count):
        node = make_node_files()
        sites.append(Site(number, f"{number:02d}", node.public_key))
        place = folder / "sites" / sites[-1].name
        _render("site", place, **settings, site=sites[-1])
        _write_private(place / "node.key", node.key)
        (place / "node.pub").write_text(f"{node.public_key}\n")
        (place / "ca.crt").write_bytes(server.authority)
        shutil.copyfile(config, place / "federation.yaml")
    place = folder / "server"
    _render("server", place, **settings, sites=sites)
    _write_private(place / "server.key", server.key)
    (place / "server.crt").write_bytes(server.certificate)
    (place / "ca.crt").write_bytes(server.authority)
    shutil.copyfile(config, place / "federation.yaml")
    (place / "keys").mkdir()
    for site in sites:
        (place / "keys" / f"{site.name}.pub").write_text(f"{site.public_key}\n")
    for module in ("__init__", "frames", "apps"):
        shutil.copyfile(_RELAY / f"{module}.py", _made(place / "app" / "relay") / f"{module}.py")
    _render(".", folder, **settings, sites=sites)


def _render(group: str, place: Path, **known: Any) -> None:
    """Write every template of a folder, and of those below a part's; scripts may be run."""
    root = _TEMPLATES / group
    environment = Environment(
        loader=FileSystemLoader(root), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    found = root.glob("*.j2") if group == "." else root.rglob("*.j2")
    for template in sorted(found):
        relative = template.relative_to(root)
        target = place / relative.with_suffix("")
        _made(target.parent)
        target.write_text(environment.get_template(relative.as_posix()).render(**known))
        if target.suffix == ".sh":
            target.chmod(0o755)


def _write_private(path: Path, data: bytes) -> None:
    path.touch(mode=stat.S_IRUSR | stat.S_IWUSR)
    path.write_bytes(data)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
