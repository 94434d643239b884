"""Files in buckets: whole or as they were, one owner a folder, and one line for what fails."""

import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest

from univip_jax.common import lease, objects
from univip_jax.common.errors import Misuse, TransientError, UserError
from univip_jax.common.files import appearing, at, expand, held, on_disk, sha256_of, write_whole


def test_files_are_written_and_read(bucket, tmp_path):
    folder = at(expand(f"{bucket}/"))
    assert str(folder) == bucket and not folder.exists()
    write_whole(folder / "a.json", "one")
    write_whole(folder / "a.json", b"two")
    with appearing(folder / "large") as tmp:
        tmp.write_bytes(b"x" * 9_000_000)  # more than one part of an upload
    assert sorted(path.name for path in folder.iterdir()) == ["a.json", "large"]
    assert (folder / "a.json").read_text() == "two" and (folder / "large").stat().st_size == 9_000_000
    with on_disk(folder / "large") as copy:
        assert copy.name == "large" and sha256_of(copy) == sha256_of(folder / "large")
    assert not copy.exists()
    with pytest.raises(ZeroDivisionError), appearing(folder / "none") as tmp:
        tmp.write_bytes(b"half")
        raise ZeroDivisionError
    assert not tmp.exists() and not (folder / "none").exists()


@pytest.mark.parametrize(
    ("address", "line"),
    {
        "gs://": "gs:// names no bucket: give gs://NAME/...",
        "s3:///": "s3:/// names no bucket: give s3://NAME/...",
        "http://a/b": "http://a/b is no folder or file of this machine: buckets are gs://NAME/... or s3://NAME/...",
    }.items(),
)
def test_an_address_that_is_none_is_refused(address, line):
    with pytest.raises(Misuse) as refused:
        expand(address)
    assert str(refused.value) == line


@pytest.mark.parametrize("work", ["read", "exists", "write", "hold", "list"])
def test_a_bucket_that_is_not_there_is_named(bucket, work):
    folder = at(f"{bucket[:2]}://no-such-bucket/folder")
    does = {
        "read": lambda: (folder / "a").read_bytes(),
        "exists": lambda: (folder / "a").exists(),
        "write": lambda: write_whole(folder / "a", "x"),
        "hold": lambda: held(folder).__enter__(),
        "list": lambda: list(folder.iterdir()),
    }
    with pytest.raises(UserError, match=r"://no-such-bucket.*: there is no such bucket: check its name"):
        does[work]()


@pytest.mark.parametrize("work", ["read", "exists", "write"])
def test_rights_that_lack_are_named(bucket, servers, work):
    path = at(bucket) / "a"
    write_whole(path, "x")
    getattr(servers, bucket[:2]).faults.forbidden = True
    does = {"read": path.read_bytes, "exists": path.exists, "write": lambda: write_whole(path, "y")}
    way = "gcloud auth application-default login" if bucket.startswith("gs") else "AWS_ACCESS_KEY_ID"
    with pytest.raises(UserError, match=f"{bucket[:2]}://.* is closed to you .*{way}") as refused:
        does[work]()
    assert refused.value.exit_code == 1 and "\n" not in str(refused.value)


def test_requests_that_fail_are_made_again(bucket, servers):
    getattr(servers, bucket[:2]).faults.failing = 0.1
    for number in range(20):
        write_whole(at(bucket) / f"{number}", str(number))
        assert (at(bucket) / f"{number}").read_text() == str(number)


def test_a_server_that_is_gone_for_good_is_worth_a_second_try(gs, servers, monkeypatch):
    async def at_once(_):
        pass

    monkeypatch.setattr("gcsfs.retry.asyncio.sleep", at_once)
    servers.gs.faults.gone_until = time.monotonic() + 60
    for work in ((at(gs) / "a").exists, (at(gs) / "a").read_bytes, lambda: write_whole(at(gs) / "a", "x")):
        with pytest.raises(TransientError, match=r"gs://bucket.* cannot be reached") as failed:
            work()
        assert failed.value.exit_code == 75 and "\n" not in str(failed.value)


