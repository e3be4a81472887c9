"""Workers that neither hand caches over nor take any."""

import pytest
from msgspec.structs import replace

from mesh.options import OptionRefused
from nodes.alone import alone_endpoints, check_hand_over
from nodes.contract.engine import Card
from nodes.engine_options import EngineOptions
from nodes.names import ALONE
from nodes.transfer.layout import Layout

LAYOUT = Layout(16, 2, 3, 4, "float32")
CARD = Card("numpy", "m", 300, 512, 8, 16, 64, layout=LAYOUT)
BLOCK = LAYOUT.block_bytes


@pytest.mark.parametrize(
    ("card", "options", "alone"),
    [
        (CARD, {}, False),
        (CARD, {"kv_staging_bytes": BLOCK}, False),
        (CARD, {"kv_staging_bytes": BLOCK - 1}, True),
        (CARD, {"transports": ""}, True),
        (replace(CARD, layout=None), {}, True),
        (replace(CARD, layout=None, native="after"), {}, False),
        (replace(CARD, layout=None, generates=False), {}, False),
        (replace(CARD, layout=None), {"role": "encoder"}, False),
    ],
)
def test_a_worker_says_that_it_takes_nothing_over(card: Card, options: dict[str, object], alone: bool) -> None:
    found = alone_endpoints(card, EngineOptions(model="m", **options))  # type: ignore[arg-type]
    assert list(found) == [ALONE] * alone


@pytest.mark.parametrize(
    ("card", "options", "text"),
    [
        (CARD, {"role": "prefill", "kv_staging_bytes": 0}, rf"--kv-staging-bytes is 0, give it {BLOCK} or more"),
        (CARD, {"role": "prefill", "transports": ""}, "--transports must name a way"),
        (replace(CARD, layout=None), {"role": "prefill"}, "the numpy engine cannot do that .* use --role worker"),
        (CARD, {"role": "decode", "enforce_disagg": True, "kv_staging_bytes": 0}, "--enforce-disagg takes over"),
    ],
)
def test_a_role_that_cannot_do_without_is_refused(card: Card, options: dict[str, object], text: str) -> None:
    with pytest.raises(OptionRefused, match=text):
        check_hand_over(card, EngineOptions(model="m", **options))  # type: ignore[arg-type]
    check_hand_over(CARD, EngineOptions(model="m", role=str(options["role"])))
    check_hand_over(replace(card, native="beside"), EngineOptions(model="m", **options))  # type: ignore[arg-type]
