"""Configuration trees of mlos_bench: what wins over what, and what becomes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.mlos_trees import LOCAL, MOCK, TUNABLES, optimizer, read, written
from windtunnel.config.build import make_parts
from windtunnel.config.mlos.nodes import parse
from windtunnel.errors import ConfigError


def local(**config: Any) -> dict[str, Any]:
    return {"name": "local", "class": LOCAL, "config": config}


def composite(*children: Any, **config: Any) -> dict[str, Any]:
    found = {"children": list(children)} if children else {}
    return {"name": "all", "class": "mlos_bench.environments.CompositeEnv", "config": {**found, **config}}


def described(folder: Path, environment: Any, *argv: str, **system: str) -> dict[str, Any]:
    """The description of an experiment with this environment."""
    written(folder, {"env.jsonc": environment})
    flags = ("--environment", "env.jsonc", "--experiment_id", "e", *argv)
    return dict(read(folder, *flags, system=system).document.data)


def config_of(folder: Path, environment: Any, *argv: str, **system: str) -> dict[str, Any]:
    config = described(folder, environment, *argv, **system)["environment"]["config"]
    assert isinstance(config, dict)
    return config


def child_of(folder: Path, environment: Any, *argv: str, **system: str) -> dict[str, Any]:
    """The config of the last child."""
    child = config_of(folder, environment, *argv, **system)["children"][-1]["config"]
    assert isinstance(child, dict)
    return child


# Precedence

MAIN = {
    "environment": "env.jsonc",
    "experiment_id": "from-main",
    "globals": ["a.jsonc", "b.jsonc"],
    "x": "main",
}


@pytest.mark.parametrize(
    ("files", "argv", "expected"),
    [
        ({}, [], "main"),
        ({"a.jsonc": {"x": "a"}}, [], "a"),
        ({"a.jsonc": {"x": "a"}, "b.jsonc": {"x": "b"}}, [], "b"),
        ({"b.jsonc": {"x": "b"}, "c.jsonc": {"x": "c"}}, ["--globals", "c.jsonc"], "c"),
        ({"c.jsonc": {"x": "c"}}, ["--x", "flag", "--globals", "c.jsonc"], "flag"),
        ({"c.jsonc": {"x": "c"}}, ["--globals", "c.jsonc", "--x=flag"], "flag"),
        ({}, ["--globals", '{"x": "inline"}'], "inline"),
        ({"a.jsonc": {"x": "$y"}}, ["--y", "7"], "$y"),
    ],
)
def test_flags_win_over_globals_files_which_win_over_the_main_file(
    tmp_path: Path, files: dict[str, Any], argv: list[str], expected: str
) -> None:
    written(tmp_path, {"main.jsonc": MAIN, "a.jsonc": {}, "b.jsonc": {}, **files})
    written(tmp_path, {"env.jsonc": local(required_args=["x"], run=["true"])})
    data = read(tmp_path, "--config", "main.jsonc", *argv).document.data
    assert data["globals"]["x"] == expected
    assert data["environment"]["config"]["required_args"] == ["x"]


@pytest.mark.parametrize(
    ("main", "globals_", "argv", "expected"),
    [
        ({"experiment_id": "main"}, {}, [], "main"),
        ({"experiment_id": "main"}, {"experiment_id": "globals"}, [], "globals"),
        ({}, {"experiment_id": "globals"}, ["--experiment-id", "flag"], "flag"),
        ({}, {"experiment_id": "$who-1", "who": "me"}, [], "me-1"),
        ({}, {}, [], "env"),
    ],
)
def test_where_the_id_comes_from(
    tmp_path: Path, main: Any, globals_: Any, argv: list[str], expected: str
) -> None:
    main = {"environment": "env.jsonc", "globals": "g.jsonc", **main}
    written(tmp_path, {"main.jsonc": main, "g.jsonc": globals_, "env.jsonc": MOCK})
    assert read(tmp_path, "--config", "main.jsonc", *argv).document.data["experiment"] == expected


@pytest.mark.parametrize(
    ("suggestions", "argv", "trials", "repeats"),
    [
        (20, [], 20, 1),
        (20, ["--max_suggestions", "5"], 5, 1),
        (None, ["--max-suggestions", "5"], 5, 1),
        (20, ["--trial_config_repeat_count", "3"], 60, 3),
        (20, ["--trial_config_repeat_count", "3", "--max_trials", "4"], 4, 3),
        (20, ["--max_trials", "-1"], 20, 1),
        (0, ["--max_trials", "7"], 7, 1),
    ],
)
def test_limits_hold_wherever_they_are_given(
    tmp_path: Path, suggestions: int | None, argv: list[str], trials: int, repeats: int
) -> None:
    config: dict[str, Any] = {} if suggestions is None else {"max_suggestions": suggestions}
    written(tmp_path, {"opt.jsonc": optimizer(**config)})
    data = described(tmp_path, MOCK, "--optimizer", "opt.jsonc", *argv)
    assert (data["trials"], data["repeats"]) == (trials, repeats)


def test_a_global_overrides_an_option_that_is_there_and_adds_none(tmp_path: Path) -> None:
    config = config_of(tmp_path, MOCK, "--mock_env_seed", "5", "--mock_env_range", "9")
    assert config["mock_env_seed"] == 5
    assert "mock_env_range" not in config


def test_the_current_folder_is_searched_first_and_then_those_given_in_their_order(tmp_path: Path) -> None:
    folders = {f"{name}/g.jsonc": {"x": name} for name in ("one", "two")}
    written(tmp_path, {**folders, "env.jsonc": local(required_args=["x"])})
    argv = ("--environment", "env.jsonc", "--globals", "g.jsonc", "--config_path", "two", "one")
    assert read(tmp_path, *argv).document.data["globals"] == {"x": "two"}
    written(tmp_path, {"g.jsonc": {"x": "here"}})
    assert read(tmp_path, *argv).document.data["globals"] == {"x": "here"}


# Parameters


def test_constants_names_and_what_nobody_knows(tmp_path: Path) -> None:
    constants = {
        "size": 3,
        "twice": "$size-${size}",
        "host": "db",
        "at": "$host:$port",
        "flag": True,
        "none": None,
        "many": [1, "a"],
        "cost": "$5 $$x $nobody",
        "trial": "$experiment_id/$trial_id",
    }
    config = config_of(tmp_path, local(const_args=constants), "--port", "80")
    assert config["const_args"] == {
        "size": 3,
        "twice": "$size-${size}",
        "param_host": "db",
        "at": "$param_host:$port",
        "flag": "True",
        "none": "None",
        "many": "[1, 'a']",
        "cost": "$$5 $$x $$nobody",
        "trial": "$experiment_id/$trial_id",
    }


def test_constants_around_an_environment_win_over_its_own(tmp_path: Path) -> None:
    inner = local(const_args={"a": "inner", "b": "$parent", "c": "$a"}, required_args=["d"])
    child = child_of(tmp_path, composite(inner, const_args={"a": "outer", "parent": 5, "d": 1}))
    assert child["const_args"] == {"b": "$parent", "c": "$a"}
    assert child["required_args"] == ["d", "a"]


def test_globals_win_over_all_constants(tmp_path: Path) -> None:
    data = described(
        tmp_path, composite(local(const_args={"a": "inner"}), const_args={"a": "outer"}), "--a", "global"
    )
    config = data["environment"]["config"]
    assert config["required_args"] == ["a"]
    assert config["children"][0]["config"]["required_args"] == ["a"]
    assert data["globals"] == {"a": "global"}


def test_variables_of_the_system_stay_names_so_that_no_secret_is_kept(tmp_path: Path) -> None:
    data = described(
        tmp_path, local(required_args=["key"]), "--globals", '{"key": "k-$SECRET-$MISSING"}', SECRET="s3cret"
    )
    assert data["globals"] == {"key": "k-$SECRET-$$MISSING"}
    assert "s3cret" not in str(data)


def test_a_global_that_only_a_trial_knows_is_expanded_by_the_trial(tmp_path: Path) -> None:
    data = described(
        tmp_path, local(required_args=["dir"], const_args={"out": "$dir/out"}), "--dir", "/tmp/$trial_id"
    )
    assert data["environment"]["config"]["const_args"] == {
        "out": "/tmp/$trial_id/out",
        "dir": "/tmp/$trial_id",
    }
    assert "globals" not in data


def test_what_is_required_and_not_given_is_told_with_file_and_line(tmp_path: Path) -> None:
    written(
        tmp_path,
        {"env.jsonc": '{\n"name": "e", "class": "LocalEnv",\n"config": {\n"required_args": ["where"]}}'},
    )
    tree = read(tmp_path, "--environment", "env.jsonc")
    with pytest.raises(
        ConfigError, match=r"^env.jsonc:4:\d+: environment 'e' requires 'where'; give it with --where"
    ):
        tree.load()


# Tunables


def test_only_groups_that_are_used_are_varied_and_booleans_are_what_scripts_saw(tmp_path: Path) -> None:
    data = described(tmp_path, MOCK)
    assert list(data["tunables"]) == ["web"]
    assert data["tunables"]["web"]["cost"] == 1
    alive = data["tunables"]["web"]["params"]["keep-alive"]
    assert alive == {"type": "categorical", "values": ["True", "False"], "default": "True"}


@pytest.mark.parametrize("mapped", ["web", ["web"], ["web", "cache"], []])
def test_the_map_says_which_groups_a_name_stands_for(tmp_path: Path, mapped: Any) -> None:
    environment = {**MOCK, "config": {"tunable_params": ["$server"]}}
    argv = ("--globals", str({"tunable_params_map": {"server": mapped}}))
    names = [mapped] if isinstance(mapped, str) else mapped
    assert config_of(tmp_path, environment, *argv)["tunable_params"] == names


def test_groups_that_are_not_there_are_told_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^env.jsonc:\d+:\d+: no tunable group 'wed' .* mean 'web'"):
        described(tmp_path, {**MOCK, "config": {"tunable_params": ["wed"]}})
    with pytest.raises(ConfigError, match=r"^env.jsonc:\d+:\d+: tunable_params_map has nothing for '\$wed'"):
        described(tmp_path, {**MOCK, "config": {"tunable_params": ["$wed"]}})


def test_a_group_with_two_definitions_is_refused_if_the_defaults_differ(tmp_path: Path) -> None:
    def again(**changes: Any) -> dict[str, Any]:
        workers = {**TUNABLES["web"]["params"]["workers"], **changes}
        params = {**TUNABLES["web"]["params"], "workers": workers}
        written(tmp_path, {"again.jsonc": {"web": {"cost": 1, "params": params}}})
        return {**MOCK, "include_tunables": ["tunables.jsonc", "again.jsonc"]}

    data = described(tmp_path, again(range=[1, 8]))
    assert data["tunables"]["web"]["params"]["workers"]["range"] == [1, 64]
    with pytest.raises(
        ConfigError, match=r"^again.jsonc:\d+:\d+: tunable group 'web' is defined otherwise in tun"
    ):
        described(tmp_path, again(default=9))


def test_a_wrong_tunable_is_told_in_its_own_file(tmp_path: Path) -> None:
    written(
        tmp_path,
        {
            "env.jsonc": {**MOCK, "include_tunables": ["bad.jsonc"]},
            "bad.jsonc": '{"web": {"params": {\n"x": {"type": "int",\n "range": [5, 1], "default": 3}}}}',
        },
    )
    with pytest.raises(ConfigError, match=r"^bad.jsonc:3:\d+: .*the range must rise"):
        read(tmp_path, "--environment", "env.jsonc").load()


# What is tried


def test_values_are_those_of_the_only_or_of_the_first_configuration(tmp_path: Path) -> None:
    written(tmp_path, {"opt.jsonc": optimizer(seed=9), "v.jsonc": {"workers": 8, "keep-alive": False}})
    values = ("--tunable_values", "v.jsonc", '{"workers": 9}')
    wanted = {"workers": 9, "keep-alive": "False"}
    only = described(tmp_path, MOCK, *values)
    assert (only["optimizer"], only["trials"]) == ({"name": "oneshot", "values": wanted}, 1)
    first = described(tmp_path, MOCK, *values, "--optimizer", "opt.jsonc")
    assert first["optimizer"] == {
        "name": "random",
        "seed": 9,
        "start_with_defaults": False,
        "start_with": [wanted],
    }
    with pytest.raises(ConfigError, match=r"no environment uses a tunable 'wrkers'; did you mean 'workers'"):
        described(tmp_path, MOCK, "--tunable_values", '{"wrkers": 1}')


def test_random_values_are_those_that_the_predecessor_draws_with_the_seed(tmp_path: Path) -> None:
    both = {**MOCK, "config": {"tunable_params": ["web", "cache"]}}
    data = described(tmp_path, both, "--random_init", "--random_seed", "5")
    # Found by running it.
    assert data["optimizer"]["values"] == {
        "workers": 33,
        "keep-alive": "False",
        "ratio": pytest.approx(0.795193565),
    }


DRAWN = {"start_with_defaults": False}
TWO_AXES = {"name": "llamatune", "dimensions": 2}
LLAMA = {"space_adapter_type": "LLAMATUNE", "space_adapter_config": {"num_low_dims": 2}}


@pytest.mark.parametrize(
    ("name", "config", "section"),
    [
        ("MockOptimizer", {}, {"name": "random", "seed": 42}),
        ("MockOptimizer", DRAWN, {"name": "random", "seed": 42, **DRAWN}),
        ("OneShotOptimizer", {"seed": 3}, {"name": "oneshot"}),
        ("GridSearchOptimizer", {}, {"name": "grid", "seed": 42, "points": 64}),
        ("MlosCoreOptimizer", {}, {"name": "flaml", "seed": 42}),
        ("MlosCoreOptimizer", {"optimizer_type": "RANDOM", "seed": 1}, {"name": "random", "seed": 1}),
        ("MlosCoreOptimizer", {"optimizer_type": "SMAC", "max_trials": 50}, {"name": "smac", "seed": 42}),
        ("MlosCoreOptimizer", LLAMA, {"name": "flaml", "seed": 42, "adapter": TWO_AXES}),
        (
            "ManualOptimizer",
            {"tunable_values_cycle": [{}, {"keep-alive": True}], "max_cycles": 3},
            {"name": "manual", "seed": 42, "values": [{}, {"keep-alive": "True"}], "cycles": 3},
        ),
    ],
)  # fmt: skip
def test_optimizers_by_their_names(tmp_path: Path, name: str, config: Any, section: Any) -> None:
    written(tmp_path, {"opt.jsonc": optimizer(name, optimization_targets={"t": "max"}, **config)})
    data = described(tmp_path, MOCK, "--optimizer", "opt.jsonc")
    assert data["optimizer"] == section
    assert data["objectives"] == {"t": "max"}
    assert data["trials"] == {"oneshot": 1, "manual": 6}.get(section["name"], 100)


# Scripts


def test_options_of_scripts(tmp_path: Path) -> None:
    environment = local(
        const_args={"host": "db", "x-y": 1},
        shell_env_params=["host", "x-y"],
        shell_env_params_rename={"XY": "x-y"},
        dump_params_file="p.json",
        read_results_file="r.csv",
        read_telemetry_file="t.csv",
        results_stdout_pattern=r"(?P<name>\w+)=(?P<number>\d+)",
        setup=["cd sub"],
        run=["echo 'a  b'"],
        teardown=["true"],
    )
    config = config_of(tmp_path, environment)
    assert config == {
        "tunable_params": [],
        "const_args": {"param_host": "db", "x-y": 1},
        "shell_env_params": ["x-y"],
        "shell_env_params_rename": {"XY": "x-y", "host": "param_host"},
        "dump_tunables_file": "p.json",
        "read_results_file": "r.csv",
        "read_telemetry_file": "t.csv",
        "telemetry_zone": "local",
        "results_stdout_pattern": r"(\w+)=(\d+)",
        "setup": ["(cd sub)"],
        "run": ["echo 'a  b'"],
        "teardown": ["true"],
    }
    for argv in (["--no_teardown"], ["--no-teardown", "--scheduler", "schedulers/sync_scheduler.jsonc"]):
        assert "teardown" not in config_of(tmp_path, environment, *argv)


def test_services_say_where_and_how_local_lines_run(tmp_path: Path) -> None:
    service = {"class": "mlos_bench.services.local.LocalExecService"}
    services = {**service, "config": {"temp_dir": "/tmp/$experiment_id", "abort_on_error": False}}
    written(tmp_path, {"s.jsonc": {"services": [services]}, "plain.jsonc": service})
    config = config_of(tmp_path, local(run=["false", "true"]), "--service", "s.jsonc")
    assert config["temp_dir"] == "/tmp/e"
    assert config["run"] == ["{ false\n} || :", "true"]
    assert config_of(tmp_path, local(run=["a"]), "--services", "plain.jsonc")["run"] == ["a"]


# Refused, or told


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--experimnt_id", "x"], "--experimnt_id: 'experimnt_id' is no option.* mean 'experiment_id'"),
        (["--optimiser", "x"], "mean 'optimizer'"),
        (["--max_sugestions=3"], "mean 'max_suggestions'"),
        (["--num-trial-runner-s", "3"], "mean 'num_trial_runners'"),
        (["--experimnt_id"], "--experimnt_id has no value; did you mean --experiment_id"),
        (["stray"], "no flag stands before 'stray'"),
        (["--random_seed", "x"], "invalid int value: 'x'"),
        (["--globals", "nowhere.jsonc"], "--globals: there is no file 'nowhere.jsonc' in"),
        (["--globals", "tunable.jsonc"], "did you mean 'tunables.jsonc'"),
        (["--globals", "{"], "--globals:1.* not valid JSON5"),
        (["--trial_config_repeat_count", "0"], "expected a whole number above 0"),
    ],
)
def test_flags_that_are_wrong(tmp_path: Path, argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        described(tmp_path, MOCK, *argv)


@pytest.mark.parametrize(
    ("main", "message"),
    [
        ({"enviroment": "env.jsonc"}, r"^main.jsonc:2:3: 'enviroment' .* mean 'environment'"),
        ({"environment": "env.jsonc", "tunable_value": []}, "mean 'tunable_values'"),
        ({"globals": []}, "no environment is given; name one with --environment"),
        ({"environment": 5}, r"^main.jsonc:2:3: expected a string, found 5"),
    ],
)
def test_main_files_that_are_wrong(tmp_path: Path, main: Any, message: str) -> None:
    written(tmp_path, {"main.jsonc": main, "env.jsonc": MOCK})
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, "--config", "main.jsonc")


def test_a_name_that_the_tree_uses_is_no_typing_error(tmp_path: Path) -> None:
    data = described(tmp_path, local(required_args=["experiment_ids"]), "--experiment_ids", "1")
    assert data["globals"] == {"experiment_ids": 1}


def test_a_global_that_nothing_uses_is_told(tmp_path: Path) -> None:
    written(tmp_path, {"env.jsonc": local(required_args=["colour"])})
    argv = ("--environment", "env.jsonc", "--experiment_id", "e", "--colour", "1", "--color", "2")
    noted = [str(one) for one in read(tmp_path, *argv).noted]
    assert noted == ["--color: nothing in the tree uses a global 'color'; did you mean 'colour'?"]


REFUSED = [
    (
        {"class": "mlos_bench.services.remote.azure.AzureVMService"},
        None,
        "AzureVMService: nothing here makes machines",
    ),
    ({"class": "mlos_bench.services.remote.AzureVmServic"}, None, "did you mean 'AzureVMService'"),
    (None, {"class": "mlos_bench.optimizers.MockOptimiser"}, "did you mean 'MockOptimizer'"),
    (
        None,
        optimizer("MlosCoreOptimizer", optimizer_type="SMACK"),
        "no optimizer_type 'SMACK'; did you mean 'SMAC'",
    ),
]


@pytest.mark.parametrize(("service", "engine", "message"), REFUSED)
def test_what_cannot_be_honoured_is_refused_with_its_place(
    tmp_path: Path, service: Any, engine: Any, message: str
) -> None:
    files = {"s.jsonc": service, "o.jsonc": engine, "env.jsonc": MOCK}
    written(tmp_path, {name: content for name, content in files.items() if content})
    flags = {"s.jsonc": "--services", "o.jsonc": "--optimizer"}
    argv = [word for name, flag in flags.items() if files[name] for word in (flag, name)]
    with pytest.raises(ConfigError, match=rf"^[os].jsonc:\d+:\d+: .*{message}"):
        read(tmp_path, "--environment", "env.jsonc", *argv).load()


def test_everything_that_is_refused_is_told_at_once(tmp_path: Path) -> None:
    network = {"name": "n", "class": "mlos_bench.environments.remote.NetworkEnv"}
    written(
        tmp_path,
        {
            "env.jsonc": composite(network, local(required_args=["x", "y"])),
            "db.jsonc": {"class": "x.SqlStorage", "config": {"drivername": "duckdb", "database": "d"}},
        },
    )
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, "--environment", "env.jsonc", "--storage", "db.jsonc").load()
    told = [str(one) for one in caught.value.all]
    assert [one.split(":")[0] for one in told] == ["db.jsonc", "env.jsonc", "env.jsonc", "env.jsonc"]
    assert "duckdb is not supported" in told[0]
    assert "NetworkEnv: nothing here makes networks" in told[1]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"name": "x", "class": "mlos_bench.environments.LokalEnv"}, "did you mean 'LocalEnv'"),
        ({"name": "x"}, "expected an environment, with a name, a class"),
        (composite(), "expected at least one child"),
        (local(runn=["true"]), r"unknown key 'runn'; did you mean 'run'"),
        (local(run=[1]), "expected a string, found 1"),
        (local(results_stdout_pattern="("), "not a regular expression"),
    ],
)
def test_environments_that_are_wrong(tmp_path: Path, environment: Any, message: str) -> None:
    written(tmp_path, {"env.jsonc": environment})
    with pytest.raises(ConfigError, match=rf"^env.jsonc:\d+:\d+: .*{message}"):
        make_parts(read(tmp_path, "--environment", "env.jsonc").load())


# Storage

SERVER = {"host": "h", "database": "d", "username": "u"}


@pytest.mark.parametrize(
    ("config", "argv", "url", "kept"),
    [
        ({"drivername": "sqlite", "database": "a.db"}, [], "sqlite:///a.db", "sqlite:///a.db"),
        ({"drivername": "sqlite", "database": "a.db"}, ["--database", "/b.db"], "sqlite:////b.db", "sqlite:////b.db"),
        ({"drivername": "sqlite"}, [], "sqlite:///:memory:", "sqlite:///:memory:"),
        (
            {**SERVER, "drivername": "postgresql+psycopg2", "port": 5, "password": "-"},
            ["--globals", '{"password": "$PW"}'],
            "postgresql://u:p%40s%24s@h:5/d",
            "postgresql://u:$PW@h:5/d",
        ),
        (
            {**SERVER, "drivername": "mysql+mysqlconnector", "password": "p@s$s"},
            [],
            "mysql://u:p%40s%24s@h/d",
            "mysql://u:$DB_PASSWORD@h/d",
        ),
    ],
)  # fmt: skip
def test_databases_and_their_passwords(
    tmp_path: Path, config: dict[str, Any], argv: list[str], url: str, kept: str
) -> None:
    written(
        tmp_path,
        {
            "env.jsonc": MOCK,
            "s.jsonc": {"class": "mlos_bench.storage.sql.storage.SqlStorage", "config": config},
        },
    )
    tree = read(tmp_path, "--environment", "env.jsonc", "--storage", "s.jsonc", *argv, system={"PW": "p@s$s"})
    assert tree.database.url == url
    assert tree.document.data["storage"] == kept


# Hosts


def remote(hostname: str | None = None, **config: Any) -> dict[str, Any]:
    args = {} if hostname is None else {"const_args": {"ssh_hostname": hostname}}
    return {"name": "r", "class": "mlos_bench.environments.remote.RemoteEnv", "config": {**args, **config}}


SSH = {
    "class": "mlos_bench.services.remote.ssh.SshHostService",
    "config": {"ssh_username": "me", "ssh_priv_key_path": "k"},
}
KEYS = {"user": "me", "key": "k"}


def hosted(tmp_path: Path, environment: Any, *argv: str) -> dict[str, Any]:
    written(tmp_path, {"ssh.jsonc": SSH})
    return described(tmp_path, environment, "--services", "ssh.jsonc", *argv)


def test_hosts_of_environments_become_those_of_the_experiment(tmp_path: Path) -> None:
    one = hosted(tmp_path, composite(remote("web"), remote("web", run=["true"])))
    assert one["hosts"] == [{"name": "web", "address": "web", **KEYS}]
    assert "concurrency" not in one
    two = hosted(tmp_path, composite(remote("web"), remote("db", run=["true"])), "--ssh_port", "23")
    assert two["hosts_per_trial"] == {"host1": {"labels": ["host1"]}, "host2": {"labels": ["host2"]}}
    assert [host["port"] for host in two["hosts"]] == [23, 23]
    children = two["environment"]["config"]["children"]
    assert [child["config"]["host"] for child in children] == ["$host1_host", "$host2_host"]


@pytest.mark.parametrize("name", ["HostEnv", "VMEnv", "OSEnv"])
def test_machines_are_started_and_neither_made_nor_removed(tmp_path: Path, name: str) -> None:
    environment = {"name": "m", "class": f"mlos_bench.environments.remote.{name}"}
    data = hosted(tmp_path, environment, "--ssh_hostname", "web")
    assert data["environment"] == {"class": "HostEnv", "name": "m", "config": {"tunable_params": []}}
    written(tmp_path, {"env.jsonc": environment})
    argv = ("--environment", "env.jsonc", "--services", "ssh.jsonc", "--ssh_hostname", "web")
    assert "neither made nor removed" in str(read(tmp_path, *argv).noted[0])


def test_every_runner_has_a_host_where_the_name_says_so(tmp_path: Path) -> None:
    many = hosted(tmp_path, remote("node$trial_runner_id"), "--num_trial_runners", "3")
    assert [host["name"] for host in many["hosts"]] == ["node1", "node2", "node3"]
    shared = hosted(tmp_path, remote(), "--ssh_hostname", "web", "--num_trial_runners", "3")
    assert [host["slots"] for host in shared["hosts"]] == [3]


def test_host_keys_are_verified_unless_the_tree_says_no(tmp_path: Path) -> None:
    assert "host_keys" not in hosted(tmp_path, remote("web"))["hosts"][0]
    written(tmp_path, {"env.jsonc": remote("web")})
    ssh = ("--services", "services/remote/ssh/ssh_host_service.jsonc")
    tree = read(tmp_path, "--environment", "env.jsonc", "--experiment_id", "e", *ssh)
    assert tree.document.data["hosts"] == [{"name": "web", "address": "web", "host_keys": "off"}]
    assert "not verified, as ssh_known_hosts_path: null asks" in str(tree.noted[0])


def test_nodes_know_their_places() -> None:
    node = parse('{"a": [1,\n {"b": 2}]}', "f.jsonc")
    place = node.places().find(("a", 1, "b"))
    assert (place.source, place.line) == ("f.jsonc", 2)
    assert str(node.entries["a"].items[1].error("no")) == "f.jsonc:2:2: no"
