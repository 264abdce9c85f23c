"""Weight files of a preset's architectures, seeded and random, as its users would download them.

    python -m medfocus.benchmarks.bench.random_weights base weights/base [--regions]

writes clip.safetensors, sam2.pt (upstream's own layout, video parts included), classes.txt, and
for `biomed` the folder text/ with a text encoder's configuration and vocabulary. Measurements
with them show speed and numerical error, never accuracy. Random masks hardly differ from 0, so
that no region is found and the engine answers as plain CLIP; with `--regions` they have regions,
so that a parity gate compares masks too.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from sam2.build_sam import build_sam2

from medfocus.benchmarks.baselines.upstream import SAM2_CONFIGS
from medfocus.models.clip.architecture import build_clip, clip_configuration
from medfocus.models.clip.text import class_prompt
from medfocus.models.presets import PRESETS, preset

MASK_STD, IOU_LOGIT = 3.0, 3.0  # mask logits of some ±8, predicted IoU 0.95
CLASSES = ("glioma", "meningioma", "pituitary tumour", "no tumour")


def write(name: str, folder: Path, regions: bool = False, seed: int = 0) -> None:
    """Write the files of a preset into a folder, which is created if missing.

    Args:
        name: of the preset.
        folder: target.
        regions: SAM2's masks have regions, and its predicted IoU is high enough for them to pass.
        seed: of all weights.
    """
    chosen = preset(name)
    folder.mkdir(parents=True, exist_ok=True)
    text_folder = None
    if "hf_model_name" in clip_configuration(chosen.clip)["text_cfg"]:
        text_folder = folder / "text"
        _write_text_encoder(text_folder)
    torch.manual_seed(seed)
    clip = build_clip(chosen.clip, text_folder).state_dict()
    save_file({key: value.contiguous() for key, value in clip.items()}, folder / "clip.safetensors")
    sam2 = build_sam2(SAM2_CONFIGS[chosen.sam2], device="cpu")
    if regions:
        give_regions(sam2.sam_mask_decoder)
    torch.save({"model": sam2.state_dict()}, folder / "sam2.pt")
    (folder / "classes.txt").write_text("\n".join(CLASSES) + "\n", encoding="utf-8")


def give_regions(decoder: Any) -> None:
    """Random weights of SAM2's mask decoder with which masks have regions, and pass selection."""
    for network in decoder.output_hypernetworks_mlps:
        torch.nn.init.normal_(network.layers[-1].weight, std=MASK_STD)
    torch.nn.init.constant_(decoder.iou_prediction_head.layers[-1].bias, IOU_LOGIT)


def _write_text_encoder(folder: Path) -> None:
    """A BERT of the usual size; its vocabulary knows the prompts' words, the rest is filler."""
    from transformers import BertConfig

    folder.mkdir(exist_ok=True)
    configuration = BertConfig()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    known = sorted(set(f"{class_prompt('')} {' '.join(CLASSES)}".lower().split()))
    words = [*special, *known]
    words += [f"[unused{place}]" for place in range(len(words), configuration.vocab_size)]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    configuration.save_pretrained(folder)


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(prog="python -m medfocus.benchmarks.bench.random_weights")
    names = [name for name, chosen in PRESETS.items() if chosen.sam2 in SAM2_CONFIGS]
    parser.add_argument("preset", choices=names)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--regions", action="store_true", help="masks that pass the selection")
    parser.add_argument("--seed", type=int, default=0, help="of all weights (0)")
    options = parser.parse_args()
    write(options.preset, options.folder, options.regions, options.seed)


if __name__ == "__main__":
    main()
