"""Attacks and accidents: what must not happen to data, and what must be said."""
import errno
import functools
import http.server
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import textwrap
import threading
import time
import zipfile
from pathlib import Path

import pytest

from lessonlib import data, download
from lessonlib.core import atomic_path
from lessonlib.download import DataError


class _Handler(http.server.SimpleHTTPRequestHandler):
    cut_off = False

    def log_message(self, *arguments): pass

    def copyfile(self, source, output):
        output.write(source.read()[:1000] if self.cut_off else source.read())


@pytest.fixture
def server(tmp_path):
    (tmp_path / "www").mkdir()
    handler = type("Handler", (_Handler,), {})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=tmp_path / "www"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.handler, server.root = handler, tmp_path / "www"
    server.url = lambda name: f"http://127.0.0.1:{server.server_port}/{name}"
    yield server
    server.shutdown()


def make_zip(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items(): archive.writestr(name, content)
    return path


@pytest.fixture
def toy(server, tmp_path, monkeypatch):
    """A catalogue with one data set, which the local server gives out."""
    archive = make_zip(server.root / "toy.zip", {f"toy/images/{i}.jpg": os.urandom(5000) for i in range(20)})
    catalogue = tmp_path / "catalogue.toml"

    def write(hash_=None, kind="url"):
        catalogue.write_text(textwrap.dedent(f"""
            [packages]
            [datasets.toy]
            title = "Toy"
            task = "test"
            folder = "toy"
            files = ["images/*.jpg"]
            licence = "none"
            citation = "none"
            page = "https://example.com"
            [datasets.toy.sample]
            kind = "made"
            maker = "toy_maker:make"
            version = 1
            [datasets.toy.full]
            kind = "{kind}"
            url = "{server.url('toy.zip')}"
            competition = "toy-competition"
            hash = "{hash_ or 'sha256:' + download.file_hash(archive)}"
            """), encoding="utf-8")
        data._read_catalogue.cache_clear()

    write()
    monkeypatch.setattr(data, "shipped_file", lambda name: catalogue)
    monkeypatch.setenv("LESSONS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LESSONS_SCALE", "small")
    monkeypatch.delenv("LESSONS_DATA", raising=False)
    yield write
    data._read_catalogue.cache_clear()


def kept(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache").rglob("*"))


def test_a_real_set_is_downloaded_once(toy, server, tmp_path):
    folder = data.get_data("toy")
    assert len(list(folder.glob("images/*.jpg"))) == 20
    (server.root / "toy.zip").unlink()
    assert data.get_data("toy") == folder
    assert kept(tmp_path).count("toy.zip") == 0


def test_a_corrupted_download_is_refused_and_gone(toy, tmp_path):
    toy(hash_="sha256:" + "0" * 64)
    with pytest.raises(DataError, match="the sha256 of toy.zip is .*expected 0000"): data.get_data("toy")
    assert kept(tmp_path) == []


def test_a_download_that_breaks_off_is_refused_and_gone(toy, server, tmp_path):
    server.handler.cut_off = True
    with pytest.raises(DataError, match="toy.zip"): data.get_data("toy")
    assert kept(tmp_path) == []
    server.handler.cut_off = False
    assert data.get_data("toy").is_dir()


def test_a_server_that_is_not_there_is_named(toy, server):
    server.shutdown()
    server.server_close()
    with pytest.raises(DataError, match="toy.zip could not be fetched"): data.get_data("toy")


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/tmp/evil", "..\\evil", "C:/evil"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_cannot_write_outside_of_its_folder(tmp_path, name, kind):
    archive = tmp_path / f"evil.{kind}"
    if kind == "zip":
        make_zip(archive, {"good": "x", name: "x"})
    else:
        with tarfile.open(archive, "w") as opened:
            for member in ("good", name): opened.addfile(tarfile.TarInfo(member), io.BytesIO())
    with pytest.raises(DataError, match="outside of its folder"): download.unpack(archive, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == [archive.name]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_an_archive_with_links_or_devices_is_refused(tmp_path, kind):
    info = tarfile.TarInfo("link")
    info.type, info.linkname = kind, "/etc/passwd"
    with tarfile.open(tmp_path / "evil.tar", "w") as opened: opened.addfile(info)
    with pytest.raises(DataError, match="neither a file nor a folder"):
        download.unpack(tmp_path / "evil.tar", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_interrupted_unpack_leaves_nothing(toy, tmp_path, monkeypatch):
    def interrupted(archive, folder):
        (folder / "images").mkdir(parents=True)
        (folder / "images/0.jpg").touch()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(download, "_unpack_zip", interrupted)
        with pytest.raises(KeyboardInterrupt): data.get_data("toy")
    assert not (tmp_path / "cache/toy").exists()
    assert len(list(data.get_data("toy").glob("images/*.jpg"))) == 20


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_killed_program_leaves_no_half_set_under_the_real_name(tmp_path):
    code = ("import sys, time; from pathlib import Path; from lessonlib.core import atomic_path\n"
            "with atomic_path(Path(sys.argv[1]) / 'set') as path:\n"
            "    path.mkdir(); (path / 'half').touch(); print('now', flush=True); time.sleep(60)")
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (tmp_path / "set").exists()
    left, = tmp_path.iterdir()
    os.utime(left, (time.time() - 2 * 86400,) * 2)
    with atomic_path(tmp_path / "set") as path: path.mkdir()
    assert [item.name for item in tmp_path.iterdir()] == ["set"]


def test_no_disk_space_is_said_before_the_download(toy, monkeypatch, tmp_path):
    import shutil
    full = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(DataError, match=r"0.0 GB free, .* needed.*LESSONS_CACHE"): data.get_data("toy")
    assert not (tmp_path / "cache/toy").exists()


def test_a_disk_that_fills_up_loses_nothing(tmp_path):
    file = tmp_path / "results.txt"
    file.write_text("old", encoding="utf-8")
    with pytest.raises(OSError, match="No space"), atomic_path(file) as temporary:
        temporary.write_text("ne", encoding="utf-8")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert file.read_text(encoding="utf-8") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["results.txt"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_model_that_does_not_fit_on_the_disk_leaves_the_old_one(tmp_path):
    code = textwrap.dedent("""
        import resource, sys
        from torch import nn
        from lessonlib.models import ModelCard, ModelError, load_model, save_model
        build = lambda n: nn.Linear(n, 1)
        save_model(sys.argv[1], build(3), ModelCard("pets", {"n": 3}))
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        try:
            save_model(sys.argv[1], build(100_000), ModelCard("pets", {"n": 100_000}))
        except ModelError as error:
            print("untouched" in str(error))
        print(load_model(sys.argv[1], build)[1].architecture["n"])
        """)
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "model")], capture_output=True, text=True)
    assert done.stdout.split() == ["True", "3"], done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_kaggle_without_credentials_says_what_to_do(toy, monkeypatch, tmp_path):
    toy(kind="kaggle")
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "none"))
    monkeypatch.delenv("KAGGLE_KEY", raising=False)
    with pytest.raises(DataError, match="kaggle.com/c/toy-competition/rules.*put them into .*toy"):
        data.get_data("toy")


