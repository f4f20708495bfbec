"""Files to real OpenSSH servers and back: what arrives, and what is never seen."""

from __future__ import annotations

import io
import os
import shutil
import stat
import tarfile
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from subprocess import run as run_program
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import psutil
import pytest

from tests.integration.ssh.processes import until
from tests.integration.ssh.servers import Fleet, Server, kill
from windtunnel.errors import EnvironmentFailed, HostFailed, HostLost
from windtunnel.protocols import FileShare, Progress, Transferred
from windtunnel.services.ssh import SshService
from windtunnel.services.ssh.archives import UnsafeArchive, unpack
from windtunnel.services.ssh.files import SshFiles
from windtunnel.services.ssh.local_files import part_id

Transfer = Callable[..., Awaitable[Transferred]]

NAMES = [
    "plain",
    'it\'s "quoted" \\ and \\n',
    "first\nsecond\n",
    "$(touch evil) `touch evil` ${HOME}",
    "-rf",
    " ; & | > * ? [a] ~ #! ",
    "Grüße 世界",
    os.fsdecode(b"\xff\xfe"),
    "x" * 255,
]


@pytest.fixture
async def files(service: SshService) -> SshFiles:
    return SshFiles(service)


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """A directory on the host, which is this machine."""
    (tmp_path / "there").mkdir()
    return tmp_path / "there"


def write(path: Path, content: bytes, mode: int = 0o640) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
    return path


def left(folder: Path) -> list[str]:
    """Names of what was never completed."""
    return [name for _, *names in os.walk(folder) for some in names for name in some if ".windtunnel" in name]


