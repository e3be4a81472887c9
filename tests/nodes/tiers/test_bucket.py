"""A store that speaks S3: what is signed, what is asked, and what becomes of its faults."""

import hashlib
from collections.abc import Iterator

import pytest

from nodes.tiers import bucket, work
from nodes.tiers.counts import Count
from nodes.tiers.options import BucketAt, TierRefused, disk_of, read, store_of
from nodes.tiers.shelves import STORE
from nodes.tiers.signing import Credentials, quoted, signed
from tests.nodes.tiers.fake_store import REGION, WHO, Store
from tests.nodes.tiers.stage import Stage, names


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", WHO.key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", WHO.secret)
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    one = Store()
    yield one
    one.close()


@pytest.fixture
def stages(store: Store) -> Iterator[list[Stage]]:
    at = f"s3://kv-cache/some/where?endpoint={store.endpoint}&region={REGION}"
    found = [Stage(64, store=at), Stage(64, store=at)]
    yield found
    store.fault = ""
    store.go_on.set()
    for stage in found:
        stage.close()


def count(stage: Stage) -> Count:
    found = stage.count(STORE)
    assert isinstance(found, Count)
    return found


# Made with botocore 1.44.
SIGNED = {
    ("GET", "/bucket/pre fix/ab/x-y.kv", b"", ""): "f0c7a95a01dd94e61b05b893a33f730970f1cff204eaa6ec9f747461cf5bc959",
    ("PUT", "/bucket/a.kv", b"hello", ""): "d6df7dcbc25ba8bb468fc493e7326047708a067f1bdae580a22962994e0bc990",
    ("GET", "/bucket/pre fix/ab/x-y.kv", b"", "TOKEN"): "6180c43c42aacdd7b63080b4f4b97e12"
    "b42e36d85dc6f207e698a69b70808837",
}


def test_signatures() -> None:
    for (method, path, body, token), signature in SIGNED.items():
        payload = hashlib.sha256(body).hexdigest()
        who = Credentials("AKID", "SECRET", token)
        made = signed(method, "127.0.0.1:9000", quoted(path), payload, "20261121T120000Z", "eu-west-1", who)
        assert made["authorization"].endswith(signature)
    assert "authorization" not in signed("GET", "host", "/", "", "20261121T120000Z", "", None)


def test_there_and_back(store: Store, stages: list[Stage]) -> None:
    one, other = stages
    one.keep(names(0, 20))
    assert len(store.objects) == 20
    assert all(path.startswith("/kv-cache/some/where/") for path in store.objects)
    assert other.restored(names(0, 20)) == 20 and count(other).hit == 20
    assert other.restored(names(1, 20)) == 0
    store.asked.clear()
    other.keep(names(0, 20))
    assert "PUT" not in store.asked, "what is there is not written again"


@pytest.mark.parametrize(("fault", "why"), [("refuse", "failed"), ("cut", "corrupt"), ("garble", "corrupt")])
def test_a_bad_answer_costs_the_blocks(store: Store, stages: list[Stage], fault: str, why: str) -> None:
    one, other = stages
    one.keep(names(0, 4))
    store.fault = fault
    assert other.restored(names(0, 4)) == 0
    assert count(other).failures[why] == 1
    store.fault = ""
    other.tiers._core.lower[0].index.found(names(0, 4)[0], 0.0)  # what it said a moment ago is forgotten
    assert other.restored(names(0, 4)) == 4


def test_connections_that_the_store_drops(store: Store, stages: list[Stage]) -> None:
    one, other = stages
    one.keep(names(0, 4))
    store.fault = "drop"
    assert other.restored(names(0, 4)) == 0
    assert count(other).failures["failed"] == 1
    store.fault = ""
    assert other.restored(names(0, 4)) == 4, "the next one has a new connection"


def test_a_store_that_refuses_to_be_written(store: Store, stages: list[Stage]) -> None:
    store.fault = "refuse"
    one = stages[0]
    one.keep(names(0, 8))
    assert count(one).failures["failed"] == 3 and count(one).marked == 1
    assert one.restored(names(0, 8)) == 8, "host memory has it"
    assert "503" in one.tiers.facts()["store"]["trouble"]


def test_a_store_that_hangs(store: Store, stages: list[Stage], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "QUIET_S", 0.1)
    store.fault = "hang"
    other = stages[1]
    assert other.restored(names(0, 4)) == 0
    assert count(other).failures["slow"] == 1 and count(other).marked == 1
    assert other.restored(names(1, 4)) == 0, "nobody waits for it again"


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = Store()
    endpoint = gone.endpoint
    gone.close()
    stage = Stage(16, store=f"s3://kv-cache?endpoint={endpoint}")
    assert stage.restored(names(0, 4)) == 0
    assert count(stage).failures["failed"] == 1
    stage.close()


def test_what_a_flag_may_say() -> None:
    assert disk_of("/scratch/kv:100G") == ("/scratch/kv", 100 << 30)
    assert disk_of("C:/x:5MiB") == ("C:/x", 5 << 20)
    assert store_of("dir:/shared/kv") == ("/shared/kv", None)
    at = BucketAt("kv-cache", "a/b", "https://kv-cache.s3.eu-west-1.amazonaws.com", "eu-west-1", False)
    assert store_of("s3://kv-cache/a/b?region=eu-west-1") == ("", at)
    assert read(0) is None
    for disk in ("/scratch", "/scratch:", ":5G", "/scratch:0", "/scratch:much"):
        with pytest.raises(TierRefused, match="DIR:BYTES"):
            disk_of(disk)
    for store in ("dir:", "/shared", "s3://", "s3://UPPER", "s3://kv-cache?colour=red", "http://kv"):
        with pytest.raises(TierRefused, match="dir:PATH or s3://"):
            store_of(store)
    with pytest.raises(TierRefused, match="its endpoint"):
        store_of("s3://kv-cache?endpoint=ftp://there")


def test_where_the_bucket_is(store: Store) -> None:
    at = BucketAt("kv-cache", "p", "https://kv-cache.s3.us-east-1.amazonaws.com", "us-east-1", False)
    assert bucket.Bucket(at, b"\x01" * 16, WHO)._folder == f"/p/{'01' * 16}", "in the host's name, not in the path"
