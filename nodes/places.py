"""Pure. The words of supervision: places, what became of them, what happens to them, and what is to be done."""

from enum import StrEnum
from math import inf

from msgspec import Struct


class Place(Struct, frozen=True):
    """A node that is wanted."""

    name: str
    role: str
    command: tuple[str, ...]


class Stage(StrEnum):
    """How far the process of a place is."""

    DUE = "waits"
    BEGINNING = "begins"  # asked for; it has no number yet
    STARTING = "starts"
    READY = "ready"
    LEAVING = "leaves"
    GONE = "gone"


class Charge(Struct):
    """A place, and what became of it."""

    place: Place
    stage: Stage = Stage.DUE
    pid: int = 0
    node: str = ""  # its id, as its line of readiness names it
    due: float = -inf  # when to start it
    began: float = 0.0
    starts: int = 0
    deaths: int = 0  # in a row
    proven: bool = False  # it was ready once
    steps: str = ""  # what it says while it loads
    words: str = ""  # its last words


# --- Events ------------------------------------------------------------------------------------------------


class Spawned(Struct, frozen=True):
    """A process runs."""

    name: str
    pid: int


class Said(Struct, frozen=True):
    """A line of a process; `log`: from its standard error stream."""

    name: str
    pid: int
    line: str
    log: bool = False


class Exited(Struct, frozen=True):
    """A process is gone, or could not be started (pid 0). `how` says it in words."""

    name: str
    pid: int
    code: int
    how: str


class Probed(Struct, frozen=True):
    """What a look at the frontends found; `why` requests are not served."""

    healthy: bool
    why: str = ""


class Tick(Struct, frozen=True):
    """Time has passed."""


class Stop(Struct, frozen=True):
    """End all of it: the first one lets requests finish, the second does not."""


Event = Spawned | Said | Exited | Probed | Tick | Stop


# --- Effects -----------------------------------------------------------------------------------------------


class Spawn(Struct, frozen=True):
    """Start the process of a place; Spawned or Exited answers."""

    place: Place


class Signal(Struct, frozen=True):
    """Ask a process to leave, or (`hard`) end it."""

    name: str
    pid: int
    hard: bool = False


class Probe(Struct, frozen=True):
    """See whether requests are served; Probed answers."""


class Topic(StrEnum):
    """What there is to tell."""

    STARTING = "starting"
    LOADING = "loading"
    READY = "ready"
    ENDED = "ended"
    SAID = "said"
    LOG = "log"
    WAITING = "waiting"
    SERVING = "serving"
    STOPPING = "stopping"
    KILLED = "killed"
    GIVEN_UP = "given-up"
    STOPPED = "stopped"


class Show(Struct, frozen=True, omit_defaults=True, rename={"topic": "event"}):
    """Tell the user. As JSON it is a line of `wiremesh up --json`."""

    topic: Topic
    text: str
    name: str = ""
    pid: int = 0
    node: str = ""
    code: int | None = None
    after_s: float | None = None  # how long it took, or how long it ran
    again_s: float | None = None  # when it is started again


class Exit(Struct, frozen=True):
    """All is over."""

    code: int


Effect = Spawn | Signal | Probe | Show | Exit
