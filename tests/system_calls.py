"""What a process, native code included, asks of the system: names, addresses, files it writes."""

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_address
from pathlib import Path

import pytest

NETWORK = ("connect", "bind", "sendto", "sendmsg", "sendmmsg")
# io_uring would do all of this unseen.
CALLS = "open,openat,openat2,creat,mkdir,mkdirat,mknod,mknodat,io_uring_setup,socket," + (
    "rename,renameat,renameat2,link,linkat,symlink,symlinkat," + ",".join(NETWORK)
)
# What the C library's resolver reads before it asks anyone for a name.
RESOLVER = ("/etc/hosts", "/etc/resolv.conf", "/etc/host.conf")

_CALL = re.compile(r"(?:\d+ +)?(\w+)\((.*)")
_ADDRESS = re.compile(r'inet_(?:addr\(|pton\(AF_INET6, )"([^"]+)"')
# With -y a folder's descriptor is followed by its path: openat(AT_FDCWD</home/you>, "file", ...
_PATH = re.compile(r'(?:[\w-]+<([^>]*)>, )?"((?:[^"\\]|\\.)*)"')


def _is_this_machine(text: str) -> bool:
    address = ip_address(text)  # perhaps IPv4 as IPv6, ::ffff:127.0.0.1
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


@dataclass(frozen=True)
class SystemCalls:
    """Attempts, whether they succeeded or not.

    Attributes:
        lookups: reads of the resolver's files.
        addresses: of other machines; and kinds of sockets that are neither local nor IP.
        written: paths opened for writing, created, or made by renaming and linking.
    """

    lookups: tuple[str, ...]
    addresses: tuple[str, ...]
    written: tuple[Path, ...]

    def written_outside(self, *folders: Path) -> list[Path]:
        """What was written neither below these folders nor into devices and the kernel's files."""
        allowed = (*folders, Path("/dev"), Path("/proc"))
        outside = {
            path for path in self.written if not any(path.is_relative_to(each) for each in allowed)
        }
        return sorted(outside)


def traced(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path
) -> tuple[SystemCalls, subprocess.CompletedProcess[str]]:
    """Run a command to its end, with all processes that it starts.

    Args:
        command: as for `subprocess.run`.
        environment: all of it.
        folder: the current one.
        log: where strace writes to.
    """
    if not _can_trace():
        pytest.skip("strace is not installed, or may not trace here")
    options = ["-f", "--seccomp-bpf", "-y", "-s", "4096", "-o", str(log), "-e", f"trace={CALLS}"]
    done = subprocess.run(
        ["strace", *options, *command],
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder,
        timeout=900,
    )
    return _parsed(log.read_text(errors="replace"), folder), done


@cache
def _can_trace() -> bool:
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-qq", "-e", "trace=none", "true"]).returncode == 0


def _parsed(log: str, folder: Path) -> SystemCalls:
    lookups, addresses, written = [], [], []
    for line in log.splitlines():
        match = _CALL.match(line)
        if match is None:  # a signal, an exit, the second half of a call
            continue
        name, arguments = match.groups()
        if name == "io_uring_setup":
            addresses.append(name)
        elif name == "socket":
            if not arguments.startswith(("AF_UNIX", "AF_INET", "AF_NETLINK")):
                addresses.append(arguments)
        elif name in NETWORK:
            found = _ADDRESS.findall(arguments)
            addresses += [each for each in found if not _is_this_machine(each)]
        else:
            paths = [folder / base / path for base, path in _PATH.findall(arguments)]
            lookups += [str(path) for path in paths if str(path) in RESOLVER]
            if not name.startswith("open") or re.search("O_(WRONLY|RDWR|CREAT)", arguments):
                written.append(paths[-1])  # the second, of a call that has two
    return SystemCalls(tuple(lookups), tuple(addresses), tuple(written))
