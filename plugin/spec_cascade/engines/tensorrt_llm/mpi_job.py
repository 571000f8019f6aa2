"""The MPI job that this process was started in, which TensorRT-LLM has to know nothing of.

Triton may have been started by ``mpirun`` or by a cluster's launcher. MPI, which TensorRT-LLM starts when it is
imported, would take the variables of that job for its own, and could not start workers.
"""

from __future__ import annotations

import os

# Of a job alone: what sets MPI up (``OMPI_MCA_*``, ``PMIX_MCA_*``, ``PMIX_INSTALL_PREFIX``) holds for any.
_OF_A_JOB = frozenset(
    {
        *("OMPI_UNIVERSE_SIZE", "OMPI_FIRST_RANKS", "OMPI_APP_CTX_NUM_PROCS"),
        *("PMIX_RANK", "PMIX_NAMESPACE", "PMIX_HOSTNAME", "PMIX_VERSION", "PMIX_SECURITY_MODE"),
        *("PMIX_SERVER_TMPDIR", "PMIX_SYSTEM_TMPDIR"),
        *("PMIX_GDS_MODULE", "PMIX_BFROPS_MODULE", "PMIX_PTL_MODULE"),
    }
)
_PREFIXES = ("OMPI_COMM_WORLD_", "OMPI_MCA_orte_", "ORTE_", "PMIX_SERVER_URI", "PMI_")


def is_of_mpi_job(name: str) -> bool:
    """Whether a variable of this name says which part of which job a process is."""
    return name in _OF_A_JOB or name.startswith(_PREFIXES)


def leave_mpi_job() -> dict[str, str]:
    """Take the variables of the job away; returns them, to be set again when no engine runs any more."""
    taken = {name: value for name, value in os.environ.items() if is_of_mpi_job(name)}
    for name in taken:
        del os.environ[name]
    return taken
