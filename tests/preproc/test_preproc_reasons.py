"""preproc/report/reasons.py: the same of many scans is one reason."""

from bjepa.preproc.report.reasons import Reason, Reasons, reason_of


def test_paths_and_numbers_do_not_make_another_reason() -> None:
    one = "/data/sub-01/func/a.nii.gz has 12 frames of 0.8 s"
    other = "/elsewhere/b.nii.gz has 7 frames of 2 s"
    assert reason_of(one) == reason_of(other) == "… has # frames of # s"
    assert reason_of(one) != reason_of("/data/a.nii.gz has 12 regions of 0.8 s")


def test_scans_are_counted_not_messages() -> None:
    reasons = Reasons()
    for scan_id, messages in (
        ("a", ["few: 3"]),
        ("b", ["mask lacks", "few: 5", "few: 6"]),
        ("c", []),
        ("d", ["few: 9"]),
    ):
        reasons.add(scan_id, messages)
    assert reasons.most_common() == [Reason("a: few: 3", 3), Reason("b: mask lacks", 1)]
