"""FLUX.1 from configurations, with random weights and a few thousand parameters: nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

README = "---\nlicense: {licence}\n---\n# Tiny\n"


def make_flux(folder: Path, licence: str = "apache-2.0") -> Path:
    """Write the folder of a pipeline as diffusers does, and return it."""
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        FluxImg2ImgPipeline,
        FluxTransformer2DModel,
    )

    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=[4, 4, 8],
    )  # fmt: skip
    autoencoder = AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=1, block_out_channels=[4, 4, 4, 4], norm_num_groups=2,
        down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4, layers_per_block=1,
        use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.1, scaling_factor=0.3,
    )  # fmt: skip
    pipeline = FluxImg2ImgPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), vae=autoencoder, text_encoder=None, tokenizer=None,
        text_encoder_2=None, tokenizer_2=None, transformer=transformer,
    )  # fmt: skip
    pipeline.save_pretrained(folder)
    (folder / "README.md").write_text(README.format(licence=licence))
    return folder


def make_controlnet(folder: Path, licence: str = "apache-2.0") -> Path:
    """Write the folder of a ControlNet for `make_flux`, and return it. All of its weights are random."""
    from diffusers import FluxControlNetModel

    torch.manual_seed(2)
    network = FluxControlNetModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=[4, 4, 8],
    )  # fmt: skip
    for weights in network.parameters():
        # Those of a new one are zero where it would change something.
        torch.nn.init.normal_(weights, std=0.2)
    network.save_pretrained(folder)
    (folder / "README.md").write_text(README.format(licence=licence))
    return folder


def make_klein(folder: Path) -> Path:
    """Write the folder of a FLUX.2-klein with random weights, and return it. Its prompt is 4 x 32 numbers."""
    from diffusers import (
        AutoencoderKLFlux2,
        FlowMatchEulerDiscreteScheduler,
        Flux2KleinPipeline,
        Flux2Transformer2DModel,
    )

    torch.manual_seed(3)
    transformer = Flux2Transformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, timestep_guidance_channels=32, axes_dims_rope=[4, 4, 4, 4], guidance_embeds=False,
    )  # fmt: skip
    autoencoder = AutoencoderKLFlux2(
        in_channels=3, out_channels=3, latent_channels=1, block_out_channels=[4, 4, 4, 4], norm_num_groups=2,
        down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4, layers_per_block=1,
        use_quant_conv=False, use_post_quant_conv=False,
    )  # fmt: skip
    pipeline = Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), vae=autoencoder, text_encoder=None,
        tokenizer=None, transformer=transformer, is_distilled=True,
    )  # fmt: skip
    pipeline.save_pretrained(folder)
    (folder / "README.md").write_text(README.format(licence="apache-2.0"))
    return folder


def make_embeddings(path: Path) -> Path:
    """Write an encoded prompt for `make_flux`, and return the file."""
    torch.manual_seed(1)
    save_file({"prompt_embeds": torch.randn(1, 4, 32), "pooled_prompt_embeds": torch.randn(1, 32)}, path)
    return path


def make_gguf(folder: Path, path: Path, kind: str = "Q8_0") -> Path:
    """Write the transformer of a pipeline as GGUF, quantized, and return the file."""
    import gguf
    from diffusers import FluxTransformer2DModel

    network = FluxTransformer2DModel.from_pretrained(folder, subfolder="transformer")
    writer = gguf.GGUFWriter(path, "flux")
    chosen = gguf.GGMLQuantizationType[kind]
    for name, tensor in network.state_dict().items():
        values = tensor.float().numpy()
        if values.ndim == 2 and values.shape[1] % 32 == 0:
            writer.add_tensor(name, gguf.quants.quantize(values, chosen), raw_dtype=chosen)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