def test_a_sample_is_made_whole_or_not_at_all(toy, monkeypatch, tmp_path):
    monkeypatch.setenv("LESSONS_SCALE", "sample")
    (tmp_path / "toy_maker.py").write_text(textwrap.dedent("""
        def make(dest):
            (dest / "images").mkdir()
            (dest / "images/1.jpg").write_bytes(b"x")
            if fail: raise OSError("interrupted")
        fail = True
        """), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(OSError, match="interrupted"): data.get_data("toy")
    assert kept(tmp_path) == ["sample"]
    import toy_maker
    toy_maker.fail = False
    folder = data.get_data("toy")
    mark = json.loads((folder / ".lessonlib.json").read_text(encoding="utf-8"))
    assert mark == {"name": "toy", "version": 1}


def test_a_package_of_another_hash_is_refused(monkeypatch, tmp_path):
    with pytest.raises(DataError, match="could not be downloaded"):
        download.fetch_package("six", "1.16.0", "0" * 64, tmp_path / "six-1.16.0-py2.py3-none-any.whl")
    assert list(tmp_path.iterdir()) == []


def test_without_a_network_a_missing_package_is_explained(monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(DataError, match="Connect to the network once"):
        download.fetch_package("six", "1.16.0", "0" * 64, tmp_path / "six-1.16.0-py2.py3-none-any.whl")


def test_an_old_download_under_the_right_name_is_not_trusted(monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    (tmp_path / "six.whl").write_bytes(b"half")
    with pytest.raises(DataError, match="could not be downloaded"):
        download.fetch_package("six", "1.16.0", "0" * 64, tmp_path / "six.whl")
    assert Path(tmp_path / "six.whl").read_bytes() == b"half"
