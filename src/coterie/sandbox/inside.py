"""The inside of the sandbox: a separate program that confines itself and then runs a file of Python.

It imports only the standard library because it is started with `python -I -S inside.py SETTINGS`. The kernel
enforces every limit, and none can be lifted again: user, network, mount and IPC namespaces (best effort),
Landlock for files, seccomp for system calls, resource limits. It writes the layers that hold to the file
descriptor `status`, as one line of JSON. Without seccomp, or without both Landlock and the mount namespace of
bubblewrap, it stops before the program runs.

Numbers are from the Linux headers: asm/unistd_64.h, linux/landlock.h, linux/seccomp.h, linux/audit.h,
linux/prctl.h.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import runpy
import struct
import sys
import traceback
from typing import Any

# System call -> number on x86-64 and on arm64. They are refused because through them a process without
# privileges reaches other processes, the network, files without opening them, or memory that no limit counts.
REFUSED: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198), "socketpair": (53, 199),
    "clone": (56, 220), "clone3": (435, 435), "fork": (57, None), "vfork": (58, None),
    "execve": (59, 221), "execveat": (322, 281),
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "process_madvise": (440, 440), "kcmp": (312, 272),
    "setpriority": (141, 140), "sched_setparam": (142, 118), "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274), "sched_setaffinity": (203, 122), "ioprio_set": (251, 30),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "seccomp": (317, 277),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "io_setup": (206, 0),
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "msgget": (68, 186),
    "semget": (64, 190), "mq_open": (240, 180),
    "truncate": (76, 45), "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None), "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "setxattrat": (463, 463),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
    "utime": (132, None), "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "inotify_init": (253, None), "inotify_init1": (294, 26), "fanotify_init": (300, 262),
    "personality": (135, 92), "quotactl": (179, 60), "quotactl_fd": (443, 443), "acct": (163, 89),
    "syslog": (103, 116),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225),
    "sethostname": (170, 161), "setdomainname": (171, 162), "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171), "clock_adjtime": (305, 266), "vhangup": (153, 58),
    "iopl": (172, None), "ioperm": (173, None), "modify_ldt": (154, None),
}  # fmt: skip
# Refused for some values of one argument only: prlimit64 on other processes, and the commands of fcntl that
# send signals to the owner of a file. See the end of `filter_program`.
PRLIMIT64, FCNTL = (302, 261), (72, 25)
AUDIT_ARCH = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWNET = 0x00020000, 0x08000000, 0x10000000, 0x40000000
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
READ_FILE, READ_DIR, WRITE_FILE, TRUNCATE = 1 << 2, 1 << 3, 1 << 1, 1 << 14
# Write, read, remove, make directories and regular files, move between directories; but no links, devices or
# sockets.
WORK = WRITE_FILE | READ_FILE | READ_DIR | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 13 | TRUNCATE

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> int:
    """The result of a system call. Errors: `OSError` naming the call if it failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def enter_namespaces(work: str, disk: int) -> list[str]:
    """Enter new namespaces and mount a file system in memory of `disk` bytes on `work`.

    Returns the layers that this machine allowed. None is required, because other layers guard the same
    things.
    """
    uid, gid = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWNS) != 0:
        return []
    try:
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
        private = 1 << 18 | 1 << 14  # MS_PRIVATE | MS_REC
        check(libc.mount(b"none", b"/", None, ctypes.c_ulong(private), None), "mount")
        hardened = 1 << 1 | 1 << 2 | 1 << 3  # MS_NOSUID | MS_NODEV | MS_NOEXEC
        options = f"size={disk},nr_inodes=1024,mode=700".encode()
        check(libc.mount(b"tmpfs", work.encode(), b"tmpfs", ctypes.c_ulong(hardened), options), "mount")
    except OSError:
        return ["namespaces"]
    return ["namespaces", "tmpfs"]


def limit_resources(seconds: int, memory: int, file: int) -> None:
    """Set hard limits: CPU seconds, bytes of address space and of one file, open files; no core file."""
    limits = {
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_FSIZE: file,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
    }
    for name, value in limits.items():
        resource.setrlimit(name, (value, value))


def restrict_files(readable: list[str], work: str, writable: bool) -> bool:
    """Let Landlock allow reading `readable`, and writing in `work` if `writable`.

    False if the kernel has no Landlock. Errors: `OSError`.
    """
    version = libc.syscall(LANDLOCK_CREATE, None, 0, 1)
    if version < 1:
        return False
    handled = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1
    fields = [handled] + ([3] if version >= 4 else []) + ([3] if version >= 6 else [])  # files, TCP, scopes
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    ruleset = check(libc.syscall(LANDLOCK_CREATE, attributes, len(attributes), 0), "landlock")
    rules = [(path, READ_FILE | READ_DIR) for path in readable]
    rules += [
        (work, WORK if writable else READ_FILE | READ_DIR),
        ("/dev/null", READ_FILE | WRITE_FILE),
        ("/dev/urandom", READ_FILE),
    ]
    for path, access in rules:
        try:
            opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue  # a missing file needs no rule
        allowed = (
            access & handled
            if os.path.isdir(path)
            else access & handled & (READ_FILE | WRITE_FILE | TRUNCATE)
        )
        rule = struct.pack("=Qi", allowed, opened)
        check(libc.syscall(LANDLOCK_ADD, ruleset, 1, rule, 0), "landlock")
        os.close(opened)
    check(libc.syscall(LANDLOCK_RESTRICT, ruleset, 0), "landlock")
    os.close(ruleset)
    return True


