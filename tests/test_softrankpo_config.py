"""Settings of SoftRankPO, right and wrong."""

import pytest
from rllib_fixtures import debate_config, small_config

from mpdf_rllib.algorithms.softrankpo import POLICY, SoftRankPOConfig
from mpdf_rllib.envs.deliberation_env import DeliberationEnv
from mpdf_rllib.envs.deliberation_env_runner import DeliberationEnvRunner


@pytest.mark.parametrize("dim", [8, 24])
def test_the_model_config_shapes_the_network(dim):
    config = small_config().rl_module(model_config={"dim": dim, "heads": 4})
    module = DeliberationEnvRunner(config=config).module[POLICY]
    assert module.policy.query.out_features == dim
    assert module.policy.attention.num_heads == 4


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tau", 0),
        ("tau", float("nan")),
        ("beta", -0.5),
        ("entropy_coeff", -0.1),
        ("warm_start_iterations", -1),
        ("warm_start_iterations", 1.5),  # no iteration is the one at whose start the reference would be frozen
        ("weight_decay", -1e-3),
        ("static_corpus", "no"),
        ("tau", "0.5"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=rf"{name} is {value!r}; it must be"):
        small_config().training(**{name: value}).validate()


def test_an_unknown_objective_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="objective is 'eq3'; it must be one of rank_matching, log_policy"):
        small_config().training(objective="eq3").validate()


@pytest.mark.parametrize(("name", "nearest"), [("tua", "tau"), ("entropy_coef", "entropy_coeff"), ("lrr", "lr")])
def test_trap_9_an_unknown_setting_is_refused_with_the_nearest_known_one(name, nearest):
    with pytest.raises(ValueError, match=f"{name}: unknown setting of SoftRankPOConfig; did you mean {nearest}"):
        small_config().update_from_dict({name: 1.0}).validate()


def test_fragments_of_debates_are_refused():
    with pytest.raises(ValueError, match="batch_mode is 'truncate_episodes'.*'complete_episodes'"):
        small_config().env_runners(batch_mode="truncate_episodes").validate()


def test_the_defaults_are_valid():
    SoftRankPOConfig().environment(DeliberationEnv, env_config=debate_config()).validate()
