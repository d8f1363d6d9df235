"""Figures of each class against numbers worked out by hand and by scikit-learn 1.9."""

import numpy as np
import pytest

from inceptionctl.cli.evaluate import _print_classes, _thresholds
from inceptionctl.evaluate.classwise import macro_average, per_class, roc_auc, thresholds

NAMES = ("a", "b", "c", "d")


def sample() -> tuple[np.ndarray, np.ndarray]:
    """Three of four classes have images; the probabilities are in steps of 0.1, so that many are tied."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 3, 60)
    counts = rng.multinomial(7, [0.25] * 4, 60)
    counts[np.arange(60), labels] += 3
    return (counts / 10).astype(np.float32), labels


def test_areas_with_ties_by_hand() -> None:
    def area(scores: list[float], own: list[int]) -> float | None:
        return roc_auc(np.array(scores, np.float32), np.array(own, bool))

    assert area([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]) == 0.75  # the example of scikit-learn's roc_auc_score
    assert area([0.2, 0.5, 0.5, 0.5, 0.9], [0, 0, 1, 1, 1]) == 5 / 6
    assert area([0.3, 0.3, 0.3], [1, 0, 1]) == 0.5
    assert area([0.3, 0.4], [1, 1]) is None and area([0.3, 0.4], [0, 0]) is None


def test_figures_are_those_of_scikit_learn() -> None:
    expected = {  # precision_recall_fscore_support(zero_division=0) and roc_auc_score on the same numbers
        "a": (0.8928571428571429, 1.0, 0.9433962264150944, 0.9834285714285714),
        "b": (0.9411764705882353, 0.9411764705882353, 0.9411764705882353, 0.9945280437756497),
        "c": (0.9333333333333333, 0.7777777777777778, 0.8484848484848485, 0.9801587301587301),
    }
    found = per_class(*sample(), NAMES)
    for name, values in expected.items():
        own = found[name]
        assert (own["precision"], own["recall"], own["f1"], own["roc_auc"]) == pytest.approx(values, abs=1e-12)


def test_a_class_without_images_has_no_figures() -> None:
    probabilities, labels = sample()
    found = per_class(probabilities, labels, NAMES)
    assert found["d"] == {"num_images": 0, **dict.fromkeys(("top1_error", "precision", "recall", "f1", "roc_auc"))}
    means = macro_average(found)
    assert means["f1"] == pytest.approx(sum(found[name]["f1"] or 0.0 for name in "abc") / 3)
    assert macro_average({"d": found["d"]})["f1"] is None


def test_a_class_that_is_never_predicted_has_a_precision_of_zero() -> None:
    found = per_class(np.array([[0.9, 0.1], [0.6, 0.4]], np.float32), np.array([0, 1]), ("a", "b"))["b"]
    assert (found["precision"], found["recall"], found["f1"], found["roc_auc"]) == (0.0, 0.0, 0.0, 1.0)


def test_thresholds_by_hand() -> None:
    second = np.array([0.1, 0.2, 0.3, 0.3, 0.6, 0.7, 0.8, 0.9], np.float32)
    own = np.array([0, 0, 1, 0, 1, 0, 1, 1])
    found = thresholds(np.stack([1 - second, second], 1), own, ("no", "yes"))
    assert found is not None and found["positive_class"] == "yes"
    # From 0.3: 4 hits, 2 false alarms, none missed. From 0.6: 3 hits, 1 false alarm, 1 missed.
    assert found["max_f1"] == pytest.approx({"threshold": 0.3, "f1": 0.8, "precision": 4 / 6, "recall": 1.0})
    assert found["equal_error"] == pytest.approx({"threshold": 0.6, "false_positive_rate": 0.25, "false_negative_rate": 0.25})
    shown = _thresholds(found)
    assert shown["maximal F1"] == "0.800, if yes is predicted from a probability of 0.3000"
    assert shown["equal error"].startswith("false positive and negative rate 25.00% and 25.00%")


def test_a_threshold_is_a_probability_that_reaches_itself() -> None:
    second = np.array([0.1, 0.7], np.float32)
    found = thresholds(np.stack([1 - second, second], 1), np.array([0, 1]), ("no", "yes"))
    assert found is not None and ((second >= found["max_f1"]["threshold"]) == [False, True]).all()


def test_there_are_thresholds_for_two_classes_with_images_only() -> None:
    two = np.array([[0.5, 0.5], [0.1, 0.9]], np.float32)
    assert thresholds(two, np.array([1, 1]), ("no", "yes")) is None
    assert thresholds(two, np.array([0, 0]), ("no", "yes")) is None
    assert thresholds(*sample(), NAMES) is None


def test_the_terminal_shows_the_worst_of_many_classes(capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"c{k:02}" for k in range(30)]
    labels = np.arange(29).repeat(2)  # c29 has no images
    probabilities = np.full((58, 30), 0.01, np.float32)
    probabilities[np.arange(58), labels] = 0.71
    probabilities[10, 5], probabilities[10, 6] = 0.01, 0.71
    _print_classes({"per_class": per_class(probabilities, labels, names)})  # type: ignore[typeddict-item]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].strip() == "The 20 of 30 classes with the lowest F1"
    assert lines[3].split()[:1] == ["c05"] and lines[4].split()[:1] == ["c06"] and len(lines) == 23