def drop_privileges() -> None:
    """Give up every capability for good, even as root."""
    for capability in range(64):
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
    header, nothing = struct.pack("=Ii", 0x20080522, 0), bytes(24)
    check(libc.capset(header, nothing), "capset")
    check(libc.prctl(38, 1, 0, 0, 0), "no_new_privs")


def filter_program(machine: str) -> bytes | None:
    """The seccomp filter as classic BPF; None for a machine whose call numbers are unknown."""
    if machine not in AUDIT_ARCH:
        return None
    column, arch = AUDIT_ARCH[machine]
    numbers = sorted(n for pair in REFUSED.values() if (n := pair[column]) is not None)
    load, equal, greater, give = 0x20, 0x15, 0x35, 0x06
    refuse, allow, kill = 0x00050000 | 1, 0x7FFF0000, 0x80000000  # errno EPERM, allow, kill the process
    # (operation, value, jump if true, jump if false); named jumps go to the end and are resolved below.
    code: list[tuple[int, int, Any, Any]] = [
        (load, 4, 0, 0),
        (equal, arch, 1, 0),
        (give, kill, 0, 0),
        (load, 0, 0, 0),
        (greater, 0x40000000, "refuse", 0),  # the x32 twins of the same calls
        *((equal, number, "refuse", 0) for number in numbers),
        (equal, PRLIMIT64[column], 0, 2),
        (load, 16, 0, 0),
        (equal, 0, "allow", "refuse"),
        (equal, FCNTL[column], 0, "allow"),
        (load, 24, 0, 0),
        *((equal, command, "refuse", 0) for command in (8, 10, 15)),  # F_SETOWN, F_SETSIG, F_SETOWN_EX
    ]
    end = {"allow": len(code), "refuse": len(code) + 1}
    code += [(give, allow, 0, 0), (give, refuse, 0, 0)]
    resolved = []
    for place, (operation, value, true, false) in enumerate(code):
        jumps = [end[jump] - place - 1 if isinstance(jump, str) else jump for jump in (true, false)]
        resolved.append(struct.pack("=HBBI", operation, jumps[0], jumps[1], value))
    return b"".join(resolved)


def filter_calls() -> bool:
    """Install the filter. False if the machine's call numbers are unknown or the kernel has no seccomp."""
    program = filter_program(platform.machine())
    if program is None:
        return False
    buffer = ctypes.create_string_buffer(program)
    filled = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    return bool(libc.prctl(22, 2, filled, 0, 0) == 0)  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def run(path: str) -> None:
    """Run a file as `__main__`; a traceback shows only the frames of that file."""
    try:
        runpy.run_path(path, run_name="__main__")
    except Exception as error:
        place = error.__traceback__
        while place is not None and place.tb_frame.f_code.co_filename != path:
            place = place.tb_next
        traceback.print_exception(type(error), error, place)
        sys.exit(1)


def main() -> None:
    """Confine this process, report the layers, run the program. `outside.py` sends the settings."""
    settings = json.loads(sys.argv[1])
    work, status = settings["work"], settings["status"]
    os.set_inheritable(status, False)
    libc.prctl(1, 9, 0, 0, 0)  # die with the parent
    with open(settings["program"], "rb") as file:
        program = file.read()
    layers = list(settings["layers"])
    if "bwrap" in layers:
        layers.append("tmpfs")
    else:
        layers += enter_namespaces(work, settings["disk"])
    writable = "tmpfs" in layers
    if writable:
        os.chdir(work)
        with open(os.path.join(work, "program.py"), "wb") as file:
            file.write(program)
    limit_resources(settings["seconds"], settings["memory"], settings["disk"])
    sys.argv = [""]
    target = os.path.join(work, "program.py") if writable else settings["program"]
    if restrict_files(settings["readable"], work, writable):
        layers.append("landlock")
    drop_privileges()
    if filter_calls():
        layers.append("seccomp")
    safe = "seccomp" in layers and bool({"landlock", "bwrap"} & set(layers))
    os.write(status, json.dumps({"layers": layers, "safe": safe}).encode() + b"\n")
    os.close(status)
    if safe:
        run(target)


if __name__ == "__main__":
    main()
