"""Folders of objects: what local ones promise, and what messages of remote ones say."""

from __future__ import annotations

import errno
import os
import pickle
import threading
from pathlib import Path

import pytest

from embedseg_large.errors import OutputError, RunError, UnreachableError, UsageError
from embedseg_large.storage.connection import Address, Retries, is_remote
from embedseg_large.storage.disk import LocalFolder
from embedseg_large.storage.failures import reason
from embedseg_large.storage.open import folder_at


@pytest.fixture
def folder(tmp_path: Path) -> LocalFolder:
    return LocalFolder(str(tmp_path / "run"))


def test_an_object_is_read_as_it_was_written_last(folder: LocalFolder) -> None:
    folder.write("tiles/0/1.json", b"first")
    folder.write("tiles/0/1.json", b"second")
    assert folder.read("tiles/0/1.json") == b"second"
    assert folder.exists("tiles/0/1.json")
    assert not folder.exists("tiles/0")


def test_an_object_that_is_not_there_is_named(folder: LocalFolder) -> None:
    folder.write("a", b"")
    for name in ("b", "a/b"):
        with pytest.raises(FileNotFoundError, match=f"{name}: there is no such file"):
            folder.read(name)
    folder.remove("b")


def test_a_disk_that_fails_for_a_moment_is_unreachable(
    folder: LocalFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write("a", b"")

    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(os, "scandir", fails)
    monkeypatch.setattr(Path, "stat", fails)
    monkeypatch.setattr(Path, "open", fails)
    for use in (lambda: list(folder.names()), lambda: folder.exists("a"), lambda: folder.read("a")):
        with pytest.raises(UnreachableError, match=r"run.*: cannot be read .*Stale file handle"):
            use()


def test_objects_are_read_in_the_order_of_the_names(folder: LocalFolder) -> None:
    for name in ("a", "b"):
        folder.write(name, name.encode())
    assert list(folder.read_all(["b", "a", "b"])) == [b"b", b"a", b"b"]
    with pytest.raises(FileNotFoundError, match="c: there is no such file"):
        list(folder.read_all(["a", "c"]))


def test_an_object_is_created_once(folder: LocalFolder) -> None:
    barrier, created = threading.Barrier(8), []

    def create(who: int) -> None:
        barrier.wait()
        if folder.create("lock", str(who).encode()):
            created.append(who)

    threads = [threading.Thread(target=create, args=(who,)) for who in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(created) == 1
    assert folder.read("lock") == str(created[0]).encode()


def test_names_are_in_the_order_of_a_bucket(folder: LocalFolder) -> None:
    names = sorted(["b", "a/b", "a-b", "a/b/c.x", "a b/d", "a0/.run", "a/b-c", "z/ü"][1:])
    names.remove("a/b")  # a name cannot be a file and a folder on a disk
    for name in reversed(names):
        folder.write(name, b"")
    assert list(folder.names()) == names
    assert list(folder.names("a")) == [n for n in names if n.startswith("a/")]
    assert list(folder.names("none")) == []


def test_temporary_files_are_no_objects(folder: LocalFolder, tmp_path: Path) -> None:
    folder.write("a/b", b"")
    (tmp_path / "run" / "a" / ".b-0123abcd.part").write_bytes(b"half")
    assert list(folder.names()) == ["a/b"]


def test_nothing_but_the_object_is_left_behind(folder: LocalFolder, tmp_path: Path) -> None:
    folder.write("a", b"1")
    folder.create("a", b"2")
    folder.update("a", lambda old: (old or b"") + b"3")
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["a"]
    assert folder.read("a") == b"13"


def test_no_change_of_two_processes_is_lost(folder: LocalFolder) -> None:
    def count(old: bytes | None) -> bytes:
        return str(int(old or b"0") + 1).encode()

    def repeat() -> None:
        for _ in range(20):
            folder.update("counts/n", count)

    threads = [threading.Thread(target=repeat) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert folder.read("counts/n") == b"80"


def test_a_task_that_outlived_its_run_begins_no_new_one(folder: LocalFolder) -> None:
    folder.write("plan", b"")
    late = folder.anchored().below("tiles")
    late.write("0/1", b"in time")
    folder.remove_all()
    with pytest.raises(RunError, match="is gone: the run has ended"):
        late.write("0/2", b"late")
    with pytest.raises(RunError, match="is gone"):
        late.update("0/2", lambda _: b"late")
    assert not Path(folder.path).exists()
    folder.remove_all()


def test_a_full_disk_is_said_in_one_line(
    folder: LocalFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="the disk is full; free some space") as info:
        folder.write("a", b"")
    assert "\n" not in str(info.value)


def test_a_folder_travels_to_other_processes(folder: LocalFolder) -> None:
    there = pickle.loads(pickle.dumps(folder.anchored()))
    assert there == folder.anchored()
    remote = folder_at("s3://bucket/run")
    assert pickle.loads(pickle.dumps(remote)) == remote


@pytest.mark.parametrize("name", ["", "/a", "a/", "a//b", "../a", "a/./b"])
def test_a_name_stays_in_its_folder(folder: LocalFolder, name: str) -> None:
    for at in (folder, folder_at("s3://bucket/run")):
        with pytest.raises(UsageError, match="is not a valid object name"):
            at.write(name, b"")


def test_a_folder_is_found_by_the_kind_of_its_path(tmp_path: Path) -> None:
    assert folder_at(tmp_path) == LocalFolder(str(tmp_path))
    assert folder_at(f"file://{tmp_path}/a%20b") == LocalFolder(str(tmp_path / "a b"))
    assert folder_at("s3://bucket/a/").below("b/c").path == "s3://bucket/a/b/c"
    with pytest.raises(UsageError, match="ftp://host: such URLs cannot be opened"):
        folder_at("ftp://user:secret@host/a")


def test_a_url_is_shown_without_its_secrets() -> None:
    folder = folder_at("https://user:pw@host/a b/c?sig=secret#x")
    assert folder.path == "https://host/a b/c"
    for text in (repr(folder), repr(folder.below("d"))):
        assert "secret" not in text
        assert "pw" not in text


def test_the_parts_of_a_url_are_told_apart() -> None:
    assert Address.of("s3://b/x%20y/z") == Address("s3://b", "x%20y/z", "s3://b/x%20y/z")
    assert Address.of("https://h:1/x%20y?s=1") == Address(
        "https://h:1?s=1", "x y", "https://h:1/x%20y"
    )
    assert is_remote("https://h/x")
    assert not is_remote("file:///x")
    assert not is_remote("/x")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "Generic S3 error: Error performing GET http://u:p@h/k?sig=secret in 3.2s, after 10 "
            "retries, max_retries: 10 - Server returned non-2xx status code: 503 Service "
            "Unavailable: <Error><Code>SlowDown</Code></Error>\n\nDebug source:\nGeneric",
            "no proper response (503 Service Unavailable, SlowDown, from http://h, tried 11 "
            "times); rerun the same command later",
        ),
        (
            "Generic S3 error: Error performing GET http://h/k in 60.1s, after 2 retries - HTTP "
            "error: error sending request\n\nDebug source:\n",
            "no proper response (error sending request, from http://h, tried 3 times); "
            "rerun the same command later",
        ),
        (
            "Generic S3 error: Error performing GET http://u:secret@h:9/k in 60.1s, after 2 retries"
            " - HTTP error: error sending request\n\nDebug source:\n ... ConnectError(\n"
            '"tcp connect error", 10.0.0.1:9, Os { code: 111, kind: ConnectionRefused, ...',
            "no proper response (connection refused, from http://h:9, tried 3 times); start the "
            "server, or correct AWS_ENDPOINT_URL",
        ),
        (
            "Generic HTTP error: Error performing GET https://h/k in 1s - HTTP error: error sending"
            ' request\n\nDebug source:\n ... ConnectError( "dns error", Custom {',
            "no proper response (unknown host, from https://h); start the server, or correct "
            "the URL",
        ),
        (
            "Generic HTTP error: Error performing GET https://h/k in 1s - HTTP error: error sending"
            " request\n\nDebug source:\n ... kind: InvalidData, error: InvalidCertificate( Expired",
            "no proper response (its certificate is not trusted, from https://h); start the "
            "server, or correct the URL",
        ),
        (
            "Generic HTTP error: Error performing GET http://h/k?sig=secret in 3s, after 1 retries "
            "- Server returned non-2xx status code: 400 Bad Request: x",
            "the request failed (400 Bad Request, from http://h, tried 2 times)",
        ),
        (
            "Generic HTTP error: HTTP error: request or response body error\n\nDebug source:",
            "no proper response (request or response body error); rerun the same command later",
        ),
        (
            "status code: 403 Forbidden: <Code>RequestTimeTooSkewed</Code>",
            "the clock of this machine is wrong by minutes; set it and rerun the command",
        ),
        (
            "Error performing PUT http://169.254.169.254/latest/api/token - HTTP error: x",
            "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "AWS_SKIP_SIGNATURE=true for a public bucket",
        ),
    ],
)
def test_a_failed_request_is_explained_in_one_line(text: str, said: str) -> None:
    assert reason(Exception(text)) == said
    assert "secret" not in said


def test_what_is_denied_is_explained_in_one_line() -> None:
    exceptions = pytest.importorskip("obstore.exceptions")
    text = (
        "The operation lacked privileges: Error performing GET https://h/k?sig=secret in 1ms - "
        "Server returned non-2xx status code: 403 Forbidden: <Code>InvalidAccessKeyId</Code>"
    )
    assert reason(exceptions.PermissionDeniedError(text)) == (
        "access denied (403 Forbidden, InvalidAccessKeyId, from https://h); check the "
        "credentials in the environment"
    )


def test_requests_are_tried_again_for_a_minute_or_what_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert Retries.from_environment() == Retries(60.0, 20.0)
    monkeypatch.setenv("EMBEDSEG_RETRY_SECONDS", "600")
    assert Retries.from_environment() == Retries(600.0, 20.0)
    monkeypatch.setenv("EMBEDSEG_RETRY_SECONDS", "soon")
    with pytest.raises(UsageError, match="EMBEDSEG_RETRY_SECONDS=soon is not a positive number"):
        Retries.from_environment()
    assert list(Retries(total=0.05).pauses()) == []
    assert next(Retries(total=1.0).pauses()) < 0.2
