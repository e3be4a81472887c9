"""Pure. The pictures of a serving plan: their bytes, their names, and the rows that every tower makes of them."""

from struct import pack

from nodes.contract.engine import MediaCard
from nodes.contract.media import IMAGE
from nodes.media.content import name_of

PICTURES = 6
SPOILT = b"spoilt"  # no picture: no tower can make anything of it
FEATURES = 2
PLACEHOLDER = 3  # a token that the engine never says
CARDS = {IMAGE: MediaCard(token=PLACEHOLDER, features=FEATURES, tokens=2)}


def data_of(number: int) -> bytes:
    """The bytes of a picture."""
    return b"picture %d, and so on" % number


def number_of(data: bytes) -> int:
    """Which picture this is. Raises ValueError for what is none."""
    head, _, _ = data.removeprefix(b"picture ").partition(b",")
    if not data.startswith(b"picture ") or not head.isdigit():
        raise ValueError("this is no picture")
    return int(head)


def rows_of(number: int) -> int:
    """How many positions of a prompt it fills."""
    return 2 + number % 3


def embedding_of(number: int) -> bytes:
    """Its rows."""
    count = rows_of(number) * FEATURES
    return pack(f"<{count}f", *(number * 100.0 + index for index in range(count)))


NAMES = {number: name_of(IMAGE, data_of(number)) for number in range(PICTURES)}
SPOILT_NAME = name_of(IMAGE, SPOILT)
EMBEDDINGS = {name: embedding_of(number) for number, name in NAMES.items()}
