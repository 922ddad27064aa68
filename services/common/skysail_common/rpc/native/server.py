"""A server of the native transport."""

import asyncio
from collections.abc import Callable, Sequence

from skysail_transport import Engine, ServerTls

from skysail_common.clock import MONOTONIC
from skysail_common.errors import FailedPrecondition
from skysail_common.process.sockets import cannot_listen
from skysail_common.rpc.certificates import Pem, ServerCertificates

_SERVING = 1
_NOT_SERVING = 2
_DRAIN_CHECK_S = 0.01


class NativeServer:
    """What one engine serves on one address (see `rpc.contract.Server`)."""

    def __init__(
        self,
        engine: Engine,
        num_open: Callable[[], int],
        cut_off: Callable[[], None],
        services: Sequence[str],
        *,
        unary: Sequence[str],
        streams: Sequence[str],
        shares_port: bool = False,
        certificates: ServerCertificates | None = None,
    ) -> None:
        """Listens nowhere yet.

        Args:
            engine: Serves.
            num_open: Tells how many calls of peers are not over, down to their sockets.
            cut_off: Ends what is not over when the time to stop is.
            services: Full names of the services, for health.
            unary: Paths of unary calls.
            streams: Paths of streams.
            shares_port: True to listen beside other processes on the same port.
            certificates: What it shows, over TLS; in the clear if None.

        Raises:
            FailedPrecondition: the certificates are of no use to the engine.
        """
        self._engine = engine
        self._num_open = num_open
        self._cut_off = cut_off
        self._services = services
        self._unary = unary
        self._streams = streams
        self._shares_port = shares_port
        self._tls = _tls_of(certificates) if certificates else None
        self._is_stopping = False

    def bind(self, address: str) -> int:
        """Take an address and return the port (see `rpc.contract.Server`)."""
        for name in ("", *self._services):
            self._engine.set_health(name, _NOT_SERVING)
        try:
            return self._engine.listen(
                address,
                unary=self._unary,
                streams=self._streams,
                shares_port=self._shares_port,
                tls=self._tls,
            )
        except (OSError, ValueError) as error:
            raise cannot_listen(address) from error

    async def start(self) -> None:
        """Begin to answer calls."""

    async def set_serving(self, is_serving: bool) -> None:
        """Say by health whether the services take calls; never again once it stops."""
        status = _SERVING if is_serving and not self._is_stopping else _NOT_SERVING
        for name in ("", *self._services):
            self._engine.set_health(name, status)

    async def stop(self, grace_s: float) -> None:
        """Accept no call any more and let those under way end."""
        self._is_stopping = True
        await self.set_serving(False)
        self._engine.drain()
        until = MONOTONIC() + grace_s
        # No event tells the end of a drain, and nothing else waits for it.
        while MONOTONIC() < until and self._num_open():  # noqa: ASYNC110
            await asyncio.sleep(_DRAIN_CHECK_S)
        self._cut_off()


def _tls_of(certificates: ServerCertificates) -> ServerTls:
    """Return what shows the certificates as they are when a client connects."""

    def parts(pem: Pem) -> tuple[bytes, bytes, bytes | None]:
        return pem.chain, pem.key, pem.client_ca

    def renew() -> None:
        try:
            tls.renew(*parts(certificates.pem))
        except ValueError as error:
            raise FailedPrecondition(str(error)) from error

    try:
        tls = ServerTls(*parts(certificates.pem))
    except ValueError as error:
        raise FailedPrecondition(str(error)) from error
    certificates.on_renewal(renew)
    return tls
