"""What a decoder gives up before it sees a byte: memory, time, files, other processes and, on Linux, every call of
the kernel's but those for memory and its own pipe.

The standard library has no name for the last; `prctl` of the C library does it, with constants. On other
systems, and on processors that are not listed, the limits alone remain.
"""

import ctypes
import errno
import os
import platform
import resource
import signal
import struct
import sys

MEMORY_BYTES = 1_073_741_824
"""Of addresses. Measured, at 40 megapixels: JPEG 240 MB, one that lies on its side 360, in CMYK 510; PNG 240;
WebP 680. FFmpeg lies there with 140 before it has done anything.
"""
_LIMITS = (
    (resource.RLIMIT_AS, MEMORY_BYTES),
    (resource.RLIMIT_CPU, 600),
    (resource.RLIMIT_FSIZE, 0),
    (resource.RLIMIT_CORE, 0),
    # Three are open: the pipe, and the nowhere that print goes to.
    (resource.RLIMIT_NOFILE, 3),
)

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_MODE_FILTER = 2

# Of <linux/audit.h>, and the numbers of the calls that remain; `mmap` and `mprotect` without the right to execute.
# Neither `clone`, `execve`, `openat`, `socket`, `connect`, `kill` nor `ptrace`, nor what comes after today.
_MACHINES = {
    "x86_64": (
        0xC000003E,
        {"mmap": 9, "mprotect": 10},
        {
            "read": 0,
            "write": 1,
            "close": 3,
            "fstat": 5,
            "lseek": 8,
            "munmap": 11,
            "brk": 12,
            "rt_sigaction": 13,
            "rt_sigprocmask": 14,
            "rt_sigreturn": 15,
            "sched_yield": 24,
            "mremap": 25,
            "madvise": 28,
            "nanosleep": 35,
            "setitimer": 38,
            "getpid": 39,
            "sendto": 44,
            "recvfrom": 45,
            "exit": 60,
            "getcwd": 79,
            "gettimeofday": 96,
            "getrusage": 98,
            "sigaltstack": 131,
            "gettid": 186,
            "futex": 202,
            "sched_getaffinity": 204,
            "restart_syscall": 219,
            "clock_gettime": 228,
            "clock_nanosleep": 230,
            "exit_group": 231,
            "set_robust_list": 273,
            "getrandom": 318,
        },
    ),
    "aarch64": (
        0xC00000B7,
        {"mmap": 222, "mprotect": 226},
        {
            "getcwd": 17,
            "close": 57,
            "lseek": 62,
            "read": 63,
            "write": 64,
            "fstat": 80,
            "exit": 93,
            "exit_group": 94,
            "futex": 98,
            "set_robust_list": 99,
            "nanosleep": 101,
            "setitimer": 103,
            "clock_gettime": 113,
            "clock_nanosleep": 115,
            "sched_getaffinity": 123,
            "sched_yield": 124,
            "restart_syscall": 128,
            "sigaltstack": 132,
            "rt_sigaction": 134,
            "rt_sigprocmask": 135,
            "rt_sigreturn": 139,
            "getrusage": 165,
            "gettimeofday": 169,
            "getpid": 172,
            "gettid": 178,
            "sendto": 206,
            "recvfrom": 207,
            "brk": 214,
            "munmap": 215,
            "mremap": 216,
            "madvise": 233,
            "getrandom": 278,
        },
    ),
}

# Of <linux/filter.h>, <linux/seccomp.h> and <sys/mman.h>.
_LOAD_WORD = 0x20
_JUMP_IF_EQUAL = 0x15
_JUMP_IF_BITS = 0x45
_RETURN = 0x06
_ALLOW = 0x7FFF0000
_REFUSE = 0x00050000 | errno.ENOSYS
_KILL = 0x80000000
_AT_NUMBER, _AT_MACHINE, _AT_THIRD_ARGUMENT = 0, 4, 32
_PROT_EXEC = 4


def die_with(parent: int) -> None:
    """End at once when the process `parent`, which started this one, does."""
    if sys.platform == "linux":
        _control(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


def lock_in(niceness: int) -> bool:
    """Give it all up; whatever is still to be imported must be by now. False: not all of it could be given up."""
    os.chdir("/")
    os.nice(niceness)
    _be_the_first_to_go()
    failed = [number for number, value in _LIMITS if not _limit(number, value)]
    if sys.platform != "linux":
        return False
    # Nobody of the same account looks into its memory: what it decodes is somebody's.
    _control(_PR_SET_DUMPABLE, 0)
    return not failed and _control(_PR_SET_NO_NEW_PRIVS, 1) and _filter_calls()


def _limit(number: int, value: int) -> bool:
    try:
        resource.setrlimit(number, (value, value))
    except (OSError, ValueError):
        return False
    return True


def _be_the_first_to_go() -> None:
    """Where memory runs out, the kernel takes a decoder rather than the server."""
    try:
        with open("/proc/self/oom_score_adj", "w") as score:  # noqa: PTH123 - no file
            score.write("1000")
    except OSError:
        return


def _filter_calls() -> bool:
    if platform.machine() not in _MACHINES:
        return False
    program = _write_filter(*_MACHINES[platform.machine()])
    lines = ctypes.create_string_buffer(program, len(program))
    count = len(program) // 8
    fprog = struct.pack("@HxxxxxxQ", count, ctypes.addressof(lines))
    return _control(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.create_string_buffer(fprog))


def _write_filter(machine: int, without_code: dict[str, int], calls: dict[str, int]) -> bytes:
    """A program for the kernel's filter: to each line its code, where to go on if so, if not, and a value."""
    numbers = [*without_code.values(), *calls.values()]
    lines = [
        (_LOAD_WORD, 0, 0, _AT_MACHINE),
        (_JUMP_IF_EQUAL, 1, 0, machine),
        (_RETURN, 0, 0, _KILL),
        (_LOAD_WORD, 0, 0, _AT_NUMBER),
    ]
    for at, number in enumerate(numbers):
        left = len(numbers) - at - 1
        # Behind the last comparison: refuse, look at the protection, allow.
        target = left + 1 if at < len(without_code) else left + 4
        lines.append((_JUMP_IF_EQUAL, target, 0, number))
    lines += [
        (_RETURN, 0, 0, _REFUSE),
        (_LOAD_WORD, 0, 0, _AT_THIRD_ARGUMENT),
        (_JUMP_IF_BITS, 0, 1, _PROT_EXEC),
        (_RETURN, 0, 0, _REFUSE),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


def _control(option: int, *arguments: object) -> bool:
    padded = (*arguments, 0, 0, 0, 0)[:4]
    return ctypes.CDLL(None).prctl(option, *padded) == 0
