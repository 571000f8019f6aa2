"""gRPC: one ``ModelStreamInfer`` stream for each request.

The calls go through the generated stub of tritonclient. `tritonclient.grpc.InferenceServerClient` allows one
stream at a time for each client, and leaves a thread behind for each stream that is cancelled; the stub has
neither fault, so that one channel carries any number of requests.
"""

from __future__ import annotations

import threading
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import grpc
from tritonclient.grpc import service_pb2_grpc

from spec_cascade_client import grpc_wire
from spec_cascade_client.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from spec_cascade_client.address import Address, Tls
    from spec_cascade_client.clock import Clock
    from spec_cascade_client.request import Request
    from spec_cascade_client.wire import Outputs


class GrpcTransport:
    """Sends every request on one channel."""

    def __init__(self, address: Address, model: str, headers: Mapping[str, str], tls: Tls) -> None:
        self._address = address
        self._model = model
        self._metadata = grpc_wire.metadata(headers)
        self._channel = (
            grpc.secure_channel(address.target, grpc_wire.credentials(tls), options=grpc_wire.CHANNEL_OPTIONS)
            if address.encrypted
            else grpc.insecure_channel(address.target, options=grpc_wire.CHANNEL_OPTIONS)
        )
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def send(self, request: Request) -> GrpcResponses:
        """See `Transport.send`."""
        messages = iter([grpc_wire.message(self._model, request)])
        try:
            call = self._stub.ModelStreamInfer(messages, metadata=self._metadata)
        except ValueError as error:  # what grpc raises on a closed channel
            raise UnavailableError("the client is closed") from error
        return GrpcResponses(self._address, call, request.clock)

    def close(self) -> None:
        """Cancel what still runs and close the channel."""
        self._channel.close()


class GrpcResponses:
    """The responses on one stream.

    gRPC's own iterator waits without a limit; a thread drains it into a queue, and the queue is waited on.
    """

    def __init__(self, address: Address, call: Any, clock: Clock) -> None:
        self._address = address
        self._call = call
        self._clock = clock
        self._finished = False
        self._is_whole = False
        self._ended = threading.Event()
        self._queue: SimpleQueue[Any] = SimpleQueue()
        threading.Thread(target=self._drain, name="spec-cascade-client", daemon=True).start()

    def receive(self) -> Outputs | None:
        """See `Responses`."""
        outputs = None
        try:
            while outputs is None and not (self._finished or self._is_whole):
                response = self._next()
                if response is None:
                    self._finished = True
                else:
                    self._is_whole = bool(response.error_message)  # comes last, too
                    outputs, self._is_whole = grpc_wire.read_outputs(response)
            return outputs
        finally:
            if outputs is None:
                self.close()

    def close(self) -> None:
        """See `Responses`."""
        if not self._finished:
            self._finished = True
            if not (self._is_whole and self._ended.wait(grpc_wire.LINGER)):
                self._call.cancel()

    def _drain(self) -> None:
        try:
            for response in self._call:
                self._queue.put(response)
            self._queue.put(None)
        except grpc.RpcError as error:
            self._queue.put(error)
        finally:
            self._ended.set()

    def _next(self) -> Any:
        try:
            item = self._queue.get(timeout=self._clock.wait())
        except Empty:
            raise self._clock.expired() from None
        if isinstance(item, grpc.RpcError):
            raise grpc_wire.failure(self._address, item) from item
        return item
