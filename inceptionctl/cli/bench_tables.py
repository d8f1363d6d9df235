"""How the results of `inceptionctl bench` are printed."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from inceptionctl import console
from inceptionctl.words import counted

if TYPE_CHECKING:
    from inceptionctl.bench.machine_facts import Facts

MAX_OPERATORS = 10

_WORDS = {
    "read": "read",
    "decode": "+ decode the crop",
    "resize": "+ crop and resize",
    "colour": "+ flip, colour, normalise",
    "all": "all, with order and draws",
    "Pillow loader": "torch DataLoader with Pillow",
    "libjpeg-turbo": "libjpeg-turbo alone, whole images",
}


def print_result(result: console.JsonObject, as_json: bool) -> None:
    """The figures of a measurement, and what they were measured on."""
    from inceptionctl.bench.figures import shown
    from inceptionctl.bench.machine_facts import in_words

    if as_json:
        console.print_json(result)
        return
    rows = [
        (
            _WORDS.get(figure["name"], figure["name"]),
            figure["unit"],
            shown(figure["median"]),
            f"{shown(figure['low'])} to {shown(figure['high'])}",
            figure["n"],
        )
        for figure in result["figures"]
    ]
    columns = ("what", "unit", "median", "lowest to highest", "n")
    console.print_table(f"bench {result['bench']}", columns, rows, right=("median", "n"))
    for name, reason in result.get("left_out", {}).items():
        console.say(f"{name} is left out: {reason}")
    console.say(in_words(cast("Facts", result)))


def say_timm(result: console.JsonObject) -> None:
    """What timm's step was, where there was one, and what it does otherwise."""
    if "timm" in result:
        theirs = result["timm"]
        console.say(f"timm {theirs['version']}: train.py {theirs['flags']}")
        for difference in theirs["differences"]:
            console.say(f"- {difference}")


def say_waits(result: console.JsonObject) -> None:
    """How often the host waited for the GPU, where there was one, and at which lines."""
    if "host_waits" in result:
        found = result["host_waits"]
        console.say(f"the host waited for the GPU {found['per_step']:.3g} times a step, in {counted(found['steps'], 'step')}")
        for place, count in found["places"].items():
            console.say(f"- {count:.3g} at {place}")


def print_profile(result: console.JsonObject) -> None:
    """Where a step goes, where it was profiled, by group and by operator."""
    if "profile" not in result:
        return
    found = result["profile"]
    what = "device time" if found["of"] == "device" else "time of the loop's thread"
    for title, key, last in (
        ("where a step goes", "groups", "mostly"),
        (f"the {MAX_OPERATORS} dearest operators, without those that they call", "operators", ""),
    ):
        costs = found[key] if key == "groups" else found[key][:MAX_OPERATORS]
        rows = [
            (cost["name"], f"{1e3 * cost['seconds']:.2f}", f"{cost['share']:.1f}", f"{cost['calls']:.0f}", cost["operator"])
            for cost in costs
        ]
        columns = ("what", "ms/step", "%", "calls/step", *((last,) if last else ()))
        console.print_table(title, columns, [row[: len(columns)] for row in rows], right=columns[1:4], whole=columns[1:4])
    steps, seconds = counted(found["steps"], "step"), found["seconds_per_step"]
    console.say(f"{what} of {steps} under torch.profiler, which slows them: {1e3 * seconds:.1f} ms a step")


def print_sum_model(alpha: float, rate: float | None) -> None:
    """The model of what a sum takes."""
    if rate is None:
        console.say(
            "sums of these sizes take no longer for more bytes, so no rate can be told: take a larger --largest, or more --repeats"
        )
    else:
        console.say(f"a sum takes {1e6 * alpha:.0f} microseconds and one second for each {console.size(rate)}")


def print_lr(found: console.JsonObject, as_json: bool) -> None:
    """What a range test suggests."""
    if as_json:
        console.print_json(found)
        return
    diverged, steps = found["diverged_at"], len(found["rates"])
    rows = [
        (what, f"{rate:.3g}" if rate is not None else missing)
        for what, rate, missing in (
            ("steepest descent of the smoothed loss", found["steepest_lr"], "the loss does not fall"),
            ("a tenth of where the loss diverges", found["tenth_lr"], "it does not diverge"),
        )
    ]
    console.print_table("bench lr", ("what", "learning rate"), rows, right=("learning rate",))
    end = f"diverged at {diverged:.3g}" if diverged is not None else f"no divergence up to {found['rates'][-1]:.3g}"
    console.say(f"{steps} steps of {found['global_batch_size']} images, {found['precision']} on {found['device']}; {end}")
    rate = found["steepest_lr"] or found["tenth_lr"]
    if rate is None:
        console.say("hint: give a higher --to, or more --steps")
    else:
        console.say(f"next: inceptionctl train {found['recipe']} --set schedule.base_lr={rate:.2g}")
