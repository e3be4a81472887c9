"""A role is a capability."""

import pytest

from proto.basics import Message
from proto.messages import (
    HOLDER_MESSAGES,
    MESSAGES,
    OPTIONAL_MESSAGES,
    OWNER_MESSAGES,
    PLACING_MESSAGES,
    SESSION_MESSAGES,
    Ignored,
    Role,
)
from proto.placing import Blocks, Copy, Cut, Parked, Piece, Place, Placed, Replay, Routed, Settled
from proto.rights import may_send, rights

NEWER_ROLE = max(Role) + 1


def test_each_message_has_one_side() -> None:
    sides = (SESSION_MESSAGES, OWNER_MESSAGES, HOLDER_MESSAGES, PLACING_MESSAGES, OPTIONAL_MESSAGES)
    assert sum(map(len, sides)) == len(MESSAGES) == len(set(MESSAGES))


@pytest.mark.parametrize("role", [*Role, NEWER_ROLE, 0])
@pytest.mark.parametrize("kind", [*SESSION_MESSAGES, *OPTIONAL_MESSAGES, Ignored], ids=lambda kind: kind.__name__)
def test_everybody_keeps_a_session(role: int, kind: type[Message]) -> None:
    assert may_send(role, kind)


@pytest.mark.parametrize("kind", OWNER_MESSAGES, ids=lambda kind: kind.__name__)
def test_owners_begin_and_end_legs(kind: type[Message]) -> None:
    assert [role for role in (*Role, NEWER_ROLE) if may_send(role, kind)] == [Role.CLIENT, Role.COMPONENT, Role.ROUTER]


@pytest.mark.parametrize("kind", HOLDER_MESSAGES, ids=lambda kind: kind.__name__)
def test_holders_answer(kind: type[Message]) -> None:
    assert [role for role in (*Role, NEWER_ROLE) if may_send(role, kind)] == [Role.WORKER, Role.COMPONENT, Role.ROUTER]


ASK, TELL, ADVISE = {Role.CLIENT, Role.COMPONENT}, {Role.WORKER, Role.COMPONENT}, {Role.ROUTER}
SENDERS = {
    Place: ASK,
    Settled: ASK | ADVISE,
    Blocks: TELL,
    Cut: TELL,
    Piece: TELL,
    Placed: ADVISE,
    Parked: ADVISE,
    Replay: ADVISE,
    Copy: ADVISE,
    Routed: ADVISE,
}


@pytest.mark.parametrize("kind", PLACING_MESSAGES, ids=lambda kind: kind.__name__)
def test_owners_ask_routers_answer_and_workers_tell(kind: type[Message]) -> None:
    assert {role for role in (*Role, NEWER_ROLE) if may_send(role, kind)} == SENDERS[kind]


@pytest.mark.parametrize("role", [*Role, NEWER_ROLE])
def test_both_questions_have_one_answer(role: int) -> None:
    kinds: list[type[Message] | type[Ignored]] = [*MESSAGES, Ignored]
    assert rights(role) == {kind for kind in kinds if may_send(role, kind)}
