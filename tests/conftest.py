"""What all tests share: no network, one torch thread, and the folder of public example data."""

import os

# Before any test module imports torch or a hub client: both read these once, when they are imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import ipaddress
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent

pytest_plugins = ("tests.fixtures",)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of public example data: PATHLOOM_DATA, or `../shared/data` beside the repository."""
    folder = Path(os.environ.get("PATHLOOM_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no example data at {folder}: set PATHLOOM_DATA to the folder that holds it")
    return folder


class NetworkUseError(AssertionError):
    """A test tried to leave this machine."""


def _is_local(host: object) -> bool:
    if isinstance(host, bytes):
        host = host.decode()
    # No host means this machine, both to bind to and to look up.
    if host in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(str(host).partition("%")[0]).is_loopback
    except ValueError:
        return False


def _refuse_unless_local(host: object) -> None:
    if not _is_local(host):
        raise NetworkUseError(f"tests must not reach the network, and this one tried {host!r}")


@pytest.fixture(autouse=True)
def no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Refuse connections and name look-ups beyond this machine, except in a test marked `network`.

    Sockets inside this process only: a test that starts another program answers for that program.
    """
    if request.node.get_closest_marker("network"):
        yield
        return

    def guard_method(name: str, address_at: int) -> None:
        real = getattr(socket.socket, name)

        def guarded(self: socket.socket, *arguments: Any) -> Any:
            if self.family in (socket.AF_INET, socket.AF_INET6):
                _refuse_unless_local(arguments[address_at][0])
            return real(self, *arguments)

        monkeypatch.setattr(socket.socket, name, guarded)

    guard_method("connect", 0)
    guard_method("connect_ex", 0)
    guard_method("sendto", -1)

    real_getaddrinfo = socket.getaddrinfo

    def guarded_getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        _refuse_unless_local(host)
        return real_getaddrinfo(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", guarded_getaddrinfo)
    yield
