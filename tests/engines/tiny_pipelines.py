"""Pipelines of diffusers besides FLUX from configurations, with random weights and a few thousand parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.engines.tiny_flux import README, qwen_tokenizer

_LETTERS = [chr(code) for code in range(33, 127)]


def make_sdxl(folder: Path) -> dict[str, object]:
    """Write the folder of an SDXL, and return the options of the engine that it needs."""
    from diffusers import (
        AutoencoderKL,
        EulerDiscreteScheduler,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(5)
    tokenizer = _clip_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        bos_token_id=0, eos_token_id=1, projection_dim=32,
    )  # fmt: skip
    network = UNet2DConditionModel(
        block_out_channels=(8, 16), layers_per_block=1, sample_size=8, in_channels=4, out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4), use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=8, transformer_layers_per_block=(1, 1), norm_num_groups=2,
        projection_class_embeddings_input_dim=80, cross_attention_dim=64,
    )  # fmt: skip
    StableDiffusionXLPipeline(
        vae=_autoencoder(AutoencoderKL, latent_channels=4), text_encoder=CLIPTextModel(config), tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(config), tokenizer_2=_clip_tokenizer(), unet=network,
        scheduler=EulerDiscreteScheduler(), force_zeros_for_empty_prompt=True,
    ).save_pretrained(folder)  # fmt: skip
    return _with_licence(folder, {})


def make_z_image(folder: Path) -> dict[str, object]:
    """Write the folder of a Z-Image, and return the options of the engine that it needs."""
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        ZImagePipeline,
        ZImageTransformer2DModel,
    )
    from transformers import Qwen3Config, Qwen3Model

    torch.manual_seed(6)
    tokenizer = qwen_tokenizer()
    encoder = Qwen3Model(
        Qwen3Config(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=2, head_dim=16,
        )
    )  # fmt: skip
    transformer = ZImageTransformer2DModel(
        in_channels=4, dim=32, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=32,
        axes_dims=[4, 6, 6], axes_lens=[256, 32, 32],
    )  # fmt: skip
    for weights in transformer.parameters():
        # Some of a new one are not set.
        torch.nn.init.normal_(weights, std=0.05)
    ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), vae=_autoencoder(AutoencoderKL, latent_channels=4),
        text_encoder=encoder, tokenizer=tokenizer, transformer=transformer,
    ).save_pretrained(folder)  # fmt: skip
    return _with_licence(folder, {"guidance": 0.0})


def make_qwen_image(folder: Path) -> dict[str, object]:
    """Write the folder of a Qwen-Image without text encoder, and return the options of the engine that it needs."""
    from diffusers import (
        AutoencoderKLQwenImage,
        FlowMatchEulerDiscreteScheduler,
        QwenImagePipeline,
        QwenImageTransformer2DModel,
    )

    torch.manual_seed(7)
    QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=AutoencoderKLQwenImage(
            base_dim=8, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.0] * 4, latents_std=[1.0] * 4
        ),
        text_encoder=None, tokenizer=None,
        transformer=QwenImageTransformer2DModel(
            in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=32, axes_dims_rope=(4, 4, 8),
        ),
    ).save_pretrained(folder)  # fmt: skip
    prompt = folder.with_suffix(".safetensors")
    save_file(
        {"prompt_embeds": torch.randn(1, 4, 32), "prompt_embeds_mask": torch.ones(1, 4, dtype=torch.long)},
        prompt,
    )
    return _with_licence(folder, {"embeddings": prompt})


def _with_licence(folder: Path, more: dict[str, object]) -> dict[str, object]:
    (folder / "README.md").write_text(README.format(licence="apache-2.0"))
    return {"pipeline": folder, "embeddings": None, **more}


def _autoencoder(kind: Any, latent_channels: int) -> Any:
    return kind(
        in_channels=3, out_channels=3, latent_channels=latent_channels, block_out_channels=[4, 4, 4, 4],
        norm_num_groups=2, down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
        layers_per_block=1, shift_factor=0.0, scaling_factor=0.3,
    )  # fmt: skip


def _clip_tokenizer() -> Any:
    from transformers import CLIPTokenizer

    pieces = ["<|startoftext|>", "<|endoftext|>", *_LETTERS, *(f"{letter}</w>" for letter in _LETTERS)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)
