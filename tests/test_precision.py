"""Who multiplies bf16, what becomes of latents where nobody does, and who is told."""

from __future__ import annotations

import argparse

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from vgt.commands import doctor
from vgt.core import env
from vgt.training import data
from vgt.training.distributed import native_bf16

X86 = "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu sse avx2 {}\nbugs\t\t: spectre_v1\n\nprocessor\t: 1\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd {}\nCPU part\t: 0xd40\n"


@pytest.mark.parametrize(
    ("text", "native"),
    [
        (X86.format("avx512f avx512_bf16"), True),
        (X86.format("amx_bf16 amx_tile"), True),
        (X86.format("avx512f avx512_fp16"), False),
        (X86.format(""), False),
        (ARM.format("i8mm bf16"), True),
        (ARM.format("i8mm"), False),
        ("bf16 is only a word here\n", False),
        ("", False),
    ],
)
def test_a_cpus_flags(text, native, tmp_path, monkeypatch):
    monkeypatch.setattr(env, "CPUINFO", tmp_path / "cpuinfo")
    assert not env.cpu_multiplies_bf16()  # no such file: a system that does not say
    env.CPUINFO.write_text(text)
    assert env.cpu_multiplies_bf16() is native is native_bf16("cpu")


@pytest.mark.parametrize(("capability", "native"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_gpus_from_ampere_on(capability, native, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert native_bf16("cuda:1") is native
    monkeypatch.setattr(env, "cpu_multiplies_bf16", lambda: False)
    assert native_bf16("cuda") is native and native_bf16("meta")


class Encoder(nn.Module):
    """Folds 8 x 8 pixels into one latent of 3 channels, and notes the precision in which it did so."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)) / 14)
        self.seen: list[torch.dtype] = []

    def encode(self, images):
        z = F.conv2d(images, self.weight, stride=8)
        self.seen.append(z.dtype)
        return z


@pytest.mark.parametrize("native", [True, False])
def test_latents_are_encoded_in_bf16_only_where_that_is_native(native, tmp_path, monkeypatch):
    monkeypatch.setattr(env, "cpu_multiplies_bf16", lambda: native)
    ae, dtype = Encoder(), torch.bfloat16 if native else torch.float32
    latents = data.SceneLatents(ae, "mark", 8, 32, tmp_path, batch=4).take(range(8))
    assert latents.shape == (8, 16, 3) and latents.dtype == torch.float16 and ae.seen == [dtype] * 2
    exact = ae.encode(data.to_float(data.scenes.images("train", range(8), 32))).flatten(2).mT
    error = (latents.float() - exact).abs().max() / exact.abs().max()
    assert error < 1e-3 if dtype == torch.float32 else 1e-3 < error < 2e-2
    (path,) = tmp_path.glob("latents-*/piece-*.safetensors")
    assert torch.equal(load_file(path)["latents"], latents)
    drawn = data.SceneLatents(ae, "mark", 8, 32, tmp_path / "drawn by processes", batch=4, processes=2)
    assert torch.equal(drawn.take(range(8)), latents)
    ae.seen.clear()
    monkeypatch.setattr(env, "cpu_multiplies_bf16", lambda: not native)
    again = data.SceneLatents(ae, "mark", 8, 32, tmp_path, batch=4)
    assert torch.equal(again.take(range(8)), latents) and not ae.seen
    monkeypatch.setattr(env, "cpu_multiplies_bf16", lambda: native)
    at = data.image_batches(data.DataConfig(photos=0.0), 4, 32)
    assert data.source_statistics(ae, at, 8) == data.statistics(latents)
    assert ae.seen == [dtype] * 2


@pytest.mark.parametrize("native", [True, False])
def test_the_doctor_says_so(native, monkeypatch, capsys):
    monkeypatch.setattr(env, "cpu_multiplies_bf16", lambda: native)
    doctor.run(argparse.Namespace())
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("bf16") and " cpu " in line]
    assert line.split() == ["bf16", "cpu", "yes"] if native else line.endswith("--set train.precision=fp32")