def ours(path: Path) -> list[int]:
    """The server's processes below which a program has a file of ours open."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(one.path.startswith(str(path)) for one in process.open_files()):
                found += [parent.pid for parent in process.parents() if parent.name().startswith("sshd")][:1]
        except psutil.Error:
            continue
    return found


def facts(root: Path) -> dict[str, object]:
    """All that is kept of a tree."""
    found: dict[str, object] = {}
    for path in [root, *root.rglob("*")]:
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = os.readlink(path)
        else:
            mode = stat.S_IMODE(path.stat().st_mode)
            found[name] = (mode, None if path.is_dir() else path.read_bytes())
    return found


def test_it_is_a_file_share() -> None:
    assert isinstance(SshFiles(SshService()), FileShare)


# What arrives


async def test_files_with_any_name_go_there_and_back(files: SshFiles, there: Path, tmp_path: Path) -> None:
    for number, name in enumerate(NAMES):
        content = os.urandom(1000 * number)
        local = write(tmp_path / "here" / name, content, 0o751 if number % 2 else 0o640)
        target, back = there / "new" / name, tmp_path / "back" / name
        assert await files.upload("web", local, str(target)) == Transferred(files=1, size=len(content))
        assert await files.download("web", str(target), back) == Transferred(files=1, size=len(content))
        for copy in (target, back):
            assert copy.read_bytes() == content
            assert copy.stat().st_mode == local.stat().st_mode
    assert len(os.listdir(there / "new")) == len(NAMES)
    assert not left(tmp_path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    for number, name in enumerate(NAMES):
        write(root / name, bytes([number]) * number * 300, 0o755 if number % 2 else 0o604)
        write(root / "sub" / f"{name[:200]} dir" / "file", b"below")
    (root / "empty").mkdir(mode=0o750)
    (root / "sub").chmod(0o711)
    (root / ".hidden").symlink_to("sub")
    (root / "sub" / "up").symlink_to("../plain")
    (root / "dangling").symlink_to("nowhere")
    return root


async def test_trees_go_there_and_back(files: SshFiles, tree: Path, there: Path, tmp_path: Path) -> None:
    kept = facts(tree)
    done = await files.upload("web", tree, str(there / "copy"))
    assert (done.files, done.skipped) == (2 * len(NAMES) + 3, 0)
    assert facts(there / "copy") == kept
    assert await files.download("web", str(there / "copy"), tmp_path / "back") == done
    assert facts(tmp_path / "back") == kept
    assert not left(tmp_path)


async def test_only_what_has_changed_is_sent_into_a_tree(
    files: SshFiles, tree: Path, there: Path, tmp_path: Path
) -> None:
    copy = there / "copy"
    await files.upload("web", tree, str(copy))
    write(copy / "sub" / "own", b"stays")
    untouched = (copy / "plain").stat().st_mtime_ns, (copy / "plain").stat().st_ino
    write(tree / NAMES[2], b"other content", 0o600)
    write(tree / "sub" / "deep" / "new", b"new")
    (tree / NAMES[1]).chmod(0o700)
    done = await files.upload("web", tree, str(copy))
    assert (done.files, done.skipped, done.size) == (5, 2 * len(NAMES) - 1, 16)
    assert (await anyio.to_thread.run_sync(facts, copy)) == {
        **(await anyio.to_thread.run_sync(facts, tree)),
        "sub/own": (0o640, b"stays"),
    }
    assert ((copy / "plain").stat().st_mtime_ns, (copy / "plain").stat().st_ino) == untouched
    # And back, into a tree that is there.
    write(copy / "plain", b"results")
    done = await files.download("web", str(copy), tree)
    assert (done.files, done.skipped) == (5, 2 * len(NAMES))
    assert (await anyio.to_thread.run_sync(facts, tree)) == (await anyio.to_thread.run_sync(facts, copy))
    assert not left(tmp_path)


async def test_what_is_there_is_not_sent_again(files: SshFiles, there: Path, tmp_path: Path) -> None:
    local, target = write(tmp_path / "file", b"content"), there / "file"
    await files.upload("web", local, str(target))
    before = target.stat()
    local.chmod(0o755)
    os.utime(local)
    assert await files.upload("web", local, str(target)) == Transferred(skipped=1)
    assert (target.stat().st_ino, target.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert target.stat().st_mode == local.stat().st_mode
    assert await files.download("web", str(target), local) == Transferred(skipped=1)
    # Of the same size and time, and yet another one.
    local.write_bytes(b"CONTENT")
    os.utime(local, ns=(before.st_mtime_ns, before.st_mtime_ns))
    assert await files.upload("web", local, str(target)) == Transferred(files=1, size=7)
    assert target.read_bytes() == b"CONTENT"


async def test_progress_is_told(files: SshFiles, there: Path, tmp_path: Path) -> None:
    told: list[Progress] = []

    async def on_progress(progress: Progress) -> None:
        told.append(progress)

    size = 1_300_000
    local = write(tmp_path / "file", os.urandom(size))
    for _ in range(2):
        await files.upload("web", local, str(there / "file"), on_progress=on_progress)
        assert told[-1] == Progress(host="web", path=local, done=size, total=size)
    await files.download("web", str(there / "file"), tmp_path / "back", on_progress=on_progress)
    done = [one.done for one in told if one.path == tmp_path / "back"]
    assert done == sorted(done)
    assert len(done) > 4
    assert done[-1] == size


# What cannot be done


async def test_every_failure_names_the_host_and_the_reason(
    files: SshFiles, there: Path, tmp_path: Path
) -> None:
    local, folder = write(tmp_path / "file", b"x"), there / "folder"
    folder.mkdir()
    os.mkfifo(there / "pipe")
    (tmp_path / "tree").mkdir()
    cases = [
        (files.upload("web", tmp_path / "none", str(there / "x")), "No such file or directory"),
        (files.upload("web", local, str(folder)), "it is a directory"),
        (files.upload("web", local, str(there / "pipe")), "it is no file"),
        (files.upload("web", tmp_path / "tree", str(there / "x"), recursive=False), "recursive is off"),
        (files.upload("web", tmp_path / "tree", str(there / "pipe")), "no directory"),
        (files.upload("web", local, "/proc/sys/none"), "No such file|nonexistent|not permitted|denied"),
        (files.upload("web", local, ""), "no path"),
        (files.upload("web", local, "a\0b"), "NUL"),
        (files.download("web", str(there / "none"), tmp_path / "x"), "there is no such file"),
        (files.download("web", str(there / "pipe"), tmp_path / "x"), "neither a file nor a directory"),
        (files.download("web", str(folder), tmp_path / "x", recursive=False), "recursive is off"),
        (files.download("web", str(folder), local), "no directory"),
        (files.download("web", "/etc/passwd", there), "is a directory"),
    ]
    for work, message in cases:
        with pytest.raises(EnvironmentFailed, match=rf"(?s)host 'web': .*({message})"):
            await work
    assert not (tmp_path / "x").exists()
    assert not left(tmp_path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Of 256 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = run_program(["mount", "-t", "tmpfs", "-o", "size=256k", "none", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("NO DISK IS FILLED: that takes the right to mount one")
    yield folder
    run_program(["umount", folder], check=True)


async def test_a_full_or_read_only_disk_says_so(files: SshFiles, small_disk: Path, tmp_path: Path) -> None:
    write(small_disk / "target", b"before")
    big = write(tmp_path / "tree" / "big", os.urandom(3_000_000))
    full = "host 'web': .*: No space left on device$"
    with pytest.raises(HostFailed, match=full):
        await files.upload("web", big, str(small_disk / "target"))
    with pytest.raises(HostFailed, match=full):
        await files.upload("web", big.parent, str(small_disk / "tree"))
    with pytest.raises(EnvironmentFailed, match=r"No space left on device.*on this machine"):
        await files.download("web", str(big), small_disk / "back")
    with pytest.raises(EnvironmentFailed, match=r"No space left on device.*on this machine"):
        await files.download("web", str(big.parent), small_disk / "back")
    remount = ["mount", "-o", "remount,ro", str(small_disk)]
    await anyio.to_thread.run_sync(lambda: run_program(remount, check=True))
    with pytest.raises(HostFailed, match=r"host 'web': .*: Read-only file system$"):
        await files.upload("web", write(tmp_path / "small", b"x"), str(small_disk / "new"))
    assert os.listdir(small_disk) == ["target"]
    assert (small_disk / "target").read_bytes() == b"before"


@pytest.mark.parametrize(
    "member",
    [
        {"name": "/etc/evil"},
        {"name": "../evil"},
        {"name": "a/../../evil"},
        {"name": "link/evil"},
        {"name": "evil", "type": tarfile.LNKTYPE, "linkname": "../../secret"},
    ],
)
def test_an_archive_writes_nothing_outside(tmp_path: Path, member: dict[str, object]) -> None:
    (tmp_path / "secret").write_text("secret")
    root = tmp_path / "a" / "root"
    root.mkdir(parents=True)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tape:
        for name, target in [("link", ".."), ("up", "sub/down/.."), ("down", "sub"), ("abs", "/etc")]:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tape.addfile(info)
        info = tarfile.TarInfo()
        for key, value in member.items():
            setattr(info, key, value)
        tape.addfile(info)
    stream.seek(0)
    with pytest.raises(UnsafeArchive):
        unpack(stream, root)
    assert sorted(os.listdir(tmp_path)) == ["a", "secret"]
    assert os.listdir(tmp_path / "a") == ["root"]


async def test_links_out_of_a_tree_are_left_out(files: SshFiles, there: Path, tmp_path: Path) -> None:
    (there / "a" / "b").mkdir(parents=True)
    for name, target in {
        "a/b/top": "../..",
        "escape": "a/b/top/../..",
        "chained": "escape/x",
        "absolute": "/etc",
        "fine": "a/b/top/a",
    }.items():
        (there / name).symlink_to(target)
    await files.download("web", str(there), tmp_path / "back")
    assert sorted(str(p.relative_to(tmp_path / "back")) for p in (tmp_path / "back").rglob("*")) == [
        "a",
        "a/b",
        "a/b/top",
        "fine",
    ]


async def test_an_upload_does_not_follow_links_there(files: SshFiles, there: Path, tmp_path: Path) -> None:
    (there / "outside").mkdir()
    (there / "tree").mkdir()
    (there / "tree" / "sub").symlink_to("../outside")
    write(tmp_path / "tree" / "sub" / "file", b"x")
    with pytest.raises(EnvironmentFailed, match="sub is there and no directory"):
        await files.upload("web", tmp_path / "tree", str(there / "tree"))
    assert os.listdir(there / "outside") == []
    assert not left(there)


# Cut off


BIG = 5_000_000


@pytest.fixture
def big(tmp_path: Path) -> Path:
    return write(tmp_path / "big", os.urandom(BIG))


async def cut_off(transfer: Transfer, *where: object, when: int, cut: Callable[[], object]) -> None:
    """Begin a transfer with the host ``web``, and call ``cut`` when so much of it is done."""
    is_cut = False

    async def on_progress(progress: Progress) -> None:
        nonlocal is_cut
        if progress.done >= when and not is_cut:
            is_cut = True
            await anyio.to_thread.run_sync(cut)
            await anyio.sleep(0)

    await transfer("web", *where, on_progress=on_progress)
    assert not is_cut, "the transfer was not cut off"


@pytest.mark.parametrize("when", [0, 1, BIG // 2, BIG])
async def test_a_cancelled_transfer_leaves_nothing(
    files: SshFiles, big: Path, there: Path, tmp_path: Path, when: int
) -> None:
    target, back = there / "target", tmp_path / "back"
    tree = write(there / "tree" / "file", big.read_bytes()).parent
    for transfer, *where in (
        (files.upload, big, str(target)),
        (files.upload, tree, str(target)),
        (files.download, str(big), back),
        (files.download, str(tree), back),
    ):
        with anyio.CancelScope() as scope:
            cancel = partial(anyio.from_thread.run_sync, scope.cancel)
            await cut_off(transfer, *where, when=when, cut=cancel)
        assert scope.cancelled_caught
        assert not target.exists()
        assert not back.exists()
        assert not left(tmp_path)
    assert await files.upload("web", big, str(target)) == Transferred(files=1, size=BIG)


async def test_cancelled_while_it_is_prepared_or_checked_it_leaves_nothing(
    files: SshFiles, there: Path, tmp_path: Path
) -> None:
    write(tmp_path / "tree" / "file", b"x" * 100_000)
    works: list[Callable[[], Coroutine[Any, Any, Transferred]]] = [
        partial(files.upload, "web", tmp_path / "tree" / "file", str(there / "file")),
        partial(files.upload, "web", tmp_path / "tree", str(there / "tree")),
        partial(files.download, "web", str(tmp_path / "tree"), there / "back"),
    ]
    for turns in range(1, 60, 5):
        for work in works:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(work)
                    for _ in range(turns):
                        await anyio.sleep(0)
                    scope.cancel()
            assert not left(tmp_path)


@pytest.mark.usefixtures("openssh")
async def test_a_lost_upload_goes_on_where_it_was(server: Server, big: Path, there: Path) -> None:
    async with SshService(hosts={"web": server.options()}) as service:
        files, target = SshFiles(service), there / "target"
        with pytest.raises(HostLost, match=r"'web'.*a file was uploaded"):
            await cut_off(files.upload, big, str(target), when=BIG * 4 // 5, cut=lambda: kill(*ours(there)))
        assert not target.exists()
        await until(lambda: not ours(there))
        assert len(left(there)) == 1
        done = await files.upload("web", big, str(target))
        assert done.resumed >= 1_048_576
        assert target.read_bytes() == big.read_bytes()
        assert not left(there)


async def test_what_was_left_of_another_file_is_not_used(
    files: SshFiles, big: Path, there: Path, tmp_path: Path
) -> None:
    for folder in (there, tmp_path):
        name = f".windtunnel-{part_id('target')}-{os.uname().nodename}-"
        write(folder / f"{name}999999999.1", os.urandom(2_000_000))
        write(folder / f"{name}999999998.1", os.urandom(10))
        in_use = write(folder / f"{name}1.1", b"of a process that lives", 0o600)
    done = await files.upload("web", big, str(there / "target"))
    assert (done.resumed, (there / "target").read_bytes()) == (0, big.read_bytes())
    done = await files.download("web", str(big), tmp_path / "target")
    assert (done.resumed, (tmp_path / "target").read_bytes()) == (0, big.read_bytes())
    assert left(there) == [in_use.name]
    assert left(tmp_path) == [in_use.name] * 2


@pytest.mark.usefixtures("openssh")
async def test_a_lost_download_goes_on_where_it_was(
    server: Server, big: Path, there: Path, tmp_path: Path
) -> None:
    async with SshService(hosts={"web": server.options()}) as service:
        files, target = SshFiles(service), tmp_path / "target"
        with pytest.raises(HostLost, match=r"'web'.*a file was downloaded"):
            await cut_off(files.download, str(big), target, when=BIG * 4 // 5, cut=lambda: kill(*ours(big)))
        assert not target.exists()
        assert len(left(tmp_path)) == 1
        done = await files.download("web", str(big), target)
        assert done.resumed >= 1_048_576
        assert target.read_bytes() == big.read_bytes()
        assert not left(tmp_path)


async def test_a_file_that_changes_meanwhile_does_not_arrive(
    files: SshFiles, big: Path, there: Path, tmp_path: Path
) -> None:
    def change() -> None:
        os.truncate(big, BIG - 100)

    with pytest.raises(EnvironmentFailed, match="changed"):
        await cut_off(files.upload, big, str(there / "target"), when=1, cut=change)
    with pytest.raises(EnvironmentFailed, match="changed"):
        await cut_off(files.download, str(big), there / "back", when=1, cut=lambda: write(big, b"short"))
    assert os.listdir(there) == []


# Hosts with less


TOOLS = [
    *("cat", "chmod", "find", "grep", "head", "kill", "ls", "mkdir", "mv"),
    *("rm", "sh", "sleep", "tail", "tar", "uname", "wc"),
]


async def test_a_host_without_checksums_and_gnu_tools_will_do(
    servers: Fleet, tree: Path, tmp_path: Path
) -> None:
    """Many small hosts have nothing but busybox."""
    tools = tmp_path / "tools"
    tools.mkdir()
    busybox = shutil.which("busybox")
    for name in TOOLS:
        (tools / name).symlink_to(busybox or shutil.which(name) or "")
    server = servers.server(SetEnv=f"SHLVL=2 PATH={tools}")
    local = write(tmp_path / "file", os.urandom(1_000_000), 0o755)
    async with SshService(hosts={"web": server.options()}) as service:
        files, there = SshFiles(service), tmp_path / "there"
        for _ in range(2):  # it cannot tell that they are there already
            assert (await files.upload("web", local, str(there / "file"))).files == 1
            assert (await files.upload("web", tree, str(there / "tree"))).skipped == 0
        assert (there / "file").read_bytes() == local.read_bytes()
        assert (there / "file").stat().st_mode == local.stat().st_mode
        await files.download("web", str(there / "tree"), tmp_path / "back")
        await files.download("web", str(there / "file"), tmp_path / "file back")
    assert (await anyio.to_thread.run_sync(facts, tree)) == facts(there / "tree") == facts(tmp_path / "back")
    assert (tmp_path / "file back").read_bytes() == local.read_bytes()
    assert not left(tmp_path)


async def test_transfers_share_the_channels_of_a_connection(
    server: Server, there: Path, tmp_path: Path
) -> None:
    """Each of them takes several, one after the other, and so do scripts."""
    tree = write(tmp_path / "tree" / "file", b"x").parent
    options = server.options(channels=2)
    async with SshService(hosts={"web": options}) as service, service.session("web") as session:
        files = SshFiles(service)
        with anyio.fail_after(15):
            async with anyio.create_task_group() as group:
                for number in range(6):
                    group.start_soon(files.upload, "web", tree, str(there / str(number)))
                    group.start_soon(partial(session.run, ["sleep 0.05"], env={}))
    assert len(os.listdir(there)) == 6
