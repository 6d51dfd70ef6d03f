"""`plan --cluster`: machines proposed from the table of GPUs and the memory of the chosen models."""

import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from harness.cli.main import app
from harness.cluster.file import inspect, read_cluster, read_prices
from harness.cluster.gpus import FILE, as_of, gpu_machines, listed_prices
from harness.core.errors import InputError
from harness.pipeline.forecast import forecast, planned
from harness.pipeline.machine_choice import choices, machine_lines

CLUSTERS = Path(__file__).resolve().parents[3] / "clusters"
CLOUDS = ["aws", "gcp", "azure"]
NAMES = {"aws": "InstanceType", "gcp": "machineType", "azure": "vmSize"}


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)


def of(models, **options):
    usual = {"tasks": ("prom/prom_300_tata",), "methods": ("lora",)}
    return forecast(planned({**usual, "models": models, **options}))


def lines(name, models, **options):
    file = read_cluster(CLUSTERS / f"{name}.yaml", filled_in=False)
    return "\n".join(machine_lines(of(models, **options), file))


@pytest.mark.parametrize("name", CLOUDS)
def test_the_files_list_the_machines_of_the_table(name):
    text = (CLUSTERS / f"{name}.yaml").read_text()
    listed = [line for line in text.splitlines() if re.match(r"#   \S+ +\d x ", line)]
    for line, machine in zip(listed, gpu_machines(name), strict=True):
        assert line.split()[1] == machine.name and machine.text in line and machine.resources in line
    (used,) = {kind.instance for kind in read_cluster(CLUSTERS / f"{name}.yaml", filled_in=False).kinds[1:]}
    assert used in {machine.name for machine in gpu_machines(name)}
    assert f"as `{NAMES[name]}` with" in text


def test_the_table_has_each_kind_of_gpu_and_no_other_price_than_the_list():
    kinds = {machine.gpu for name in CLOUDS for machine in gpu_machines(name)}
    assert {"T4", "A10G", "L4", "L40S", "A100-40GB", "A100-80GB", "H100"} <= kinds
    assert {one.gpu for name in CLOUDS for one in gpu_machines(name) if not one.bf16} == {"T4"}
    assert all(any(one.gpus >= 4 for one in gpu_machines(name)) for name in CLOUDS)
    mine = yaml.safe_load((CLUSTERS / "prices.yaml").read_text())["dollars_per_hour"]
    assert {name: mine[name] for name in mine.keys() & listed_prices()} == pytest.approx(
        {name: listed_prices()[name] for name in mine.keys() & listed_prices()}
    )
    assert read_prices()["p5.48xlarge spot"] == listed_prices()["p5.48xlarge"] and re.match(
        r"20\d\d-\d\d", as_of()
    )


def test_a_small_model_takes_a_small_machine_and_a_large_one_what_holds_it():
    small = choices(of(("opt-125m",)), "aws", 8)
    assert all(row.trials >= 1 for row in small) and small[0].trials > 10
    assert {row.machine.gpu for row in small if row.gib == max(each.gib for each in small)} == {
        "T4"
    }  # in fp32
    large = {row.machine.name: row for row in choices(of(("nt-2.5b-1000g",), methods=("fmft",)), "aws", 8)}
    assert large["p5.4xlarge"].trials == 1 and large["g6e.2xlarge"].trials == large["g6.2xlarge"].trials == 0
    four = choices(of(("nt-2.5b-1000g",), frozen="4bit"), "aws", 8)
    plain = choices(of(("nt-2.5b-1000g",)), "aws", 8)
    assert min(row.gib for row in four) < min(row.gib for row in plain)


def test_the_number_follows_the_time_that_there_is():
    work = {"num_samples": 512, "epochs": 50}
    rows = [choices(of(("nt-2.5b-1000g",), time_budget=time, **work), "aws", 8)[0] for time in ("1h", "100h")]
    assert rows[0].machines > rows[1].machines == 1 and rows[0].machines <= 8
    assert rows[0].cost == pytest.approx(rows[1].cost)


@pytest.mark.parametrize("name", CLOUDS)
def test_the_proposal_can_be_written_into_the_file(name, tmp_path):
    text = lines(name, ("nt-2.5b-1000g",), methods=("lora",))
    found = re.search(rf"`{NAMES[name]}: (\S+)`.* and `resources: (\{{.*?\}})`; `max_workers: (\d+)`", text)
    config = yaml.safe_load((CLUSTERS / f"{name}.yaml").read_text())
    config["max_workers"] = int(found[3])
    for kind, row in config["available_node_types"].items():
        if kind != "head":
            node = row["node_config"]
            node = node["azure_arm_parameters"] if name == "azure" else node
            node[NAMES[name]] = found[1]
            row["resources"] = yaml.safe_load(found[2])
            row["max_workers"] = int(found[3])
    file = tmp_path / f"{name}.yaml"
    file.write_text(yaml.safe_dump(config))
    read, problems = inspect(file, filled_in=False)
    assert problems == [] and read.unpriced() == [] and read.ceiling() > 0


def test_what_a_t4_trains_in_and_what_goes_over_the_network():
    text = lines("azure", ("opt-125m",))
    assert "T4 has no bf16: backbones are trained in fp32 there" in text
    assert "fp32, up to" in next(line for line in text.splitlines() if "NC8as_T4" in line)
    text = lines("aws", ("nt-2.5b-1000g",), workers_per_trial=4)
    assert (
        "spreads a trial over 4 machines of 1 GPU: at each step 47.2 MB of gradients go over plain TCP"
        in text
    )
    assert "--workers-per-trial" not in lines("aws", ("nt-2.5b-1000g",))
    assert "holds a trial" not in text and "GPU memory: about" in lines("on-premises", ("opt-125m",))


def test_a_file_whose_number_of_gpus_is_not_its_machines(tmp_path):
    config = yaml.safe_load((CLUSTERS / "aws.yaml").read_text())
    config["available_node_types"]["gpu-spot"]["node_config"]["InstanceType"] = "g6.12xlarge"
    file = tmp_path / "aws.yaml"
    file.write_text(yaml.safe_dump(config))
    (problem,) = inspect(file)[1]
    assert "gpu-spot.resources` must have GPU: 4, as g6.12xlarge has (4 x L4, 24 GB), but has 1" in problem


def test_the_command_says_it_and_goes_on_without(tmp_path):
    options = ["plan", "--no-measure", "--tasks", "prom/prom_300_tata", "--models", "opt-125m"]
    ended = CliRunner().invoke(app, [*options, "--cluster", str(CLUSTERS / "aws.yaml")])
    assert ended.exit_code == 0 and "Proposal, the cheapest: 1 x " in ended.output, ended.output
    assert "Proposal" not in CliRunner().invoke(app, options).output


def test_a_row_that_is_no_machine_is_refused(tmp_path):
    (tmp_path / "g.yaml").write_text(
        "gpus: {}\nmachines: {aws: {x: {gpu: Z9, gpus: 1, cpus: 1, price: 1}}}\n"
    )
    with pytest.raises(InputError, match=r"x must have gpu, gpus, cpus and price"):
        gpu_machines("aws", tmp_path / "g.yaml")
    assert gpu_machines("aws", tmp_path / "none.yaml") == () and FILE.is_file()
