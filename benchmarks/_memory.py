"""Peak memory of a process, told by itself."""

from pathlib import Path


def peak_rss_mb() -> int:
    """Largest resident set of this process so far, MB (`ru_maxrss` would remember its parent's)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024
