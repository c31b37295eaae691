"""threads.py with fake /proc trees, and once with the real one."""

from __future__ import annotations

from pathlib import Path

from service.engine.host.threads import TICKS_PER_S, Helper, Threads


class Machine:
    """Two cores whose counters a test sets, with its own clock and its own value of the engine's CPU time."""

    def __init__(self, root: Path) -> None:
        self.root, self.at, self.own = root, 100.0, 10.0
        self.all, self.waited = 50.0, 1.0
        (root / "proc/self/task/7").mkdir(parents=True)
        self.write()

    def write(self) -> None:
        half = int(self.all * TICKS_PER_S / 2)
        lines = [f"cpu{n} {half} 0 0 999 5 0 0 0 0 0" for n in (0, 1)]
        stat = "\n".join(["cpu  1 2 3 4 5 6 7", *lines, "cpu2 99999 0 0 0 0 0 0 0 0 0", "ctxt 12"])
        (self.root / "proc/stat").write_text(stat)
        (self.root / "proc/self/task/7/schedstat").write_text(f"1 {int(self.waited * 1e9)} 3\n")

    def passes(self, seconds: float, *, ours: float, others: float, waited: float = 0.0) -> None:
        """Time in which the engine and others used this many cores, and the engine waited for this many."""
        self.at += seconds
        self.own += ours * seconds
        self.all += (ours + others) * seconds
        self.waited += waited * seconds
        self.write()

    def threads(self, helper: Helper | None = None) -> Threads:
        return Threads(2, helper=helper, cpus=[0, 1], root=self.root, clock=lambda: self.at, own=lambda: self.own)


class FakeHelper:
    """A fake helper process."""

    def __init__(self) -> None:
        self.is_busy, self.computed = False, 0.0

    def cpu_s(self) -> float:
        return self.computed


def test_all_threads_run_without_other_load(tmp_path: Path) -> None:
    """Without other load all threads run, however busy the engine is."""
    machine = Machine(tmp_path)
    threads = machine.threads()
    machine.passes(1, ours=2.0, others=0.0)
    assert threads.choose() == 2


def test_another_process_on_one_core(tmp_path: Path) -> None:
    """A core that another process needs is left to it, even while the engine still gets half of it; afterwards it is
    used again."""
    machine = Machine(tmp_path)
    threads = machine.threads()
    machine.passes(1, ours=1.5, others=0.5, waited=0.5)
    assert threads.choose() == 1
    machine.passes(1, ours=1.0, others=1.0)
    assert threads.choose() == 1
    machine.passes(1, ours=1.0, others=0.1)
    assert threads.choose() == 2


def test_a_little_other_load(tmp_path: Path) -> None:
    """The front and nginx use a part of a core: no reason to give up a whole one."""
    machine = Machine(tmp_path)
    threads = machine.threads()
    machine.passes(1, ours=1.6, others=0.4, waited=0.2)
    assert threads.choose() == 2


def test_a_helper_has_a_core_while_it_is_busy(tmp_path: Path) -> None:
    """It has it at once, and only as long as it is busy: its CPU time does not count as other load."""
    machine, helper = Machine(tmp_path), FakeHelper()
    threads = machine.threads(helper)
    helper.is_busy = True
    assert threads.choose() == 1
    machine.passes(1, ours=1.0, others=1.0)
    helper.computed += 1.0
    helper.is_busy = False
    assert threads.choose() == 2


def test_one_thread_always_runs(tmp_path: Path) -> None:
    """However much other load there is, one thread is left."""
    machine = Machine(tmp_path)
    threads = machine.threads()
    machine.passes(1, ours=0.5, others=1.5, waited=9.0)
    assert threads.choose() == 1


def test_the_choice_is_kept_for_half_a_second(tmp_path: Path) -> None:
    """Within PERIOD_S of the last measurement the choice stays."""
    machine = Machine(tmp_path)
    threads = machine.threads()
    machine.passes(0.4, ours=0.0, others=2.0)
    assert threads.choose() == 2
    machine.passes(0.2, ours=0.0, others=2.0)
    assert threads.choose() == 1


def test_a_machine_without_proc(tmp_path: Path) -> None:
    """Without /proc the load is unknown, and all threads run."""
    at = iter(range(100))
    threads = Threads(4, cpus=range(4), root=tmp_path, clock=lambda: float(next(at)), own=lambda: 0.0)
    assert [threads.choose() for _ in range(3)] == [4, 4, 4]


def test_malformed_counters(tmp_path: Path) -> None:
    """Missing fields, invalid numbers, or counters that jump (containers' /proc, virtual machines) give some number of
    threads, and no exception."""
    machine = Machine(tmp_path)
    threads = machine.threads()
    for stat, schedstat in (
        ("cpu0 1 2\n\ncpu1\nintr", "x y z"),
        ("cpu0 a b c d e f g\ncpu1 9999999999999999999 0 0 0 0 0 0", "1 99999999999999999999 3"),
        ("", "1"),
        ("cpu0 0 0 0 0 0 0 0\ncpu1 0 0 0 0 0 0 0", "0 0 0"),
    ):
        (tmp_path / "proc/stat").write_text(stat)
        (tmp_path / "proc/self/task/7/schedstat").write_text(schedstat)
        machine.at += 1
        assert 1 <= threads.choose() <= 2


def test_this_machine() -> None:
    """The real /proc can be read: the choice is within its bounds."""
    at = iter(range(100))
    assert 1 <= Threads(3, clock=lambda: float(next(at))).choose() <= 3
