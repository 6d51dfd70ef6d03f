"""What every implementation of `harness.pool.files.Files` must do, whether a worker shares the driver's disk or not."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.pool import remote_files
from harness.pool.files import Files, LocalFiles
from harness.pool.remote_files import BLOCK, FileHost, ShippedFiles


def tree(path: Path) -> dict[str, bytes]:
    return {
        file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()
    }


class FilesContract:
    """Every implementation inherits these."""

    @pytest.fixture
    def files(self, tmp_path, monkeypatch) -> Files:
        raise NotImplementedError

    @pytest.fixture
    def home(self, tmp_path) -> Path:
        """A folder of the driver's host."""
        made = tmp_path / "driver's host"
        made.mkdir()
        return made

    @pytest.fixture
    def data(self, home) -> Path:
        made = home / "data"
        (made / "deep").mkdir(parents=True)
        (made / "big").write_bytes(os.urandom(BLOCK + 7))
        (made / "empty").write_bytes(b"")
        (made / "deep" / "ä b").write_bytes(b"x")
        return made

    def send(self, files: Files, folder: Path, content: dict[str, bytes]) -> None:
        made = files.place(str(folder))
        assert made.parent.is_dir()
        made.mkdir()
        for name, text in content.items():
            (made / name).write_bytes(text)
        files.send(made, str(folder))

    def test_a_folder_is_fetched_whole_and_once(self, files, data):
        copy = files.fetch(str(data))
        assert tree(copy) == tree(data) and copy.name == data.name
        assert files.fetch(str(data)) == copy

    def test_one_file_is_fetched(self, files, data):
        assert files.fetch(str(data / "big")).read_bytes() == (data / "big").read_bytes()

    def test_what_was_made_is_on_the_drivers_host_after_it_was_sent(self, files, home):
        self.send(files, home / "adapters" / "final", {"adapter": b"1", "empty": b""})
        assert tree(home / "adapters" / "final") == {"adapter": b"1", "empty": b""}

    def test_one_file_is_sent(self, files, home):
        made = files.place(str(home / "scores.parquet"))
        made.write_bytes(b"scores")
        files.send(made, str(home / "scores.parquet"))
        assert (home / "scores.parquet").read_bytes() == b"scores"

    def test_nothing_is_left_beside_what_was_sent(self, files, home):
        self.send(files, home / "adapters" / "final", {"adapter": b"1"})
        assert files.names(str(home / "adapters")) == ["final"]

    def test_names_are_sorted_and_none_where_there_is_no_folder(self, files, home, data):
        assert files.names(str(data)) == ["big", "deep", "empty"]
        assert files.names(str(home / "absent")) == []

    def test_a_folder_and_a_file_are_removed_and_what_is_absent_is_no_error(self, files, home, data):
        self.send(files, home / "made", {"a": b"1"})
        for path in (home / "made", data / "big", home / "absent"):
            files.remove(str(path))
        assert files.names(str(home)) == ["data"] and not (data / "big").exists()

    def test_a_folder_that_was_removed_and_made_again_is_not_the_old_one(self, files, home):
        for content in (b"1", b"2"):
            self.send(files, home / "made", {"a": content})
            assert tree(files.fetch(str(home / "made"))) == {"a": content}
            files.remove(str(home / "made"))

    def test_another_path_than_the_place_is_refused_or_copied(self, files, home, tmp_path):
        other = tmp_path / "other"
        other.write_bytes(b"1")
        try:
            files.send(other, str(home / "here"))
        except ValueError as error:
            assert str(home / "here") in str(error) and "\n" not in str(error)
            assert not (home / "here").exists()
        else:
            assert (home / "here").read_bytes() == b"1"


class TestLocalFiles(FilesContract):
    @pytest.fixture
    def files(self, tmp_path, monkeypatch):
        return LocalFiles()


class OnAnotherHost(FilesContract):
    """Files through an actor, without Ray: its handle answers in this process. Ray's own is in test_remote_files."""

    node: str

    @pytest.fixture
    def files(self, tmp_path, monkeypatch):
        monkeypatch.setattr(remote_files.tempfile, "gettempdir", lambda: str(tmp_path / "worker"))
        (tmp_path / "worker").mkdir()
        here = SimpleNamespace(get_node_id=lambda: self.node)
        monkeypatch.setattr(remote_files.ray, "get_runtime_context", lambda: here)
        monkeypatch.setattr(remote_files.ray, "get", answered)
        return ShippedFiles(Handle(FileHost(str(tmp_path))), "driver", "run")


class Handle:
    def __init__(self, host: FileHost) -> None:
        self._host = host

    def __getattr__(self, method: str) -> Any:
        def remote(*arguments: Any) -> Any:
            try:
                return getattr(self._host, method)(*arguments)
            except OSError as error:
                return error

        return SimpleNamespace(remote=remote)


def answered(value: Any) -> Any:
    if isinstance(value, OSError):
        failed = remote_files.RayError(str(value))
        failed.cause = value  # type: ignore[attr-defined]
        raise failed
    return value


class TestShippedFilesElsewhere(OnAnotherHost):
    node = "worker"

    def test_what_is_absent_is_an_oserror(self, files, home):
        with pytest.raises(OSError, match="absent"):
            files.fetch(str(home / "absent"))

    def test_a_copy_that_does_not_arrive_whole_is_refused_and_not_kept(self, files, data, monkeypatch):
        monkeypatch.setattr(FileHost, "read", lambda self, name, file, start: b"other")
        for _ in range(2):
            with pytest.raises(OSError, match="completely"):
                files.fetch(str(data))


class TestShippedFilesAtHome(OnAnotherHost):
    node = "driver"
