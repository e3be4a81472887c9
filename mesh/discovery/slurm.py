"""Shell. Discovery inside a Slurm job: a directory of the job, on the file system that its nodes share.

The node list only says how many to expect; who is there shows in the directory.
"""

from collections.abc import Sequence

from mesh.discovery.folder import Folder
from mesh.discovery.plan import Plan

NAMES_SHOWN = 4


class Slurm(Folder):
    """The directory of a job."""

    def __init__(self, plan: Plan, tags: Sequence[bytes]) -> None:
        super().__init__(plan.path, tags)
        self._plan = plan

    def describe(self) -> str:
        """The job, its hosts, and the directory."""
        hosts = self._plan.hosts
        names = ", ".join(hosts[:NAMES_SHOWN]) + (", ..." if len(hosts) > NAMES_SHOWN else "")
        return (
            f"Slurm job {self._plan.job} on {len(hosts)} hosts ({names}), mesh {self._plan.mesh}, {super().describe()}"
        )
