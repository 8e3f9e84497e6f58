"""What ``mosaic deploy`` writes."""

import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
)

from mosaic import relay
from mosaic.cli.main import main
from mosaic.deployment import deploy as module
from mosaic.deployment.trial import CONFIG
from mosaic.errors import MosaicError
from tests.small_runs import parsed

deploy = partial(module.deploy, require=lambda _: 3)
RELAY = {"__init__.py", "apps.py", "frames.py"}
SITE = {
    *("ca.crt", "client.sh", "federation.yaml", "mosaic-client.service", "mosaic-supernode.service"),
    *("node.key", "node.pub", "settings.sh", "supernode.sh"),
}
SERVER = {
    *("app", "ca.crt", "executor.yaml", "federation.yaml", "fit.sh", "keys", "mosaic-superlink.service"),
    *("nginx.conf", "register.sh", "roster.yaml", "server.crt", "server.key", "settings.sh", "superlink.sh"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return deploy(CONFIG, tmp_path_factory.mktemp("deploy") / "federation", host="link.example.org", port=7443)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def public_line(key: "x509.base.CertificatePublicKeyTypes") -> str:
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def test_every_party_has_its_folder_and_nobody_images(folder: Path) -> None:
    assert names(folder) == {"README.md", "compose.yaml", "server", "sites"}
    assert names(folder / "server") == SERVER
    assert names(folder / "server" / "app") == {"pyproject.toml", "relay"}
    assert names(folder / "sites") == {"00", "01", "02"}
    assert all(names(folder / "sites" / name) == SITE for name in ("00", "01", "02"))
    for copy in folder.rglob("federation.yaml"):
        assert copy.read_text() == CONFIG.read_text()


def test_a_missing_package_is_named_and_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "mosaic.deployment.authority", raising=False)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(MosaicError, match="expected the package cryptography, found none: pip install cryptography"):
        deploy(CONFIG, tmp_path / "federation")
    assert list(tmp_path.iterdir()) == []


def test_private_keys_are_for_their_owner_alone_and_scripts_can_be_run(folder: Path) -> None:
    modes = {str(path.relative_to(folder)): path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()}
    assert {modes[f"sites/{name}/node.key"] for name in ("00", "01", "02")} == {0o600}
    assert modes["server/server.key"] == 0o600
    assert all(mode & 0o111 for name, mode in modes.items() if name.endswith(".sh"))
    holders = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if is_private(path)}
    assert holders == {"server/server.key", *(f"sites/{name}/node.key" for name in ("00", "01", "02"))}


def is_private(path: Path) -> bool:
    return path.is_file() and "PRIVATE KEY" in path.read_text()


def test_the_roster_names_the_key_that_each_site_has(folder: Path) -> None:
    roster = yaml.safe_load((folder / "server" / "roster.yaml").read_text())
    keys = [(folder / "sites" / name / "node.key").read_bytes() for name in ("00", "01", "02")]
    own = [public_line(load_ssh_private_key(key, None).public_key()) for key in keys]
    assert roster == dict(enumerate(own))
    assert len(set(own)) == 3
    for number, line in roster.items():
        assert line.startswith("ecdsa-sha2-nistp384 ")
        for copy in (f"server/keys/{number:02d}.pub", f"sites/{number:02d}/node.pub"):
            assert (folder / copy).read_text() == f"{line}\n"


def test_the_server_is_certified_by_the_authority_that_sites_have(folder: Path) -> None:
    server = folder / "server"
    authority, certificate = (
        x509.load_pem_x509_certificate((server / name).read_bytes()) for name in ("ca.crt", "server.crt")
    )
    certificate.verify_directly_issued_by(authority)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["link.example.org", "localhost", "superlink"]
    key = load_pem_private_key((server / "server.key").read_bytes(), None)
    assert public_line(key.public_key()) == public_line(certificate.public_key())
    assert (certificate.not_valid_after_utc - certificate.not_valid_before_utc).days == 730
    assert {path.read_bytes() for path in folder.rglob("ca.crt")} == {(server / "ca.crt").read_bytes()}


def test_the_bundle_is_the_package_s_own_relay(folder: Path) -> None:
    bundle, own = folder / "server" / "app" / "relay", Path(relay.__file__).parent
    assert names(bundle) == RELAY
    assert all((bundle / name).read_text() == (own / name).read_text() for name in RELAY)


def test_what_is_written_can_be_read(folder: Path) -> None:
    for script in folder.rglob("*.sh"):
        subprocess.run(["bash", "-n", script], check=True)
    services = yaml.safe_load((folder / "compose.yaml").read_text())["services"]
    assert services.keys() == {
        "superlink",
        "proxy",
        "fit",
        *(f"{p}-0{n}" for p in ("client", "node") for n in range(3)),
    }
    assert services["client-01"]["network_mode"] == "none"
    executor = yaml.safe_load((folder / "server" / "executor.yaml").read_text())["executor"]
    assert executor["class_path"].endswith("FlowerExecutor")
    assert "link.example.org:7443" in (folder / "sites" / "01" / "settings.sh").read_text()
    assert "--client 1 " in (folder / "sites" / "01" / "client.sh").read_text()


