"""TLS on top of a :class:`Wire`, so that what was peeked at is not lost."""

from __future__ import annotations

import asyncio
import functools
import ssl

from thopter.gateway.connection import ClientGone, Wire

_PIECE = 64 * 1024
_PENDING_MAX = 256 * 1024


class TlsWire(Wire):
    """The plain side of a TLS connection whose bytes go over ``under`` (which is ours from now on)."""

    def __init__(self, under: Wire, context: ssl.SSLContext, *, server_name: str | None = None) -> None:
        super().__init__()
        self._under = under
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._in, self._out, server_side=server_name is None, server_hostname=server_name
        )
        self._ended = False
        under.on_gone = self._is_gone
        if under.gone:
            self.gone = True

    async def handshake(self, seconds: float) -> None:
        """Shake hands; raises ssl.SSLError, TimeoutError or ClientGone."""
        async with asyncio.timeout(seconds):
            while True:
                self._feed()
                try:
                    self._tls.do_handshake()
                except ssl.SSLWantReadError:
                    await self._flush(seconds)
                    await self._under.more(seconds)
                    continue
                except ssl.SSLError:
                    await self._flush(1.0)  # the alert says why
                    raise
                await self._flush(seconds)
                return

    async def more(self, seconds: float) -> None:
        """See Wire."""
        async with asyncio.timeout(seconds):
            while True:
                self._feed()
                if self._decrypt():
                    return
                if self._ended:
                    raise ClientGone
                await self._flush(seconds)
                await self._under.more(seconds)

    def _feed(self) -> None:
        if self._under.buffer:
            self._in.write(bytes(self._under.buffer))
            self._under.buffer.clear()

    def _decrypt(self) -> bool:
        """Move what can be read to the buffer; False when there was nothing."""
        before = len(self.buffer)
        try:
            while len(self.buffer) < _PENDING_MAX:
                piece = self._tls.read(_PIECE)
                if not piece:
                    self._ended = True
                    break
                self.buffer += piece
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:  # the end of the stream, or bytes that don't belong to it
            self._ended = True
        if self._ended:
            self._is_gone()
        return len(self.buffer) > before

    async def _flush(self, seconds: float) -> None:
        data = self._out.read()
        if data:
            await self._under.write(data, seconds)

    async def write(self, data: bytes, seconds: float) -> None:
        """See Wire."""
        for at in range(0, len(data), _PIECE):
            try:
                self._tls.write(data[at : at + _PIECE])
            except ssl.SSLError:
                raise ClientGone from None
            await self._flush(seconds)

    async def end_writing(self) -> None:
        """See Wire: the end is said inside TLS, then outside."""
        self._goodbye()
        await self._flush(5.0)
        await self._under.end_writing()

    def _goodbye(self) -> None:
        try:
            self._tls.unwrap()
        except (ssl.SSLError, ValueError):
            return  # it waits for the other side's goodbye, or there is nothing to end

    def abort(self) -> None:
        """See Wire."""
        self._under.abort()

    async def close(self, linger: float, flush: float) -> None:
        """See Wire."""
        self._goodbye()
        try:
            await self._flush(flush)
        except ClientGone:
            return
        await self._under.close(linger, flush)


@functools.cache
def upstream_context() -> ssl.SSLContext:
    """A verifying client context: the system's (or ``SSL_CERT_FILE``'s) trust, HTTP/1.1 only."""
    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    if not (paths.cafile or paths.capath):  # a Python that does not know where the system has it
        import certifi

        context.load_verify_locations(certifi.where())
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context
