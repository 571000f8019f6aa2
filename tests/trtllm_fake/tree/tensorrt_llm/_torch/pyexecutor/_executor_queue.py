"""What comes to the loop and what goes from it: a part of `PyExecutor`."""

from __future__ import annotations

import queue
import threading
from collections import deque
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

from tensorrt_llm._torch.pyexecutor.llm_request import LlmRequest, LlmResponse, executor_request_to_llm_request
from tensorrt_llm.bindings.executor import FinishReason
from tests.trtllm_fake.stage import current

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tensorrt_llm.bindings.executor import Request

STEPS_OF_A_HANG = 10_000


@dataclass
class RequestQueueItem:
    """A request, a request to cancel one, or neither: the end."""

    id: int
    request: Request | None = None
    child_req_ids: Sequence[int] = ()
    is_canceled_request: bool = False


class ExecutorQueue:
    """See the module."""

    max_num_sequences: int
    active_requests: list[LlmRequest]
    loop_error: BaseException | None

    def _open(self) -> None:
        self._incoming: queue.Queue[RequestQueueItem] = queue.Queue()
        self._ids = count(1)
        self.waiting_queue: deque[RequestQueueItem] = deque()
        self.canceled_req_ids: list[int] = []
        self.responses: dict[int, list[LlmResponse]] = {}
        self.response_cv = threading.Condition()
        self.is_shutdown = False
        self.worker_thread: threading.Thread | None = None

    # Anybody's.

    def enqueue_requests(self, requests: Sequence[Request]) -> list[int]:
        """Queue requests; returns their ids."""
        return [self.enqueue_request(request) for request in requests]

    def enqueue_request(self, request: Request, query: Any = None) -> int:
        """Queue a request; returns its id."""
        self._raise_loop_error()
        further = (request.sampling_config.num_return_sequences or 1) - 1
        item = RequestQueueItem(next(self._ids), request, [next(self._ids) for _ in range(further)])
        with self.response_cv:
            self.responses.setdefault(item.id, [])
        self._incoming.put(item)
        return item.id

    def cancel_request(self, id: int) -> None:  # noqa: A002
        """Ask to drop a request, after the round that runs."""
        self._incoming.put(RequestQueueItem(id, is_canceled_request=True))

    def await_responses(self, id: int | None = None, timeout: float | None = None) -> list[LlmResponse]:  # noqa: A002
        """Wait for responses to a request, or to any."""
        if not current().threaded:
            return self._await_by_hand(id)
        with self.response_cv:
            self.response_cv.wait_for(lambda: self._has_arrived(id) or self.loop_error is not None, timeout)
            return self._take(id)

    def start_worker(self) -> None:
        """Run the loop; where tests step it, they do."""
        if self.worker_thread is None and current().threaded:
            self.worker_thread = threading.Thread(target=self._event_loop_wrapper, daemon=True)
            self.worker_thread.start()

    def shutdown(self) -> None:
        """End what is left, then the loop."""
        self._incoming.put(RequestQueueItem(-1))
        if self.worker_thread is not None:
            self.worker_thread.join()
        elif not current().threaded:
            self._event_loop_wrapper()

    # The loop's.

    def _fetch_and_activate_new_requests(self) -> None:
        """What has come; with nothing to do it waits for something."""
        idle = not self.active_requests and not self.waiting_queue and not self.is_shutdown
        items = [self._incoming.get()] if idle and current().threaded else []
        while not self._incoming.empty():
            items.append(self._incoming.get())
        for item in items:
            if item.is_canceled_request:
                self.canceled_req_ids.append(item.id)
            elif item.request is None:
                self.is_shutdown = True
            else:
                self.waiting_queue.append(item)
        while self.waiting_queue:
            item = self.waiting_queue[0]
            if len(self.active_requests) + 1 + len(item.child_req_ids) > self.max_num_sequences:
                break
            self.waiting_queue.popleft()
            assert item.request is not None
            request = executor_request_to_llm_request(item.id, item.request, item.child_req_ids, False)
            self.active_requests += [request, *request.child_requests]

    def _handle_canceled_requests(self) -> None:
        if not self.canceled_req_ids:
            return
        ids = set(self.canceled_req_ids)
        for item in [item for item in self.waiting_queue if item.id in ids]:
            # Nobody is told.
            self.waiting_queue.remove(item)
        for request in self.active_requests:
            if (request.parent_request_id if request.is_child else request.py_request_id) in ids:
                request.finish_by_reason(FinishReason.CANCELLED)
                request.decoding_iter = request.py_decoding_iter
        self.canceled_req_ids.clear()

    def _enqueue_responses(self, responses: Sequence[tuple[int, LlmResponse]]) -> None:
        with self.response_cv:
            for request_id, response in responses:
                self.responses.setdefault(request_id, []).append(response)
            self.response_cv.notify_all()

    def _has_arrived(self, request_id: int | None) -> bool:
        if request_id is not None:
            return bool(self.responses.get(request_id))
        return any(self.responses.values())

    def _take(self, request_id: int | None) -> list[LlmResponse]:
        ids = list(self.responses) if request_id is None else [request_id]
        taken = [response for i in ids for response in self.responses.pop(i, [])]
        if not taken:
            self._raise_loop_error()
        return taken

    def _await_by_hand(self, request_id: int | None) -> list[LlmResponse]:
        for _ in range(STEPS_OF_A_HANG):
            if self._has_arrived(request_id) or self.loop_error is not None:
                return self._take(request_id)
            self.step()  # type: ignore[attr-defined]
        raise RuntimeError(f"no response came within {STEPS_OF_A_HANG} rounds")

    def _raise_loop_error(self) -> None:
        if self.loop_error is not None:
            raise self.loop_error

    def _event_loop_wrapper(self) -> None:
        try:
            self._executor_loop()  # type: ignore[attr-defined]
        except BaseException as error:  # the real one's thread dies of it too
            with self.response_cv:
                self.loop_error = error
                self.response_cv.notify_all()
