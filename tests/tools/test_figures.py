"""The tables of the README say what the files of the measurements say."""

from controlnet_pp.tools.figures import costs, steering


def figure(value, spread=0.01):
    return {"value": value, "low": value - spread, "high": value + spread}


def pairs(median, spread=0.01):
    return {"median": median, "quartiles": [median - spread, median + spread], "pairs": 7}


def row(iou, **more):
    return {
        "foreground_iou": figure(iou),
        "canny_f1": figure(0.5),
        "colour_error": figure(2.34),
        **more,
    }


def test_a_way_has_its_figures_with_intervals_in_the_order_of_the_readme():
    rows = {
        "scenes": 4,
        "+ guidance": row(0.9, error_removed=figure(0.25, 0.1)),
        "ControlNet": row(0.8),
    }
    times = {"ControlNet": pairs(1.0, 0.0), "+ guidance": pairs(1.2)}
    _, _, control, guided = steering(rows, times).splitlines()
    control_row = "| ControlNet | 0.800 (0.790 to 0.810) | 0.500 (0.490 to 0.510) |  | 2.3 | 1 |"
    assert control == control_row
    assert guided.startswith("| + Consistency Guidance | 0.900 (0.890 to 0.910) |")
    assert guided.endswith("| 25% (15% to 35%) | 2.3 | 1.20 (1.19 to 1.21) |")
    assert steering(rows).splitlines()[3].endswith("| 25% (15% to 35%) | 2.3 |")


def test_a_table_may_have_ways_of_its_own():
    rows = {"scenes": 4, "++": row(0.9, error_removed=figure(0.25, 0.1)), "other": row(0.1)}
    _, _, *lines = steering(rows, ways={"++": "rewarded"}).splitlines()
    assert [line.split(" | ")[0] for line in lines] == ["| rewarded"]


def test_what_is_lost_is_shown_as_a_gain_the_other_way_round():
    names = ("neutral", "cond_rows", "first_four", "reuse2", "reuse4")
    names += ("overhead_neutral", "overhead_fast")
    found = {
        "spread": {f"{name}_{size}": pairs(0.5) for name in names for size in (256, 512)},
        "adherence": {
            key: {"loss": {"f1": figure(-0.1, 0.02), "iou": figure(0.01, 0.001)}}
            for key in ("cond_rows", "reuse2", "reuse4", "fast")
        },
    }
    lines = costs(found).splitlines()
    assert "| +10.0% (+8.0% to +12.0%) | -1.0% (-1.1% to -0.9%) |" in lines[3]
    assert lines[2].endswith("| 0.50 (0.49 to 0.51) | 0.50 (0.49 to 0.51) |  |  |")
