"""gRPC in an event loop: one ``ModelStreamInfer`` stream for each request; see `transport_grpc`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2_grpc

from spec_cascade_client import grpc_wire
from spec_cascade_client.errors import UnavailableError
from spec_cascade_client.pump import Pump

if TYPE_CHECKING:
    from collections.abc import Mapping

    from spec_cascade_client.address import Address, Tls
    from spec_cascade_client.request import Request
    from spec_cascade_client.wire import Outputs


class AsyncGrpcTransport:
    """Sends every request on one channel, which belongs to the loop of the first."""

    def __init__(self, address: Address, model: str, headers: Mapping[str, str], tls: Tls) -> None:
        self._address = address
        self._model = model
        self._metadata = grpc_wire.metadata(headers)
        self._credentials = grpc_wire.credentials(tls) if address.encrypted else None
        self._channel: Any = None
        self._stub: Any = None
        self._pumps: WeakSet[Pump[Any]] = WeakSet()
        self._closed = False

    def send(self, request: Request) -> AsyncGrpcResponses:
        """See `AsyncTransport.send`."""
        if self._closed:
            raise UnavailableError("the client is closed")
        if self._channel is None:
            self._channel = self._open()
            self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        call = self._stub.ModelStreamInfer(iter([grpc_wire.message(self._model, request)]), metadata=self._metadata)
        pump: Pump[Any] = Pump(call, request.clock, call.cancel)
        self._pumps.add(pump)
        return AsyncGrpcResponses(self._address, pump)

    async def close(self) -> None:
        """Cancel what still runs and close the channel."""
        self._closed = True
        if self._channel is not None:
            await asyncio.gather(*(pump.ended(grpc_wire.LINGER) for pump in self._pumps if pump.is_ending))
            await self._channel.close()

    def _open(self) -> Any:
        target, options = self._address.target, grpc_wire.CHANNEL_OPTIONS
        if self._credentials is not None:
            return grpc.aio.secure_channel(target, self._credentials, options=options)
        return grpc.aio.insecure_channel(target, options=options)


class AsyncGrpcResponses:
    """The responses on one stream."""

    def __init__(self, address: Address, pump: Pump[Any]) -> None:
        self._address = address
        self._pump = pump
        self._finished = False
        self._is_whole = False

    async def receive(self) -> Outputs | None:
        """See `AsyncResponses`."""
        outputs = None
        try:
            while outputs is None and not (self._finished or self._is_whole):
                response = await self._pump.next()
                if response is None:
                    self._finished = True
                else:
                    self._is_whole = bool(response.error_message)  # comes last, too
                    outputs, self._is_whole = grpc_wire.read_outputs(response)
            if outputs is None and self._is_whole:
                await self._pump.ended(grpc_wire.LINGER)
            return outputs
        except grpc.RpcError as error:
            raise grpc_wire.failure(self._address, error) from error
        finally:
            if outputs is None:
                self.close()

    def close(self) -> None:
        """See `AsyncResponses`."""
        if not self._finished:
            self._finished = True
            self._pump.stop(after=grpc_wire.LINGER if self._is_whole else 0)
