"""Shell. Whether a guide can be followed, before an engine is asked to. Without the library nobody knows here."""

import asyncio
from functools import lru_cache

from nodes.contract.guide import Guide
from nodes.guiding.deep import deeply
from nodes.guiding.library import GuideRefused, grammar_of, installed, library, limits, sentence

KNOWN_MAX = 256  # guides: clients send the same one again and again


async def complaint(guide: Guide) -> str:
    """Why it cannot be followed; empty if it can. Reading it may take some tenths of a second, elsewhere."""
    return await asyncio.wrap_future(deeply(lambda: checked(guide))) if installed() else ""


@lru_cache(KNOWN_MAX)
def checked(guide: Guide) -> str:
    """Likewise, for who is in such a thread already."""
    try:
        said = library().LLMatcher.validate_grammar(grammar_of(guide), limits=limits())
    except GuideRefused as refused:
        return str(refused)
    return sentence(guide, said) if said and not said.startswith("WARNING") else ""
