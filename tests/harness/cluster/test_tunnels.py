"""SSH tunnels, with a program in the place of ssh."""

import socket
import sys
from types import SimpleNamespace

import pytest

from harness.cluster.ssh import TUNNEL_TRIES, ShellError, Tunnels

SSH = """
import pathlib, socket, sys, time
place, refusals = pathlib.Path(sys.argv[1]), int(sys.argv[2])
begun = int(place.read_text()) if place.exists() else 0
place.write_text(str(begun + 1))
if begun < refusals:
    sys.exit(255)
listeners = []
for word in sys.argv:
    if word.startswith("-L"):
        listeners.append(socket.create_server(("127.0.0.1", int(word.split(":")[1]))))
time.sleep(60)
"""


def remote(tmp_path, refusals):
    (tmp_path / "ssh.py").write_text(SSH)
    begun = tmp_path / "begun"
    command = [sys.executable, str(tmp_path / "ssh.py"), str(begun), str(refusals)]
    return SimpleNamespace(ssh=command, name="user@host"), begun


def test_a_tunnel_that_was_refused_is_opened_again(tmp_path):
    """As where another program took a port meanwhile, or a busy host dropped the connection."""
    there, begun = remote(tmp_path, refusals=TUNNEL_TRIES - 1)
    with Tunnels(there, (8265, 5000)) as tunnels:
        assert tunnels.alive() and int(begun.read_text()) == TUNNEL_TRIES
        socket.create_connection(("127.0.0.1", tunnels.ports[8265]), timeout=5).close()
    assert not tunnels.alive()


def test_a_tunnel_that_is_always_refused_is_one_line(tmp_path):
    there, begun = remote(tmp_path, refusals=99)
    with (
        pytest.raises(ShellError, match="no SSH tunnel to user@host could be opened"),
        Tunnels(there, (8265,)),
    ):
        pass
    assert int(begun.read_text()) == TUNNEL_TRIES