def test_the_server_s_scripts_name_a_run_over_flower(folder: Path) -> None:
    server = folder / "server"
    config = parsed(server / "federation.yaml", server / "executor.yaml")
    assert config["executor"]["class_path"] == "mosaic.executors.FlowerExecutor"
    settings = config["executor"]["init_args"]
    assert {key: settings[key] for key in ("app", "flower_home", "federation", "roster")} == {
        **{"app": "app", "flower_home": "home"},
        **{"federation": "mosaic", "roster": "roster.yaml"},
    }


def test_client_and_node_are_two_users_and_nodes_come_back_later(folder: Path) -> None:
    client, node = (
        (folder / "sites" / "00" / f"mosaic-{unit}.service").read_text().splitlines()
        for unit in ("client", "supernode")
    )
    assert "User=mosaic-client" in client
    assert "PrivateNetwork=yes" in client
    assert "User=mosaic-node" in node
    assert "RestartSec=75" in node


def test_the_proxy_publishes_the_fleet_alone(folder: Path) -> None:
    lines = [line.strip() for line in (folder / "server" / "nginx.conf").read_text().splitlines()]
    assert [line for line in lines if line.startswith("location")] == [
        "location /v1/fleet/ {",
        "location / { return 404; }",
    ]


def test_a_folder_inside_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(MosaicError, match=r"output: .*file cannot be written to \(.*\): choose another folder"):
        deploy(CONFIG, tmp_path / "file" / "there")


def test_names_that_no_folder_can_have_are_refused_before_keys_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")
    monkeypatch.setattr(module, "_write", lambda *_: pytest.fail("keys are made"))
    for name, told in (("dangling", "does not exist yet"), ("a" * 300, r"cannot be made \(File name too long\)")):
        with pytest.raises(MosaicError, match=f"output: .*{told}"):
            deploy(CONFIG, tmp_path / name)
    assert names(tmp_path) == {"dangling"}


def test_a_folder_may_have_a_long_name(tmp_path: Path) -> None:
    assert names(deploy(CONFIG, tmp_path / ("a" * 250))) == {"README.md", "compose.yaml", "server", "sites"}


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(MosaicError, match="output: expected a folder that does not exist yet"):
        deploy(CONFIG, tmp_path / "there")
    assert names(tmp_path) == {"there"}
    assert names(tmp_path / "there") == set()


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ({"host": "münchen.de"}, "--host: expected a host's name in ASCII"),
        *(({"host": host}, "--host: expected a host's name") for host in ("300.300.300.300", "0x7f.1", "1.2.3.4.")),
        ({"host": ""}, "--host: expected"),
        ({"host": "a_b.de/x"}, "--host: expected"),
        ({"host": 64 * "a" + ".de"}, "--host: expected"),
        ({"port": 0}, r"--port: expected a port in 1\.\.65535, got 0"),
        ({"link_port": 999999}, "--link_port: expected a port"),
        ({"link_port": 8443}, "--link_port: expected another port than --port"),
        ({"days": -1}, r"--days: expected 1\.\."),
        ({"days": 100_000_000}, r"--days: expected 1\.\."),
    ],
)
def test_what_no_certificate_can_hold_is_refused(setting: dict[str, Any], expected: str, tmp_path: Path) -> None:
    with pytest.raises(MosaicError, match=expected):
        deploy(CONFIG, tmp_path / "new", **setting)
    assert names(tmp_path) == set()


@pytest.mark.parametrize("host", [f"{60 * 'a'}.{60 * 'b'}.example.org", "10.1.2.3", "fd00::1"])
def test_long_names_and_addresses_are_certified(host: str, tmp_path: Path) -> None:
    written = deploy(CONFIG, tmp_path / "new", host)
    certificate = x509.load_pem_x509_certificate((written / "server" / "server.crt").read_bytes())
    named = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert host in [str(name.value) for name in named]
    proxy = (written / "server" / "nginx.conf").read_text().splitlines()
    listens = [line.strip() for line in proxy if "listen" in line]
    assert listens == ["listen 8443 ssl;", *(["listen [::]:8443 ssl;"] if ":" in host else [])]
    assert f"https://[{host}]:8443/" in (written / "README.md").read_text() or ":" not in host


def test_nothing_is_left_behind_on_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_write_private", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        deploy(CONFIG, tmp_path / "new")
    assert names(tmp_path) == set()


def test_it_is_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["deploy", f"--config={CONFIG}", f"--output={tmp_path / 'new'}"])
    assert capsys.readouterr().out == f"Written: {tmp_path / 'new'}\n"
