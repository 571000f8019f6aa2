"""A `tritonserver` process that serves one engine directory: start, wait until ready, stop, leave nothing behind."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import subprocess
import sys
import time
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

from spec_cascade.engines.manifest import Manifest
from spec_cascade.errors import ConfigError
from spec_cascade.serving import leftovers
from spec_cascade.serving.errors import LaunchError
from spec_cascade.serving.installation import Installation, find_installation
from spec_cascade.serving.ports import resolve_ports
from spec_cascade.serving.repository import ENGINE_DIR_VARIABLE, POLICY_VARIABLE, find_model_repository
from spec_cascade.serving.server_log import ServerLog

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
START_TIMEOUT_SECONDS = 600.0
"""How long models may take to load."""
DRAIN_SECONDS = 10
"""How long the server waits for requests in flight when it is told to stop."""
_KILL_AFTER_SECONDS = DRAIN_SECONDS + 15
_POLL_SECONDS = 0.1
_GPU_DEVICE = Path("/dev/nvidiactl")

# Endpoints that change a running server; a random key that nobody knows closes them.
_ADMIN_ENDPOINTS = "shared-memory,model-repository,trace,logging"

# The server reads JSON recursively: a body that nests deeper than a thread's stack, by default 8 MiB, kills it.
_STACK_BYTES = 64 * 2**20

# Runs in a fresh interpreter between us and the server: asks the kernel to stop the server when we die, sets the size
# of its threads' stacks, then becomes the server. (A `preexec_fn` would run in a fork of this process, which is unsafe
# beside threads.)
_BOUND_TO_PARENT = """
import ctypes, os, resource, signal, sys
parent, stack, *command = sys.argv[1:]
ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
_, most = resource.getrlimit(resource.RLIMIT_STACK)
wanted = int(stack) if most == resource.RLIM_INFINITY else min(int(stack), most)
resource.setrlimit(resource.RLIMIT_STACK, (wanted, most))
if os.getppid() == int(parent):
    os.execv(command[0], command)
