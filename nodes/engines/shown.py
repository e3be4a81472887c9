"""Shell. Pictures for engines that take the rows somebody else made of them: what all of those ask before they do."""

import logging
from pathlib import Path

from nodes.contract.engine import Job
from nodes.contract.media import misplaced
from nodes.engines.numpy.config import Unsupported
from nodes.engines.transformers.vision import Sight, sight_of

LACKING = "the rows of a picture have not come with this request"

log = logging.getLogger("wiremesh.engine")


def sight_for(folder: Path) -> Sight | None:
    """How a model sees; None for one of text, and for one whose pictures only its engine itself could prepare."""
    try:
        return sight_of(folder)
    except Unsupported as error:
        log.warning("pictures are not taken here: %s", error)
        return None


def refusal_of(job: Job, sight: Sight | None, engine: str) -> str | None:
    """Why a job's pictures cannot be: what an engine would die of, with all that it runs."""
    if sight is None:
        return f"the {engine} engine takes no pictures, sounds or clips with this model: send text"
    if not job.lands and lacks_rows(job):
        return LACKING
    for one in job.media:
        if set(job.prompt[one.first : one.end]) - {sight.card.token}:
            return "where a picture is, its prompt has other tokens than placeholders"
    return misplaced(job.media, len(job.prompt), sight.card.features) or None


def lacks_rows(job: Job) -> bool:
    """Whether a picture has not come: a job that lands gets its rows later."""
    return any(one.embedding is None for one in job.media)
