"""`--join`: each form, and an error that says what would do for everything else."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.discovery import JoinRefused, parse_join
from mesh.discovery.plan import DEFAULT_MESH, Reach, Way
from mesh.options import Options

JOB = {"SLURM_JOB_ID": "42", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_SUBMIT_DIR": "/home/me/run"}


def test_the_default_mesh_is_the_one_of_the_options() -> None:
    assert Options().mesh == DEFAULT_MESH
    assert parse_join("auto", "", {}).mesh == DEFAULT_MESH


def test_auto_and_lan() -> None:
    assert parse_join("auto", "m", {}).listen is Reach.KEYED
    plan = parse_join("lan:eth0,10.0.0.1", "m", {})
    assert (plan.way, plan.listen, plan.interfaces) == (Way.LAN, Reach.NETWORK, ("eth0", "10.0.0.1"))


def test_a_directory_is_absolute() -> None:
    plan = parse_join("dir:/shared/m", "m", {})
    assert (plan.way, plan.path, plan.listen) == (Way.FOLDER, "/shared/m", Reach.KEYED)
    assert parse_join("dir:~/m", "m", {"HOME": "/home/me"}).path == "/home/me/m"
    with pytest.raises(JoinRefused, match="must begin with '/'"):
        parse_join("dir:shared", "m", {})


def test_seeds() -> None:
    plan = parse_join("tcp://a.example:1, tcp://10.0.0.1:2,[fd00::2]:3,tcp://a.example:1", "m", {})
    assert plan.seeds == ("tcp://a.example:1", "tcp://10.0.0.1:2", "tcp://[fd00::2]:3")
    assert plan.listen is Reach.NETWORK and plan.interfaces == ()
    assert parse_join("tcp://127.0.0.1:1", "m", {}).interfaces == ("127.0.0.1",)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tcp://host", "no port"),
        ("tcp://host:", "no port"),
        ("tcp://host:x", "no port"),
        ("tcp://host:0", "ports are"),
        ("tcp://host:65536", "ports are"),
        ("tcp://:5", "no host name"),
        ("tcp://fd00::2:5", "in brackets"),
        ("tcp://[fd00::g]:5", "no IPv6"),
        ("tcp://a:1,udp://b:2", "no seed"),
        ("tcp://a b:1", "no host name"),
        ("tcp://a:1,", "no port"),
        ("lan:eth 0", "no interface"),
        ("etcd://x", "none of: auto"),
        ("", "none of: auto"),
        ("dir:", "none of: auto"),
        ("Lan", "none of: auto"),
    ],
)
def test_a_refusal_says_what_is_wrong(text: str, says: str) -> None:
    with pytest.raises(JoinRefused, match=says):
        parse_join(text, "m", {})


@pytest.mark.parametrize("mesh", ["../x", "a/b", ".hidden", "a b", "x" * 65])
def test_a_mesh_name_can_name_a_file(mesh: str) -> None:
    with pytest.raises(JoinRefused, match="mesh name"):
        parse_join("auto", mesh, {})


def test_slurm_names_the_mesh_and_the_directory_after_the_job() -> None:
    plan = parse_join("slurm", DEFAULT_MESH, JOB)
    assert (plan.way, plan.mesh, plan.job, plan.hosts) == (Way.SLURM, "job-42", "42", ("n1", "n2"))
    assert plan.path == "/home/me/run/.wiremesh/42"
    assert plan.listen is Reach.NETWORK
    assert parse_join("slurm", "mine", JOB | {"WIREMESH_DIR": "/fast"}).path == "/fast"
    assert parse_join("slurm", "mine", JOB).mesh == "mine"


def test_slurm_on_one_host_needs_no_network() -> None:
    assert parse_join("slurm", "", JOB | {"SLURM_JOB_NODELIST": "n1"}).listen is Reach.KEYED


def test_a_heterogeneous_job_has_several_lists() -> None:
    groups = {"SLURM_JOB_NODELIST_HET_GROUP_0": "a[1-2]", "SLURM_JOB_NODELIST_HET_GROUP_1": "b1"}
    assert parse_join("slurm", "", JOB | groups).hosts == ("a1", "a2", "b1")


@pytest.mark.parametrize("missing", ["SLURM_JOB_ID", "SLURM_JOB_NODELIST", "SLURM_SUBMIT_DIR"])
def test_slurm_says_which_variable_is_missing(missing: str) -> None:
    with pytest.raises(JoinRefused, match=missing):
        parse_join("slurm", "", {name: value for name, value in JOB.items() if name != missing})


def test_auto_inside_a_job_is_the_job_as_far_as_a_key_allows() -> None:
    plan = parse_join("auto", "", JOB)
    assert (plan.way, plan.job, plan.listen) == (Way.AUTO, "42", Reach.KEYED)


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_text_gives_a_plan_or_is_refused(text: str, nodes: str) -> None:
    for join in (text, "tcp://" + text, "lan:" + text, "dir:/" + text, "slurm"):
        with contextlib.suppress(JoinRefused):
            assert parse_join(join, "m", JOB | {"SLURM_JOB_NODELIST": nodes}).mesh
