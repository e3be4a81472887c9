"""Shell. Why frontends give this worker no requests: it says so in its log, once, and in its status."""

import logging

from nodes.card import Objection

FRONTENDS_MAX = 64  # remembered: a mesh has some, and the text of each says the same

log = logging.getLogger("wiremesh.worker")


class Objections:
    """What frontends have told, by their names."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def hear(self, objection: Objection) -> None:
        """A frontend has something against us, or nothing any more."""
        frontend, text = objection.frontend, objection.text
        before = self.texts.pop(frontend, "")
        if text:
            self.texts[frontend] = text
        if text and text != before:
            log.warning("the frontend %s gives this worker no requests: %s", frontend, text)
        elif before and not text:
            log.info("the frontend %s gives this worker requests again", frontend)
        while len(self.texts) > FRONTENDS_MAX:
            del self.texts[next(iter(self.texts))]
