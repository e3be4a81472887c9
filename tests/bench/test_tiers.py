"""The bench of tiers measures what it says, in small."""

from pathlib import Path

from bench.tiers import TIERS, first_tokens, speeds


def test_in_small(tmp_path: Path) -> None:
    plain, moved = speeds(2, 1, tmp_path)
    assert plain["memcpy"] > 0 and [one.tier for one in moved] == list(TIERS)
    assert all(one.down_gb_s > 0 and one.back_gb_s > 0 for one in moved)
    found = {first.prompt: first.prefilled for first in first_tokens(64, 1, tmp_path)}
    assert found == {"computed": 64, "in the cache": 16, "from host": 16, "from disk": 16}
