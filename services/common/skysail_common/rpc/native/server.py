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
    """A server on an engine of the native transport (see `rpc.contract.Server`)."""

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
        """Prepare a server; `bind` opens its address.

        Args:
            engine: Engine of the transport.
            num_open: Function that returns the number of calls that are in flight or unsent.
            cut_off: Function that ends all calls in flight.
            services: Full names of the services, for health.
            unary: Paths of unary calls.
            streams: Paths of streams.
            shares_port: True to share the port with other processes.
            certificates: Certificates of TLS; no TLS if None.

        Raises:
            FailedPrecondition: the engine cannot use the certificates.
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
        """Bind to an address and return the port (see `rpc.contract.Server`)."""
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
        """Do nothing, because the engine answers calls from `bind` on."""

    async def set_serving(self, is_serving: bool) -> None:
        """Set the health of the services; it stays NOT_SERVING after `stop`."""
        status = _SERVING if is_serving and not self._is_stopping else _NOT_SERVING
        for name in ("", *self._services):
            self._engine.set_health(name, status)

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, let calls in flight end within `grace_s`, and end the rest."""
        self._is_stopping = True
        await self.set_serving(False)
        self._engine.drain()
        until = MONOTONIC() + grace_s
        # The engine has no event for the end of a drain.
        while MONOTONIC() < until and self._num_open():  # noqa: ASYNC110
            await asyncio.sleep(_DRAIN_CHECK_S)
        self._cut_off()


def _tls_of(certificates: ServerCertificates) -> ServerTls:
    """Return the TLS configuration of the engine, which follows renewals of the certificates."""

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
