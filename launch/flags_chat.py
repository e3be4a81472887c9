"""Pure. The flags of `wiremesh chat`."""

from math import inf

from msgspec import Struct

from mesh.options import OptionRefused

UNSET = -1  # of a number that the server chooses
URL = "http://127.0.0.1:8000"  # where 'wiremesh up' listens


class ChatFlags(Struct, frozen=True):
    """What `wiremesh chat` can be told."""

    url: str = URL
    model: str = ""
    system: str = ""
    temperature: float = UNSET
    top_p: float = UNSET
    max_tokens: int = UNSET
    seed: int = UNSET
    api_key: str = ""
    timeout_s: float = 120.0

    def __post_init__(self) -> None:
        scheme, found, rest = self.url.partition("://")
        if not found or scheme not in ("http", "https") or not rest:
            raise OptionRefused(f"--url is {self.url!r}: it must begin with http:// or https://, as in {URL}")
        for name, value, most in (("temperature", self.temperature, 2.0), ("top-p", self.top_p, 1.0)):
            if value != UNSET and not 0 <= value <= most:
                raise OptionRefused(f"--{name} is {value}: it must be 0 to {most:g}")
        if self.max_tokens != UNSET and self.max_tokens < 1:
            raise OptionRefused(f"--max-tokens is {self.max_tokens}: it must be 1 or more")
        if not 0 < self.timeout_s < inf:
            raise OptionRefused(f"--timeout-s is {self.timeout_s}: it must be seconds, more than 0")


CHAT_HELP = {
    "url": f"where a frontend listens; a path such as /v1 may follow (default: {URL})",
    "model": "the model to talk to (default: the first that is served)",
    "system": "what the model is told before the conversation",
    "temperature": "0 takes the likeliest token each time, 1 draws as the model says, up to 2 (default: the server's)",
    "top_p": "draw only from the likeliest tokens that make up this share (default: the server's)",
    "max_tokens": "the longest answer (default: what fits)",
    "seed": "the same seed, the same draws (default: new ones each time)",
    "api_key": "the API key, if the frontends want one; better as the variable, which other users do not see",
    "timeout_s": "how long to wait for the next part of an answer (default: 120)",
}
CHAT_WORDS_HELP = "one question: print the answer and end; '-' reads it from stdin (default: a conversation)"
CHAT_EPILOG = """\
In a conversation Ctrl-C cancels the answer, Ctrl-D leaves; /help tells more.
Where the standard input is no terminal, it is one question, as in

  echo 'What is a token?' | wiremesh chat

exit codes: 0 done; 1 the answer failed; 69 nothing listens there, or all are
busy; 77 the API key was refused; 130 the one question was interrupted.
"""