"""


class _AbortedError(LaunchError):
    """The server aborted before it was ready."""


class TritonServer:
    """A running server; use as a context manager, or call `start` and `stop`.

    Start it from a thread that lives as long as the server: the kernel stops the server when the thread that started
    it ends.

    Args:
        engine_dir: A directory that `spec-cascade build` wrote.
        http_port: 0 takes a free one; so for the other ports.
        grpc_port: Port of the gRPC endpoint.
        metrics_port: Port of the Prometheus endpoint.
        host: Address on which HTTP and gRPC listen.
        metrics_host: Address on which the Prometheus endpoint listens.
        policy_file: What requests may ask for (see `serving.policy`); by default the environment variable
            SPEC_CASCADE_POLICY names it, and without one everything is allowed.
        model_repository: Where the models are; by default the one that comes with this package.
        log_file: Where the server's log is appended; errors quote its end in any case.
        echo_log: Also write the log to standard error: what comes after the start, for a failed start raises an error
            that says why; with ``verbose`` all of it.
        verbose: Log what the server does, not only what goes wrong.
    """

    def __init__(
        self,
        engine_dir: Path,
        *,
        http_port: int = 0,
        grpc_port: int = 0,
        metrics_port: int = 0,
        host: str = LOOPBACK,
        metrics_host: str = LOOPBACK,
        policy_file: Path | None = None,
        model_repository: Path | None = None,
        log_file: Path | None = None,
        echo_log: bool = False,
        verbose: bool = False,
    ) -> None:
        self._engine_dir = Path(engine_dir)
        self._hosts = {"http_port": host, "grpc_port": host, "metrics_port": metrics_host}
        self._wanted_ports = {"http_port": http_port, "grpc_port": grpc_port, "metrics_port": metrics_port}
        self._ports = dict(self._wanted_ports)
        self._policy_file = policy_file
        self._model_repository = model_repository
        self._log_file = log_file
        self._echo_log = echo_log
        self._verbose = verbose
        self._process: subprocess.Popen[bytes] | None = None
        self._log: ServerLog | None = None
        self._run = leftovers.new_run()

    @property
    def http_url(self) -> str:
        """``http://host:port`` for clients on this machine."""
        return f"http://{self._address('http_port')}"

    @property
    def grpc_url(self) -> str:
        """``grpc://host:port``; tritonclient wants the part after the scheme."""
        return f"grpc://{self._address('grpc_port')}"

    @property
    def metrics_url(self) -> str:
        """Where Prometheus scrapes."""
        return f"http://{self._address('metrics_port')}/metrics"

    @property
    def pid(self) -> int | None:
        """Process id of the server, while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self, timeout: float = START_TIMEOUT_SECONDS) -> None:
        """Start the server and wait until every model is ready.

        Args:
            timeout: Seconds until that must be so.

        Raises:
            ConfigError: A port is taken, there is no such policy, or the log cannot be written.
            EngineError: There is no finished engine in the directory.
            LaunchError: Something is missing, or the server died or did not become ready.
        """
        if self._process is not None:
            raise LaunchError("this server has been started already")
        Manifest.read(self._engine_dir)
        if self._log_file is not None and not os.access(self._log_file.absolute().parent, os.W_OK):
            raise ConfigError("log_file", str(self._log_file), "a file in a directory that can be written to")
        if self._policy_file is not None and not self._policy_file.is_file():
            raise ConfigError("policy", str(self._policy_file), "a file")
        repository = find_model_repository(self._model_repository)
        self._ports = resolve_ports(self._hosts, self._wanted_ports)
        leftovers.remove_stale()
        deadline = time.monotonic() + timeout
        try:
            self._launch(repository, deadline)
        except _AbortedError as error:
            # Of some hundred starts on a busy machine, two ended in the Python backend with boost's lock_exception.
            log.warning("tritonserver aborted while it loaded the models, and is started once more: %s", error)
            self._launch(repository, deadline)

    def _launch(self, repository: Path, deadline: float) -> None:
        try:
            installation = find_installation(leftovers.make_directory(self._run))
            self._process = self._spawn(installation, repository)
            assert self._process.stdout is not None
            self._log = ServerLog(self._process.stdout, self._log_file, echo=self._echo_log and self._verbose)
            self._wait_until_ready(deadline)
            self._log.echo = self._echo_log
        except BaseException:
            self.stop()
            raise

    def wait(self) -> None:
        """Block until the server ends.

        Raises:
            LaunchError: It was not told to.
        """
        if self._process is not None and self._process.wait() not in (0, -signal.SIGTERM):
            raise LaunchError(self._failure())

    def stop(self) -> None:
        """Stop the server: requests in flight get a few seconds. Idempotent."""
        if self._process is not None:
            self._end(self._process)
            self._process = None
        if self._log is not None:
            self._log.close()
            self._log = None
        leftovers.remove(self._run)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _address(self, port: str) -> str:
        # A server that listens everywhere is reached by the loopback address.
        host = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(self._hosts[port], self._hosts[port])
        return f"[{host}]:{self._ports[port]}" if ":" in host else f"{host}:{self._ports[port]}"

    def _spawn(self, installation: Installation, repository: Path) -> subprocess.Popen[bytes]:
        bound = [sys.executable, "-I", "-S", "-c", _BOUND_TO_PARENT, str(os.getpid()), str(_STACK_BYTES)]
        environment = installation.environment(os.environ)
        environment[ENGINE_DIR_VARIABLE] = str(self._engine_dir.resolve())
        if self._policy_file is not None:
            environment[POLICY_VARIABLE] = str(self._policy_file.resolve())
        return subprocess.Popen(
            [*bound, str(installation.executable), *self._arguments(installation, repository)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # A group of its own: Ctrl-C in a terminal reaches us alone, and we can end all of it.
            start_new_session=True,
        )

    def _arguments(self, installation: Installation, repository: Path) -> list[str]:
        admin = f"{_ADMIN_ENDPOINTS}:admin-key={secrets.token_hex(16)}"
        arguments = [
            f"--model-repository={repository}",
            f"--http-address={self._hosts['http_port']}",
            f"--grpc-address={self._hosts['grpc_port']}",
            f"--metrics-address={self._hosts['metrics_port']}",
            f"--http-port={self._ports['http_port']}",
            f"--grpc-port={self._ports['grpc_port']}",
            f"--metrics-port={self._ports['metrics_port']}",
            f"--http-restricted-api={admin}",
            f"--grpc-restricted-protocol={admin}",
            "--model-control-mode=none",
            # The configurations are complete; completing them would start each Python model twice.
            "--disable-auto-complete-config",
            f"--exit-timeout-secs={DRAIN_SECONDS}",
            f"--backend-config=python,shm-region-prefix-name={self._run}",
            f"--log-info={'true' if self._verbose else 'false'}",
            # Text and token ids are small and stay in main memory.
            "--pinned-memory-pool-byte-size=0",
            f"--allow-gpu-metrics={'true' if _GPU_DEVICE.exists() else 'false'}",
        ]
        if installation.backend_directory is not None:
            arguments.append(f"--backend-directory={installation.backend_directory}")
        return arguments

    def _wait_until_ready(self, deadline: float) -> None:
        assert self._process is not None
        while not self._is_ready():
            if (status := self._process.poll()) is not None:
                raise (_AbortedError if status == -signal.SIGABRT else LaunchError)(self._failure())
            if time.monotonic() > deadline:
                raise LaunchError(f"tritonserver did not become ready in time{self._log.tail() if self._log else ''}")
            time.sleep(_POLL_SECONDS)

    def _is_ready(self) -> bool:
        host, _, port = self._address("http_port").rpartition(":")
        connection = HTTPConnection(host.strip("[]"), int(port), timeout=5)
        try:
            connection.request("GET", "/v2/health/ready")
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()

    def _failure(self) -> str:
        """Why the server, which has ended, did so."""
        assert self._process is not None
        assert self._log is not None
        self._end(self._process)
        self._log.close()
        return self._log.failure()

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGTERM)  # does nothing to a process that has ended
        try:
            process.wait(_KILL_AFTER_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        # The Python models' stubs end with the server; one that hangs does not.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
