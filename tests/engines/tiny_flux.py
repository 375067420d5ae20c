"""FLUX.1 from configurations, with random weights and a few thousand parameters: nothing is downloaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

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


def make_klein(folder: Path, *, width: int = 32) -> Path:
    """Write the folder of a FLUX.2-klein with random weights, and return it.

    Args:
        folder: to write.
        width: numbers of a word of its prompt.
    """
    from diffusers import (
        AutoencoderKLFlux2,
        FlowMatchEulerDiscreteScheduler,
        Flux2KleinPipeline,
        Flux2Transformer2DModel,
    )

    torch.manual_seed(3)
    transformer = Flux2Transformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=width, timestep_guidance_channels=32, axes_dims_rope=[4, 4, 4, 4], guidance_embeds=False,
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


def make_whole_klein(folder: Path) -> Path:
    """Write a FLUX.2-klein with a text encoder of as many layers as it takes the prompt from, and return the folder."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    # The numbers of three layers are one word of the prompt.
    make_klein(folder, width=48)
    torch.manual_seed(8)
    tokenizer = qwen_tokenizer()
    encoder = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=27,
            num_attention_heads=2, num_key_value_heads=2, head_dim=8,
        )
    )  # fmt: skip
    return _add_parts(folder, {"tokenizer": tokenizer, "text_encoder": encoder})


def qwen_tokenizer() -> Any:
    """Return a tokenizer of Qwen whose words are the characters of ASCII."""
    from transformers import Qwen2TokenizerFast

    letters = [chr(code) for code in range(33, 127)]
    pieces = {piece: number for number, piece in enumerate(["<|endoftext|>", *letters, "\u0120", "\u010a"])}
    return Qwen2TokenizerFast(
        vocab=pieces, merges=[], pad_token="<|endoftext|>", unk_token="<|endoftext|>",
        chat_template="{% for each in messages %}{{ each.content }}{% endfor %}",
    )  # fmt: skip


def make_embeddings(path: Path) -> Path:
    """Write an encoded prompt for `make_flux`, and return the file."""
    torch.manual_seed(1)
    save_file({"prompt_embeds": torch.randn(1, 4, 32), "pooled_prompt_embeds": torch.randn(1, 32)}, path)
    return path


def make_gguf(
    folder: Path,
    path: Path,
    kind: str = "Q8_0",
    *,
    network: str = "FluxTransformer2DModel",
    without: str = "",
) -> Path:
    """Write the transformer of a pipeline as GGUF, quantized, without one tensor if asked to, and return the file."""
    import diffusers
    import gguf

    state = getattr(diffusers, network).from_pretrained(folder, subfolder="transformer").state_dict()
    state.pop(without, None)
    writer = gguf.GGUFWriter(path, "flux")
    chosen = gguf.GGMLQuantizationType[kind]
    for name, tensor in state.items():
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


def add_text_encoders(folder: Path) -> Path:
    """Add tiny text encoders of one layer, CLIP and T5, to the folder of a pipeline, and return the folder."""
    from transformers import (
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTokenizer,
        T5Config,
        T5EncoderModel,
        T5TokenizerFast,
    )

    torch.manual_seed(4)
    letters = [chr(code) for code in range(33, 127)]
    pieces = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    clip = CLIPTokenizer(
        vocab={piece: number for number, piece in enumerate(pieces)}, merges=[], model_max_length=77
    )
    scores = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        ("\u2581", -2.0),
        *((each, -3.0) for each in letters),
    ]
    t5 = T5TokenizerFast(vocab=scores, extra_ids=0, model_max_length=512)
    parts = {
        "tokenizer": clip,
        "tokenizer_2": t5,
        "text_encoder": CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(pieces), hidden_size=32, intermediate_size=32, num_hidden_layers=1,
                num_attention_heads=2, bos_token_id=0, eos_token_id=1,
            )
        ),
        "text_encoder_2": T5EncoderModel(
            T5Config(
                vocab_size=len(scores), d_model=32, d_kv=8, num_heads=4, d_ff=64, num_layers=1,
                feed_forward_proj="gated-gelu",
            )
        ),
    }  # fmt: skip
    return _add_parts(folder, parts)


def _add_parts(folder: Path, parts: Mapping[str, Any]) -> Path:
    index = json.loads((folder / "model_index.json").read_text())
    for name, part in parts.items():
        part.save_pretrained(folder / name)
        index[name] = ["transformers", type(part).__name__]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def make_fp8(folder: Path, path: Path) -> Path:
    """Write the T5 of a pipeline as a single file in fp8, as it is handed around, and return the file."""
    state = load_file(folder / "text_encoder_2" / "model.safetensors")
    save_file({name: tensor.to(torch.float8_e4m3fn) for name, tensor in state.items()}, path)
    return path
