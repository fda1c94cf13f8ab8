import pytest

from dereason_utils import progress


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def lines(capsys):
    return capsys.readouterr().out.splitlines()


def test_a_line_reads_in_a_log_file(capsys):
    clock = Clock()
    bar = progress.Bar(24, "04_grpo dereason seed 0", clock=clock)
    clock.now = 190.0
    bar.update(6, "reward 0.21")
    expected = "04_grpo dereason seed 0 [#####---------------] 6/24  reward 0.21  3m10s gone, 9m left"
    out = capsys.readouterr().out
    assert out == expected + "\n"
    assert "\r" not in out


def test_fast_work_prints_about_twenty_lines_and_the_last_one(capsys):
    clock = Clock()
    bar = progress.Bar(1000, "x", clock=clock)
    for done in range(1, 1001):
        clock.now += 0.2
        bar.update(done)
    printed = lines(capsys)
    assert 15 <= len(printed) <= 21
    assert "1000/1000" in printed[-1]
    assert "left" not in printed[-1]


def test_slow_work_prints_at_least_every_half_minute(capsys):
    clock = Clock()
    bar = progress.Bar(1000, "x", clock=clock)
    for done in range(1, 11):
        clock.now += 34
        bar.update(done)
    assert len(lines(capsys)) == 10


def test_quick_work_prints_only_its_end(capsys):
    bar = progress.Bar(50, "x", clock=Clock())
    for done in range(1, 51):
        bar.update(done)
    assert len(lines(capsys)) == 1


def test_a_resumed_run_estimates_from_its_own_speed(capsys):
    clock = Clock()
    bar = progress.Bar(20, "x", start=10, clock=clock)
    clock.now = 100.0
    bar.update(15)  # 5 units in 100 s
    assert lines(capsys) == ["x [###############-----] 15/20  1m40s gone, 1m40s left"]


def test_track_hands_on_every_item(capsys):
    assert list(progress.track([3, 1, 2], "x")) == [3, 1, 2]
    assert "3/3" in lines(capsys)[-1]
    assert list(progress.track([], "x")) == []
    assert list(progress.track(iter("ab"), "x", total=2)) == ["a", "b"]
    with pytest.raises(TypeError, match="total"):
        list(progress.track(iter("ab"), "x"))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (42.4, "42s"), (59.6, "1m"), (190, "3m10s"), (540, "9m"), (3599.9, "1h00m"), (3900, "1h05m")],
)
def test_duration(seconds, text):
    assert progress.duration(seconds) == text
