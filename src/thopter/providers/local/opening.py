"""Opening a gateway's listening socket in the present network namespace."""

from __future__ import annotations

import socket


def listen_here(port: int) -> socket.socket:
    """Open a listening socket on the loopback (``port`` 0: any free one).

    SO_REUSEPORT: when the zygote that held it died, a new one can open its like while an old
    gateway still holds the first. A box can't join in: that takes the same outer uid.
    """
    s = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    s.bind(("127.0.0.1", port))
    s.listen(128)
    return s
