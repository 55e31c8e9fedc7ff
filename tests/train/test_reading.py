"""Settings from files and flags, and what is refused of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from controlnet_pp.train.options import SETTINGS, Options, settings_of
from controlnet_pp.train.reading import read_options

# Of these the default does not tell the type.
NO_DEFAULT = {
    **dict.fromkeys(("unet", "begin", "conditions", "decoder", "out", "cache", "annotators"), Path),
    "reward_weight": float,
}


def read(tmp_path, text="", *flags, command="train"):
    file = tmp_path / "set.toml"
    file.write_text(text, encoding="utf-8")
    return read_options(command, [str(file), *flags], "")


def test_flags_come_before_the_file_and_the_file_before_the_defaults(tmp_path):
    options = read(tmp_path, "steps = 7\nbatch = 3", "--steps", "9")
    assert (options.steps, options.batch, options.resolution) == (9, 3, Options.resolution)
    assert read_options("train", [], "") == Options()


def test_every_setting_can_be_given_as_a_flag_and_in_a_file(tmp_path):
    """Another value than the default for each, which arrives with its type."""
    values = {
        bool: (True, "true", None),
        int: (7, "7", "7"),
        float: (0.25, "0.25", "0.25"),
        str: ("x", '"x"', "x"),
        Path: (Path("a/b"), '"a/b"', "a/b"),
        tuple: ((1.0, 2.5), "[1, 2.5]", "1,2.5"),
    }
    for name, setting in SETTINGS.items():
        kind = NO_DEFAULT.get(name) or type(getattr(Options, name))
        value, toml, flag = values[kind]
        if setting.choices:
            value = setting.choices[-1]
            toml, flag = f'"{value}"', value
        if name == "score":
            value, toml = False, "false"
        dashed = f"--{name.replace('_', '-')}"
        flags = (
            [dashed if value is not False else f"--no-{name}"]
            if flag is None
            else [f"{dashed}={flag}"]
        )
        command = setting.command or "train"
        by_flag = getattr(read_options(command, flags, ""), name)
        by_file = getattr(read(tmp_path, f"{name} = {toml}", command=command), name)
        assert by_flag == by_file == value, name
        assert type(by_flag) is type(by_file) is type(value), name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steps = 5\nlearning_rat = 1e-4", r"line 2: .*'learning_rat'; 'learning_rate' is meant"),
        ("[data]\nbatch = 4", r"line 1: there is no table 'data'|line 1: data is"),
        ("\n[optimizer2]\nx = 1", r"line 2: there is no table 'optimizer2'; 'optimizer' is"),
        ("xyzzy = 1", r"line 1: .*'xyzzy'; `python cli.py train --help` lists all"),
        ("recipe = 'published'", "there is no setting 'recipe'"),
        ("steps = 2.5", r"line 1: steps is 2.5, expected a whole number"),
        ("steps = true", "steps is True, expected a whole number"),
        ("learning_rate = '1e-4'", r"learning_rate is '1e-4', expected a number"),
        ("mirror = 1", "mirror is 1, expected true or false"),
        ("data = 3", "data is 3, expected a text in quotes"),
        ("cache = false", "cache is False, expected a path in quotes"),
        ("thresholds = [1, 'a']", "expected a list of numbers"),
        ("steps = ", "can't be read as TOML"),
        ("mode = 'sd locked'", "mode is 'sd locked', expected one of middle only, SD locked"),
        ("held_out = -1", "held_out is -1"),
        ("validate_every = 0", "validate_every is 0"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(text, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        read(tmp_path, text)


def test_the_line_is_that_of_the_setting_and_not_of_a_word_like_it(tmp_path):
    text = "# batsch is wrong\ndata = 'batsch = 1'\n\n  batsch = 2"
    with pytest.raises(ValueError, match=r"set\.toml, line 4: .*'batch' is meant"):
        read(tmp_path, text)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.toml can't be read"):
        read_options("train", [str(tmp_path / "none.toml")], "")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--learning-rat", "3"], "no flag --learning-rat; --learning-rate is meant"),
        (["--learning-rat=3"], "no flag --learning-rat=3; --learning-rate is meant"),
        (["--step", "3"], "--steps is meant"),  # no abbreviations, which may mean another one later
        (["--most-t", "3"], "no flag --most-t"),
    ],
)
def test_flags_that_do_not_exist_are_refused_with_what_is_near(flags, said):
    with pytest.raises(ValueError, match=said):
        read_options("train", flags, "")


def test_reward_has_all_settings_and_train_has_no_reward():
    assert set(settings_of("reward")) == set(SETTINGS)
    assert not [name for name in settings_of("train") if SETTINGS[name].section == "reward"]


def test_what_others_may_read_holds_no_places():
    options = Options(
        data="/srv/me/circles", begin=Path("/srv/me/net.safetensors"), model="/srv/sd15"
    )
    public = options.public("train")
    assert "/" not in str([value for value in public.values() if isinstance(value, str)])
    assert (public["data"], public["begin"], public["model"]) == (
        "circles",
        "net.safetensors",
        "sd15",
    )
    assert set(public) == set(settings_of("train"))


def test_what_decides_what_is_learnt_is_compared_when_a_training_goes_on():
    content = Options(thresholds=(1.0, 2.0), begin=Path("/a/b")).content("train")
    assert content["thresholds"] == [1.0, 2.0]
    assert content["begin"] == "/a/b"
    for name in ("data", "condition", "batch", "timestep_weights", "held_out"):
        assert name in content
    for name in ("out", "device", "plan", "resume", "validate_every", "steps"):
        assert name not in content