def test_a_folder_has_one_owner(bucket):
    folder = at(bucket)
    with held(folder):
        assert [path.name for path in folder.iterdir()] == ["lock-1"]
        with pytest.raises(TransientError, match=f"{bucket} is in use: process \\d+ on .* works on it"), held(folder):
            raise AssertionError
    assert not list(folder.glob("*"))


def test_of_several_at_once_one_gets_the_folder(bucket):
    got, refused, done = [], [], threading.Barrier(4)

    def want():
        try:
            with held(at(bucket)):
                got.append(1)
                done.wait(20)
        except TransientError:
            refused.append(1)
            done.wait(20)

    threads = [threading.Thread(target=want) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 3)


def test_the_lease_of_a_process_that_died_here_is_taken_at_once(bucket):
    dies = f"import os; from univip_jax.common.files import at, held\nwith held(at({bucket!r})): os._exit(9)"
    assert subprocess.run([sys.executable, "-c", dies]).returncode == 9
    assert [path.name for path in at(bucket).iterdir()] == ["lock-1"]
    began = time.monotonic()
    with held(at(bucket)):
        assert [path.name for path in at(bucket).iterdir()] == ["lock-2"]
    assert time.monotonic() - began < 5


def test_a_holder_that_is_dead_but_not_yet_waited_for_is_gone(gs):
    """A container's first process often waits for nobody's children; the dead one keeps its number."""
    dies = f"import os; from univip_jax.common.files import at, held\nwith held(at({gs!r})): os._exit(9)"
    process = subprocess.Popen([sys.executable, "-c", dies])
    for _ in range(200):
        if Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            break
        time.sleep(0.05)
    with held(at(gs)):
        assert [path.name for path in at(gs).iterdir()] == ["lock-2"]
    assert process.wait() == 9


@pytest.mark.parametrize("lives", [True, False])
def test_the_lease_of_another_machine_is_taken_when_it_shows_no_sign(gs, monkeypatch, capsys, lives):
    monkeypatch.setattr(lease, "RENEWED", 0.2)
    monkeypatch.setattr(lease, "LOST", 1.0)
    name = lease._host
    monkeypatch.setattr(lease, "_host", lambda: "elsewhere boot")
    other = held(at(gs))
    other.__enter__()
    monkeypatch.setattr(lease, "_host", name)
    if not lives:
        contents = (at(gs) / "lock-1").read_bytes()
        other.__exit__(None, None, None)
        write_whole(at(gs) / "lock-1", contents)
        with held(at(gs)):
            assert [path.name for path in at(gs).iterdir()] == ["lock-2"]
    else:
        with pytest.raises(TransientError, match=r"in use: process .* on elsewhere"), held(at(gs)):
            raise AssertionError
        other.__exit__(None, None, None)
    assert "may be in use by process" in capsys.readouterr().out


def test_a_process_that_lost_its_lease_ends(gs):
    works = (
        "import time; from univip_jax.common import lease; lease.RENEWED = 0.2\n"
        "from univip_jax.common.files import at, held\n"
        f"with held(at({gs!r})): print('held', flush=True); time.sleep(30)"
    )
    process = subprocess.Popen([sys.executable, "-c", works], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    write_whole(at(gs) / "lock-2", "{}")
    assert process.wait(20) == 75
    assert process.stderr.read() == f"error: another process has taken {gs} over, this one ends\n"


@pytest.mark.parametrize("kind", ["gs", "s3"])
def test_a_whole_bucket_is_a_folder(servers, kind):
    name = uuid.uuid4().hex[:12]
    servers.make_bucket(name)
    folder = at(expand(f"{kind}://{name}/"))
    write_whole(folder / "a.json", "one")
    write_whole(folder / "below" / "b.json", "2")
    assert {path: entry.size for path, entry in objects.entries(folder, below=True).items()} == {
        "a.json": 3,
        "below/b.json": 1,
    }
    assert list(objects.entries(folder)) == ["a.json"]
    assert sorted(path.name for path in folder.iterdir()) == ["a.json", "below"]
    with held(folder):
        assert (folder / "lock-1").exists()
    assert folder.is_dir() and folder.exists()
